"""Folders on the command line: nothing is skipped in silence, and a folder can be done again."""

import os
import sys
import types

import numpy as np
import pytest
from PIL import Image as PILImage

from compress_jax import methods
from compress_jax.cli import evaluate as cli_eval
from compress_jax.cli import main
from compress_jax.codec import Method
from tests.helpers.command_line import failure, fake_codec, files, image, run, write
from tests.helpers.image_files import JXL_8, wide_png


@pytest.fixture(autouse=True)
def fake_method(monkeypatch):
  monkeypatch.setitem(
    sys.modules, 'fake_method', types.SimpleNamespace(METHOD=Method(fake_codec, (1e-5, 10)))
  )
  fake = methods.METHODS['kmeans']._replace(module='fake_method')
  monkeypatch.setitem(methods.METHODS, 'kmeans', fake)


def test_what_looks_like_an_image_is_named_once_and_counted(tmp_path, capsys, monkeypatch):
  for module in ('pillow_heif', 'pillow_jxl'):
    monkeypatch.setitem(sys.modules, module, None)
  folder = tmp_path / 'in'
  write(folder / 'a.png'), write(folder / 'b.tga'), write(folder / '.hidden' / 'c.png')
  (folder / 'd.jxl').write_bytes(JXL_8)
  (folder / 'e').write_bytes((folder / 'a.png').read_bytes())
  (folder / 'notes.txt').write_text('not an image')
  assert run('compress', folder, tmp_path / 'out') == 1
  assert files(tmp_path / 'out') == ['a.cjx', 'e.cjx']
  err = capsys.readouterr().err
  assert err.count('b.tga') == 1 and err.count('d.jxl') == 1
  assert 'notes' not in err and 'hidden' not in err
  assert '1 of 3 files failed' in err and '1 files or folders were left out' in err


def test_files_of_one_name_keep_their_suffixes(tmp_path):
  folder = tmp_path / 'in'
  for name in ('photo.jpg', 'photo.png', 'photo.jpg.tif', 'other.png', 'deep/photo.bmp'):
    write(folder / name)
  assert run('compress', folder, tmp_path / 'out') == 0
  assert files(tmp_path / 'out') == [
    *('deep/photo.cjx', 'other.cjx', 'photo.jpg.cjx', 'photo.jpg.tif.cjx', 'photo.png.cjx')
  ]
  assert run('decompress', tmp_path / 'out', tmp_path / 'back') == 0
  assert len(files(tmp_path / 'back')) == 5


def test_skip_existing_makes_what_is_missing(tmp_path, capsys):
  write(tmp_path / 'in' / 'a.png')
  assert run('compress', tmp_path / 'in', tmp_path / 'out') == 0
  (tmp_path / 'out' / 'a.cjx').write_bytes(b'precious')
  write(tmp_path / 'in' / 'b.png')
  assert run('compress', tmp_path / 'in', tmp_path / 'out', '--skip_existing') == 0
  assert files(tmp_path / 'out') == ['a.cjx', 'b.cjx']
  assert (tmp_path / 'out' / 'a.cjx').read_bytes() == b'precious'
  assert '1 of 2 files are there and kept' in capsys.readouterr().err
  assert run('compress', tmp_path / 'in', tmp_path / 'out', '--skip_existing') == 0
  assert run('compress', tmp_path / 'in' / 'a.png', tmp_path / 'out', '--skip_existing') == 0
  assert (tmp_path / 'out' / 'a.cjx').read_bytes() == b'precious'


def test_a_kept_file_older_than_its_image_is_named(tmp_path, capsys):
  path = write(tmp_path / 'in' / 'a.png')
  assert run('compress', tmp_path / 'in', tmp_path / 'out') == 0
  os.utime(path, (2e9, 2e9))
  assert run('compress', tmp_path / 'in', tmp_path / 'out', '--skip_existing') == 0
  assert 'a.cjx is kept, but older than' in capsys.readouterr().err


