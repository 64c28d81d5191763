import io
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from compress_jax import baselines, methods
from compress_jax.cli import evaluate as cli_evaluate
from compress_jax.cli import main
from compress_jax.codec import Method
from tests.helpers.command_line import SIZE, failure, fake_codec, files, image, run, write

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fake_method(monkeypatch):
  """Stands in for kmeans in this process: these tests are about files, not about pixels."""
  monkeypatch.setitem(
    sys.modules, 'fake_method', types.SimpleNamespace(METHOD=Method(fake_codec, (1e-5, 10)))
  )
  fake = methods.METHODS['kmeans']._replace(module='fake_method')
  monkeypatch.setitem(methods.METHODS, 'kmeans', fake)


def test_a_file_round_trips_and_the_report_is_true(tmp_path, capsys):
  write(tmp_path / 'a.png')
  assert run('compress', tmp_path / 'a.png', tmp_path / 'a.cjx') == 0
  out, err = capsys.readouterr()
  size = (tmp_path / 'a.cjx').stat().st_size
  assert out == '' and f'{size} bytes, {8 * size / 960:.4f} bpp' in err
  assert run('decompress', tmp_path / 'a.cjx', tmp_path / 'b.png') == 0
  decoded = np.array(PILImage.open(tmp_path / 'b.png'))
  mse = np.mean((decoded.astype(float) - image()) ** 2)
  assert f'{10 * np.log10(255**2 / mse):.2f} dB' in err


def test_a_folder_keeps_its_subfolders(tmp_path, capsys):
  write(tmp_path / 'in' / 'a.png'), write(tmp_path / 'in' / 'deep' / 'er' / 'b.JPG')
  (tmp_path / 'in' / 'notes.txt').write_text('not an image')
  assert run('compress', tmp_path / 'in', tmp_path / 'coded') == 0
  assert files(tmp_path / 'coded') == ['a.cjx', 'deep/er/b.cjx']
  assert run('decompress', tmp_path / 'coded', tmp_path / 'out') == 0
  assert files(tmp_path / 'out') == ['a.png', 'deep/er/b.png']


def test_a_failing_file_of_a_folder_is_named_and_the_others_are_made(tmp_path, capsys):
  write(tmp_path / 'in' / 'a.png'), write(tmp_path / 'in' / 'c.png')
  write(tmp_path / 'in' / 'flat.png', np.full((8, 8, 3), 7, np.uint8))
  (tmp_path / 'in' / 'broken.png').write_bytes((tmp_path / 'in' / 'a.png').read_bytes()[:100])
  assert run('compress', tmp_path / 'in', tmp_path / 'out') == 1
  assert files(tmp_path / 'out') == ['a.cjx', 'c.cjx']
  err = capsys.readouterr().err
  assert 'flat.png: one colour' in err and 'broken.png: ' in err and '2 of 4 files failed' in err


def test_overwriting_needs_force_and_is_checked_before_any_work(tmp_path, capsys):
  write(tmp_path / 'in' / 'a.png'), write(tmp_path / 'in' / 'b.png')
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'b.cjx').write_bytes(b'precious')
  assert run('compress', tmp_path / 'in', tmp_path / 'out') == 1
  assert 'b.cjx exists; --force overwrites it, --skip_existing keeps it' in failure(capsys)
  assert files(tmp_path / 'out') == ['b.cjx']
  assert run('compress', tmp_path / 'in', tmp_path / 'out', '--force') == 0
  assert (tmp_path / 'out' / 'b.cjx').read_bytes() != b'precious'


def test_an_input_is_never_overwritten(tmp_path, capsys):
  path = write(tmp_path / 'a.png')
  before = path.read_bytes()
  assert run('compress', path, path, '--force') == 1
  assert 'output and input are the same file' in failure(capsys)
  os.link(path, tmp_path / 'b.png')
  assert run('compress', path, tmp_path / 'b.png', '--force') == 1
  assert path.read_bytes() == before


def test_a_failure_leaves_no_half_file(tmp_path, capsys, monkeypatch):
  path = write(tmp_path / 'a.png')

  def full(*args):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  assert run('compress', path, tmp_path / 'a.cjx') == 1
  assert 'No space left' in failure(capsys)
  assert files(tmp_path) == ['a.png']


def test_a_damaged_file_is_refused_and_named(tmp_path, capsys):
  write(tmp_path / 'a.png')
  run('compress', tmp_path / 'a.png', tmp_path / 'a.cjx')
  capsys.readouterr()
  (tmp_path / 'cut.cjx').write_bytes((tmp_path / 'a.cjx').read_bytes()[:-1])
  assert run('decompress', tmp_path / 'cut.cjx', tmp_path / 'cut.png') == 1
  assert 'cut.cjx: expected' in failure(capsys)
  assert not (tmp_path / 'cut.png').exists()


def test_max_pixels_holds_for_images_and_files(tmp_path, capsys):
  write(tmp_path / 'a.png')
  assert run('compress', tmp_path / 'a.png', tmp_path / 'a.cjx', '--max_pixels=959') == 1
  assert '40x24 pixels exceed the limit' in failure(capsys)
  run('compress', tmp_path / 'a.png', tmp_path / 'a.cjx', '--max_pixels=960')
  capsys.readouterr()
  assert run('decompress', tmp_path / 'a.cjx', tmp_path / 'b.png', '--max_pixels=959') == 1
  assert '40x24 pixels exceed the limit' in failure(capsys)


