"""Programs whose standard streams are closed, broken, full or of few letters."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from compress_jax.cli import main
from tests.helpers.slow import but_for

ROOT = Path(__file__).parents[2]
PROGRAM = f'{sys.executable} -m compress_jax'


def shell(command, **env):
  done = subprocess.run(
    ['bash', '-c', f'set -o pipefail; {command}'],
    cwd=ROOT,
    capture_output=True,
    env={**os.environ, **env},
  )
  return done.returncode, done.stdout, done.stderr.decode()


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
  path = tmp_path_factory.mktemp('photos') / 'a.png'
  pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
  PILImage.fromarray(pixels).save(path)
  return path


def test_a_closed_input_is_one_line(tmp_path):
  told = f'{PROGRAM} --mode=compress --input=- --output={tmp_path}/a.cjx <&-'
  line = 'compress-jax: error: standard input: it is closed\n'
  assert shell(told) == (1, b'', line)


def test_a_closed_output_is_one_line(photo):
  told = f'{PROGRAM} --mode=compress --input={photo} --output=- >&-'
  line = 'compress-jax: error: standard output: it is closed\n'
  assert shell(told) == (1, b'', line)


def test_a_closed_output_that_is_not_needed_does_no_harm(photo, tmp_path):
  told = f'--mode=compress --input={photo} --output={tmp_path}/a.cjx'
  assert shell(f'{PROGRAM} {told} >&- 2>&- <&-')[0] == 0
  assert (tmp_path / 'a.cjx').read_bytes()[:3] == shell(f'head -c 3 {tmp_path}/a.cjx')[1]


def test_errors_do_not_go_into_the_file_where_their_stream_is_closed(photo):
  told = f'{PROGRAM} --mode=compress --input={photo} --output=-'
  whole, alone = shell(f'{told} 2>&-'), shell(told)
  assert whole[:2] == (0, alone[1]) and len(alone[1]) > 20


@pytest.mark.parametrize('told', ['--help', '--mode=train --help', '--version'])
def test_a_reader_who_has_seen_enough_is_no_error(told):
  assert shell(f'{PROGRAM} {told} | true') == (0, b'', '')


def test_a_file_that_nobody_reads_is_an_error(photo):
  status, _, err = shell(f'{PROGRAM} --mode=compress --input={photo} --output=- | true')
  assert (status, err) == (1, 'compress-jax: error: standard output: nobody reads it\n')


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='Linux has it')
@pytest.mark.parametrize('told', ['--help', '--mode=compress --input={photo} --output=-'])
def test_a_full_output_is_one_line(told, photo):
  status, _, err = shell(f'{PROGRAM} {told.format(photo=photo)} > /dev/full')
  assert (status, err) == (
    1,
    'compress-jax: error: standard output: No space left on device\n',
  )


@pytest.mark.parametrize('encoding', but_for(['ascii', 'latin-1', 'utf-8'], 'ascii'))
def test_a_table_shows_names_that_its_encoding_lacks(photo, tmp_path, encoding):
  folder = tmp_path / 'names'
  folder.mkdir()
  names = [os.fsencode(folder) + name for name in (b'/caf\xe9.png', '/日本.png'.encode())]
  for name in names:
    Path(os.fsdecode(name)).write_bytes(photo.read_bytes())
  status, out, err = shell(f'{PROGRAM} --images={folder} --workers=1', PYTHONIOENCODING=encoding)
  assert status == 0, err
  assert rb'caf\udce9' in out
  assert ('日本' if encoding == 'utf-8' else r'\u65e5\u672c') in out.decode(encoding)


def test_an_output_that_cannot_be_written_is_named(photo, tmp_path, capsys):
  (tmp_path / 'file').touch()
  output = tmp_path / 'file' / 'a.cjx'
  told = ['--mode=compress', f'--input={photo}', f'--output={output}']
  assert main.main(['compress-jax', *told]) == 1
  err = capsys.readouterr().err
  assert err.startswith(f'compress-jax: error: {output}: cannot be written')
  assert str(photo) not in err


def test_the_source_is_named_though_its_name_is_in_the_text(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  Path('a').write_bytes(b'no picture')
  assert main.main(['compress-jax', '--mode=decompress', '--input=a', '--output=b.png']) == 1
  assert capsys.readouterr().err.startswith('compress-jax: error: a: ')


def test_no_device_is_one_line(photo, tmp_path):
  told = f'--mode=compress --input={photo} --output={tmp_path}/a.cjx'
  for mode in (told, f'--mode=eval --images={photo}', '--mode=export --input=cae --output=none.st'):
    status, _, err = shell(f'{PROGRAM} {mode}', JAX_PLATFORMS='tpu')
    line = 'compress-jax: error: JAX has no device of JAX_PLATFORMS=tpu; unset it, or set it to cpu'
    assert status == 1 and err.startswith(line) and err.count('\n') == 1, err
