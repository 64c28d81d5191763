import hashlib
import http.server
import threading
import time
import zlib

import pytest

from compress_jax.codec import CodecError
from compress_jax.images import kodak as suite
from compress_jax.images.kodak import kodak
from tests.helpers.terminals import in_a_pipe, on_a_terminal

FILES = {f'kodim{i:02d}.png': zlib.compress(bytes([i]) * 9, 0) * 50 for i in range(1, 25)}


class Server(http.server.ThreadingHTTPServer):
  """Serves FILES from memory; `asked` lists the name of every request."""

  daemon_threads = True
  cuts: dict[str, int]  # How often it hangs up after half of a file.
  wrong: dict[str, bytes]

  def __init__(self):
    super().__init__(('127.0.0.1', 0), Handler)
    self.asked, self.cuts, self.wrong = [], {}, {}
    self.url = f'http://127.0.0.1:{self.server_port}/suite'


class Handler(http.server.BaseHTTPRequestHandler):
  server: Server

  def do_GET(self):
    name = self.path.rsplit('/', 1)[1]
    self.server.asked.append(name)
    body = self.server.wrong.get(name, FILES[name])
    self.send_response(200)
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    left = self.server.cuts.get(name, 0)
    self.server.cuts[name] = left - 1
    self.wfile.write(body[: len(body) // 2] if left > 0 else body)

  def log_message(self, *_):
    pass


@pytest.fixture
def server(monkeypatch):
  hashes = {name: hashlib.sha256(body).hexdigest() for name, body in FILES.items()}
  monkeypatch.setattr(suite, 'SHA256', hashes)
  monkeypatch.setattr(time, 'sleep', lambda _: None)  # The pause before a second try.
  monkeypatch.delenv('KODAK_DIR', raising=False)
  with Server() as started:
    threading.Thread(target=started.serve_forever, args=(0.01,), daemon=True).start()
    yield started
    started.shutdown()


def contents(paths):
  return {path.name: path.read_bytes() for path in paths}


def test_the_table_names_24_files_in_order():
  assert list(suite.SHA256) == [f'kodim{i:02d}.png' for i in range(1, 25)]
  assert all(len(digest) == 64 for digest in suite.SHA256.values())


def test_a_download_fills_the_cache_and_is_not_repeated(server, tmp_path):
  assert contents(kodak(folder=tmp_path, url=server.url)) == FILES
  assert len(server.asked) == 24
  assert contents(kodak(folder=tmp_path, url=server.url)) == FILES
  assert len(server.asked) == 24
  assert sorted(p.name for p in (tmp_path / 'kodak').iterdir()) == sorted(FILES)


def download(server, folder):
  """Returns a program that downloads the suite of a server and prints the number of its files."""
  return (
    'from compress_jax.images import kodak\n'
    f'kodak.SHA256 = {suite.SHA256}\n'
    f'print(len(kodak.kodak(folder={str(folder)!r}, url={server.url!r})))'
  )


def test_a_terminal_shows_how_many_files_are_downloaded_until_all_are(server, tmp_path):
  out, shown = on_a_terminal(download(server, tmp_path))
  assert out == '24\n' and 'Kodak images:   0%' in shown and '0/24 [00:00' in shown
  *_, last, after = shown.split('\r')
  assert last.strip() == '' and after == ''
  assert on_a_terminal(download(server, tmp_path)) == ('24\n', '')  # Nothing is missing.


def test_a_pipe_shows_no_progress_of_a_download(server, tmp_path):
  assert in_a_pipe(download(server, tmp_path)) == ('24\n', '') and len(server.asked) == 24


def test_a_connection_that_breaks_once_is_tried_again(server, tmp_path):
  server.cuts['kodim03.png'] = 1
  assert contents(kodak(folder=tmp_path, url=server.url)) == FILES
  assert server.asked.count('kodim03.png') == 2 and len(server.asked) == 25


def test_an_interrupted_download_goes_on_with_the_file_where_it_stopped(server, tmp_path):
  server.cuts['kodim03.png'] = 2
  with pytest.raises(CodecError, match='cannot be downloaded'):
    kodak(folder=tmp_path, url=server.url)
  assert {p.name for p in (tmp_path / 'kodak').iterdir()} == {'kodim01.png', 'kodim02.png'}
  server.asked.clear()
  assert contents(kodak(folder=tmp_path, url=server.url)) == FILES
  assert server.asked == list(FILES)[2:]


def test_a_damaged_file_in_the_cache_is_fetched_again(server, tmp_path):
  kodak(folder=tmp_path, url=server.url)
  (tmp_path / 'kodak' / 'kodim07.png').write_bytes(b'damaged')
  server.asked.clear()
  assert contents(kodak(folder=tmp_path, url=server.url)) == FILES
  assert server.asked == ['kodim07.png']


def test_a_file_with_the_wrong_checksum_never_enters_the_cache(server, tmp_path):
  server.wrong['kodim02.png'] = b'another picture'
  with pytest.raises(CodecError, match=r'kodim02\.png is not the file that it should be'):
    kodak(folder=tmp_path, url=server.url)
  assert [p.name for p in (tmp_path / 'kodak').iterdir()] == ['kodim01.png']


def test_without_a_network_there_is_one_clear_line(server, tmp_path):
  for url in ('http://127.0.0.1:9', 'http://no-such-host.invalid', 'file:///nowhere'):
    with pytest.raises(CodecError, match=f'cannot be downloaded from {url}') as caught:
      kodak(folder=tmp_path, url=url)
    assert '\n' not in str(caught.value)


def test_without_download_an_empty_cache_is_an_error(server, tmp_path):
  with pytest.raises(CodecError, match='24 of the 24 Kodak images are not in'):
    kodak(download=False, folder=tmp_path, url=server.url)
  assert not server.asked


def test_the_folder_of_the_environment_is_used(server, tmp_path, monkeypatch):
  monkeypatch.setenv('KODAK_DIR', str(tmp_path))
  with pytest.raises(CodecError, match=r'lacks 24 of 24 images, such as kodim01\.png'):
    kodak()
  for name, body in FILES.items():
    (tmp_path / name).write_bytes(body)
  assert contents(kodak()) == FILES and not server.asked