def test_a_file_goes_into_a_folder_under_its_name(tmp_path, capsys):
  path = write(tmp_path / 'a.png')
  assert run('compress', path, f'{tmp_path}/new/') == 0
  assert files(tmp_path / 'new') == ['a.cjx']


def test_a_budget_is_met(tmp_path, capsys):
  path = write(tmp_path / 'a.png')
  assert run('compress', path, tmp_path / 'a.cjx', '--target_bpp=9') == 0
  assert (tmp_path / 'a.cjx').stat().st_size * 8 / 960 <= 9
  assert 'at lambda' in capsys.readouterr().err
  assert run('compress', path, tmp_path / 'b.cjx', '--target_psnr=90') == 1
  assert 'no file reaches 90 dB' in failure(capsys)
  assert run('compress', path, tmp_path / 'b.cjx', '--target_psnr=9', '--target_bpp=1') == 2
  assert 'exclude each other' in failure(capsys)


@pytest.mark.parametrize(
  ('flags', 'status', 'message'),
  [
    (['--nonsense'], 2, "Unknown command line flag 'nonsense'"),
    (['--method=jpg'], 2, '<kmeans|gan|cae|gmm>'),
    (['--lambda=much'], 2, '--lambda=much'),
    (['--mode=compress'], 2, 'needs --input'),
    (
      ['--mode=compress', '--input=x', '--output=-', '--method=cae', '--set=a=1'],
      1,
      "no option 'a'",
    ),
    (['--mode=decompress', '--input=-', '--output=/'], 1, '/ is a folder'),
    (['--mode=decompress', '--input=x'], 2, 'needs --output'),
    (['stray'], 2, "'stray'"),
    (['--set=steps'], 2, 'key=value'),
    (['--method=gan', '--model=none.safetensors'], 1, 'no such file'),
    (['--mode=train'], 2, 'needs --data'),
    (['--set=lmbda=1'], 2, 'key=value'),
    (['--mode=compress', '--input=x', '--output=y', '--target_bpp=nan'], 2, 'positive'),
    (['--set=shape=3'], 1, "no option 'shape'; it has: seed, steps"),
    (['--lambda=0'], 1, 'lambda is 0'),
    (['--lambda=nan'], 1, 'lambda is nan'),
    (['--images=/nowhere'], 1, '/nowhere: no such'),
    (['--mode=compress', '--input=/nowhere', '--output=x'], 1, '/nowhere: no such'),
  ],
)
def test_a_wrong_command_gets_one_line(flags, status, message, capsys):
  assert main.main(['compress-jax', *flags]) == status
  assert message in failure(capsys)


def test_settings_are_literals_where_they_can_be():
  from compress_jax.cli.command import settings

  assert settings(['a=1', 'b=(2, 3.5)', 'c=image', 'd=None', 'e=x=y', 'f=']) == {
    **{'a': 1, 'b': (2, 3.5), 'c': 'image', 'd': None},
    **{'e': 'x=y', 'f': ''},
  }
  assert settings(['a=true', 'b=False', 'c=FALSE']) == {'a': True, 'b': False, 'c': False}


def command(*flags, **options):
  return subprocess.run(
    [sys.executable, 'run.py', *flags], cwd=ROOT, capture_output=True, **options
  )


def test_pipes_carry_nothing_but_the_file(tmp_path):
  png = write(tmp_path / 'a.png').read_bytes()
  coded = command('--mode=compress', '--input=-', '--output=-', input=png)
  assert coded.returncode == 0, coded.stderr
  assert methods.of_file(coded.stdout) == 'kmeans'
  decoded = command('--mode=decompress', '--input=-', '--output=-', input=coded.stdout)
  assert PILImage.open(io.BytesIO(decoded.stdout)).size == SIZE
  assert b'stdin -> stdout' in decoded.stderr


def test_eval_says_what_it_used_and_compares(tmp_path):
  write(tmp_path / 'a.png'), write(tmp_path / 'b.png', image(1))
  done = command(f'--images={tmp_path}', '--workers=1', text=True)
  assert done.returncode == 0, done.stderr
  first, _, head, *lines = done.stdout.splitlines()
  assert first == f'Images: 2 images of {tmp_path}'
  assert head.split()[-6:] == ['JPEG', 'JP2', 'WebP', 'AVIF', 'JXL', 'PNG']
  assert [line.split()[0] for line in lines] == ['a', 'b', 'mean', 'bpp']
  assert 'lossless' in lines[0]


def test_eval_names_the_codec_whose_plugin_is_missing(tmp_path, capsys, monkeypatch):
  write(tmp_path / 'a.png')
  asked = []

  def evaluate(jobs, **_):
    asked.extend(job.recipe.method for job in jobs)
    row = {'method': 'kmeans', 'image': 'a', 'bytes': 100, 'bpp': 1.0, 'psnr': 30.0}
    return cli_evaluate.Result([{**row, 'ms_ssim': None, 'encode_s': 1.0, 'decode_s': 1.0}], [], 0)

  monkeypatch.setattr(cli_evaluate, 'evaluate', evaluate)
  monkeypatch.setattr(baselines, 'JXL_PLUGIN', 'no_such_plugin')
  assert main.main(['compress-jax', f'--images={tmp_path}']) == 0
  out, err = capsys.readouterr()
  assert asked == ['kmeans', 'jpeg', 'jpeg2000', 'webp', 'avif', 'png'] and 'JXL' not in out
  assert err == "left out: jxl needs no_such_plugin: pip install 'compress_jax[formats]'\n"
