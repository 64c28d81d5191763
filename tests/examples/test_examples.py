"""The examples run, and what they print shows what they are about."""

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
pytest.importorskip('skimage')


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


def test_an_entropy_model_of_ones_own_learns_to_spend_fewer_bits():
  low_before, high_before, low, high = points(run('own_entropy_model', '--steps=60'))
  for before, after in ((low_before, low), (high_before, high)):
    assert after[0] < before[0]
    assert after[1] > before[1] - 1
  assert low[0] < high[0] and low[1] < high[1]


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
