"""The examples run, and what they print shows what they are about."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compress_jax.images import sets

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'examples'
pytestmark = pytest.mark.slow


def run(name, *flags):
  """What an example prints, on one device."""
  command = [sys.executable, '-m', f'examples.{name}', *flags]
  env = {**os.environ, 'XLA_FLAGS': '--xla_backend_optimization_level=0'}
  done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr[-800:]
  return done.stdout


def points(printed):
  """(bpp, dB) of every line that has both."""
  found = re.findall(r'([\d.]+) bpp  ([\d.]+) dB', printed)
  return [(float(bpp), float(psnr)) for bpp, psnr in found]


def test_a_step_against_the_gradient_of_the_rate_saves_bits():
  printed = run('rate_gradient')
  ((before, psnr),) = points(printed)
  (after,) = re.findall(r'([\d.]+) bpp after', printed)
  assert 0.2 < float(after) < before and psnr > 28
  assert 'latents (8, 8, 320)' in printed


def test_a_prior_of_ones_own_writes_a_file_somewhat_larger_than_that_of_cae():
  printed = run('own_prior')
  ((laplace, psnr),) = points(printed)
  (mixtures,) = re.findall(r'mixtures: ([\d.]+) bpp', printed)
  assert float(mixtures) < laplace < 1.5 * float(mixtures) and psnr > 28


def test_an_exported_program_decodes_a_file_without_flax(tmp_path):
  photo, file = tmp_path / 'photo.png', tmp_path / 'photo.cjx'
  sets.save_image(photo, sets.sample_photographs()[0][1][:90, :130])
  for flags in (
    ['--mode=export', '--format=stablehlo', '--input=gmm', f'--output={tmp_path / "programs"}'],
    ['--mode=compress', '--method=gmm', f'--input={photo}', f'--output={file}'],
  ):
    subprocess.run([sys.executable, 'run.py', *flags], cwd=ROOT, check=True, capture_output=True)
  printed = run('decode_stablehlo', str(tmp_path / 'programs'), str(file), str(tmp_path / 'a.png'))
  assert '130x90' in printed
  error = sets.load_image(tmp_path / 'a.png').astype(float) - sets.load_image(photo)
  assert -10 * np.log10(np.mean((error / 255) ** 2)) > 28


def test_kmeans_gives_the_same_under_jit_vmap_and_pmap():
  printed = run('kmeans_transforms')
  steps = [int(x) for x in re.findall(r'(\d+) steps', printed)]
  assert steps == sorted(steps) and len(set(steps)) == 3
  (difference,) = re.findall(r'differ by ([\d.e+-]+)', printed)
  assert float(difference) < 1e-4
  assert len(re.findall(r'#[0-9a-f]{6}', printed)) == 8


def test_a_fifth_method_is_one_file_and_takes_part_in_everything(tmp_path):
  images = tmp_path / 'images'
  images.mkdir()
  for name, image in sets.sample_photographs()[:2]:
    sets.save_image(images / f'{name}.png', sets.centre_crop(image, 128))
  printed = run('fifth_method', f'--images={images}', f'--output={tmp_path / "out"}')
  assert '| blocks |' in printed and 'error' not in printed
  rows = json.loads((tmp_path / 'out' / 'results.json').read_text())['rows']
  assert sum(row['method'] == 'blocks' for row in rows) == 10
  assert '#8c5a00' in (tmp_path / 'out' / 'index.html').read_text()  # A colour of its own.
  assert (tmp_path / 'out' / 'figures' / 'rd-blocks.png').exists()
  code = """
import sys
import examples.fifth_method
from compress_jax.cli.main import main
sys.exit(main(sys.argv))
"""
  path, file = images / f'{name}.png', tmp_path / 'photo.cjx'
  for command in (
    ['--method=blocks', f'--input={path}', f'--output={file}', '--lambda=0.025'],
    ['--mode=decompress', f'--input={file}', f'--output={tmp_path / "again.png"}'],
  ):
    mode = command[:1] if command[0].startswith('--mode') else ['--mode=compress', *command[:1]]
    done = subprocess.run(
      [sys.executable, '-c', code, *mode, *command[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
  again, image = (sets.load_image(each).astype(float) for each in (tmp_path / 'again.png', path))
  error = again - image
  assert np.sqrt(np.mean(error**2)) < 40


def test_five_centroids_tell_more_than_the_mean_in_pixels_and_in_coefficients():
  printed = run('features_kmeans', '--clusters=5', '--size=64')
  pixels, coefficients = (float(x) for x in re.findall(r'([\d.]+) dB', printed))
  blocks = [sets.centre_crop(image, 64) for _, image in sets.sample_photographs()]
  points = np.stack(blocks).reshape(5, 8, 8, 8, 8, 3).swapaxes(2, 3).reshape(320, 192) / 255
  mean = -10 * np.log10(np.mean((points - points.mean(0)) ** 2))
  assert pixels > mean + 2 and coefficients > mean + 2
  shares = [float(x) for x in re.findall(r'([\d.]+)%', printed)]
  assert len(shares) == 25
  np.testing.assert_allclose(np.reshape(shares, (5, 5)).sum(1), 100, atol=0.3)  # They are rounded.


def test_a_codec_of_ones_own_is_trained_by_the_loop_and_writes_files(tmp_path):
  measured = points(run('own_codec', '--steps=40', f'--folder={tmp_path}'))
  assert (tmp_path / '40').is_dir()
  assert len(measured) == 5 and all(bpp > 0.1 and psnr > 12 for bpp, psnr in measured)


def test_every_example_is_run_here():
  names = {path.stem for path in FOLDER.glob('*.py')}
  assert names == set(re.findall(r"run\('(\w+)'", Path(__file__).read_text()))
