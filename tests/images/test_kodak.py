import hashlib
import http.server
import threading
import zlib

import pytest

from compress_jax.codec import CodecError
from compress_jax.images import kodak as suite
from compress_jax.images.kodak import kodak

FILES = {f'kodim{i:02d}.png': zlib.compress(bytes([i]) * 9, 0) * 50 for i in range(1, 25)}


class Server(http.server.ThreadingHTTPServer):
  """Serves FILES from memory; `asked` lists (name, Range header) of every request."""

  daemon_threads = True
  ranges = True  # Whether it can resume.
  cut: dict[str, int]  # Bytes after which it hangs up, once.
  wrong: dict[str, bytes]

  def __init__(self):
    super().__init__(('127.0.0.1', 0), Handler)
    self.asked, self.cut, self.wrong = [], {}, {}
    self.url = f'http://127.0.0.1:{self.server_port}/suite'


class Handler(http.server.BaseHTTPRequestHandler):
  server: Server

  def do_GET(self):
    name, asked = self.path.rsplit('/', 1)[1], self.headers.get('Range')
    self.server.asked.append((name, asked))
    body = self.server.wrong.get(name, FILES[name])
    start = int(asked[6:-1]) if asked and self.server.ranges else 0
    if start and start >= len(body):
      self.send_error(416)
      return
    self.send_response(206 if start else 200)
    self.send_header('Content-Length', str(len(body) - start))
    self.end_headers()
    self.wfile.write(body[start : start + self.server.cut.pop(name, len(body))])

  def log_message(self, *_):
    pass


@pytest.fixture
def server(monkeypatch):
  hashes = {name: hashlib.sha256(body).hexdigest() for name, body in FILES.items()}
  monkeypatch.setattr(suite, 'SHA256', hashes)
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


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
  server.cut['kodim03.png'] = 100
  with pytest.raises(CodecError, match='cannot be downloaded'):
    kodak(folder=tmp_path, url=server.url)
  assert not (tmp_path / 'kodak' / 'kodim03.png').exists()
  server.asked.clear()
  assert contents(kodak(folder=tmp_path, url=server.url)) == FILES
  assert server.asked[0] == ('kodim03.png', 'bytes=100-')
  assert len(server.asked) == 22


def test_a_server_that_cannot_resume_sends_the_whole_file(server, tmp_path):
  server.ranges = False
  (tmp_path / 'kodak').mkdir()
  (tmp_path / 'kodak' / 'kodim01.png.part').write_bytes(FILES['kodim01.png'][:50])
  assert contents(kodak(folder=tmp_path, url=server.url)) == FILES


@pytest.mark.parametrize('start', [b'wrong', FILES['kodim01.png'] + b'and more'])
def test_a_wrong_partial_file_is_fetched_anew(server, tmp_path, start):
  (tmp_path / 'kodak').mkdir()
  (tmp_path / 'kodak' / 'kodim01.png.part').write_bytes(start)
  assert contents(kodak(folder=tmp_path, url=server.url)) == FILES


def test_a_complete_partial_file_is_taken(server, tmp_path):
  (tmp_path / 'kodak').mkdir()
  (tmp_path / 'kodak' / 'kodim01.png.part').write_bytes(FILES['kodim01.png'])
  assert contents(kodak(folder=tmp_path, url=server.url)) == FILES
  assert len(server.asked) == 24


def test_a_damaged_file_in_the_cache_is_fetched_again(server, tmp_path):
  kodak(folder=tmp_path, url=server.url)
  (tmp_path / 'kodak' / 'kodim07.png').write_bytes(b'damaged')
  server.asked.clear()
  assert contents(kodak(folder=tmp_path, url=server.url)) == FILES
  assert [name for name, _ in server.asked] == ['kodim07.png']


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