def test_skip_existing_holds_for_decompress_and_excludes_force(tmp_path, capsys):
  write(tmp_path / 'in' / 'a.png'), write(tmp_path / 'in' / 'b.png', image(1))
  assert run('compress', tmp_path / 'in', tmp_path / 'out') == 0
  assert run('decompress', tmp_path / 'out', tmp_path / 'back') == 0
  (tmp_path / 'back' / 'b.png').unlink()
  assert run('decompress', tmp_path / 'out', tmp_path / 'back', '--skip_existing') == 0
  assert files(tmp_path / 'back') == ['a.png', 'b.png']
  capsys.readouterr()
  assert run('compress', tmp_path / 'in', tmp_path / 'out', '--skip_existing', '--force') == 2
  assert 'exclude each other' in failure(capsys)


def test_coded_files_are_found_by_the_same_rule(tmp_path, capsys):
  write(tmp_path / 'in' / 'a.png'), write(tmp_path / 'in' / 'b.png')
  assert run('compress', tmp_path / 'in', tmp_path / 'out') == 0
  (tmp_path / 'out' / '.trash').mkdir()
  (tmp_path / 'out' / 'b.cjx').rename(tmp_path / 'out' / '.trash' / 'b.cjx')
  (tmp_path / 'out' / 'loop').symlink_to(tmp_path / 'out')
  assert run('decompress', tmp_path / 'out', tmp_path / 'back') == 0
  assert files(tmp_path / 'back') == ['a.png']


def test_depth8_takes_more_than_8_bits(tmp_path, capsys):
  pixels = np.random.default_rng(0).integers(0, 65536, (24, 40, 3), np.uint16)
  (tmp_path / 'a.png').write_bytes(wide_png(pixels))
  assert run('compress', tmp_path / 'a.png', tmp_path / 'a.cjx') == 1
  assert 'more than 8 bits per sample (16)' in failure(capsys)
  assert run('compress', tmp_path / 'a.png', tmp_path / 'a.cjx', '--depth8') == 0


def test_eval_names_what_it_leaves_out_and_reads_as_compress_does(tmp_path, capsys, monkeypatch):
  write(tmp_path / 'a.png'), write(tmp_path / 'b.tga')
  (tmp_path / 'wide.png').write_bytes(wide_png(np.zeros((24, 40, 3), np.uint16)))
  loaded = []

  def evaluate(jobs, **_):
    loaded.extend(job.load() for job in jobs)
    return cli_eval.Result([], [], 0)

  monkeypatch.setattr(cli_eval, 'evaluate', evaluate)
  assert main.main(['run.py', f'--images={tmp_path}', '--depth8']) == 1
  assert [pixels.shape for pixels in loaded] == [(24, 40, 3)] * 2
  err = capsys.readouterr().err
  assert err.count('b.tga') == 1 and '1 files or folders were left out' in err


def test_the_mean_counts_lossless_files_apart():
  def row(name, psnr, method='kmeans'):
    numbers = {'bytes': 100, 'bpp': 1.0, 'psnr': psnr, 'encode_s': 1.0, 'decode_s': 1.0}
    return {'method': method, 'image': name, 'ms_ssim': None, **numbers}

  ours = [row('black', None), row('a', 30.0), row('b', 40.0)]
  theirs = [row(name, None, 'png') for name in ('black', 'a', 'b')]
  lines = cli_eval.table(ours, theirs, ['png']).splitlines()
  mean = next(line for line in lines if line.startswith('mean'))
  assert '35.00 +1 lossless' in mean and mean.endswith('  lossless') and 'too small' in mean
  black = next(line for line in lines if line.startswith('black'))
  assert black.count('lossless') == 2


def test_a_link_that_is_no_image_fails_by_name(tmp_path, capsys):
  PILImage.fromarray(image()).save(tmp_path / 'a.png')
  (tmp_path / 'b.png').symlink_to(tmp_path / 'absent.png')
  assert run('compress', tmp_path, tmp_path / 'out') == 1
  assert 'b.png: No such file or directory' in capsys.readouterr().err
