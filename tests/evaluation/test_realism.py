"""The realism distance sees blur, noise and direction, and is zero for equal images."""

import numpy as np
import pytest
import scipy

from compress_jax.codec import CodecError
from compress_jax.evaluation import realism
from compress_jax.images import sets


def stripes(angle, period=4):
  """u8[128, 128, 3], waves along a direction in radians from the vertical axis."""
  rows, columns = np.mgrid[:128, :128]
  waves = np.cos(2 * np.pi / period * (rows * np.cos(angle) + columns * np.sin(angle)))
  return np.repeat((128 + 90 * waves)[..., None], 3, -1).astype(np.uint8)


@pytest.fixture(scope='module')
def photographs():
  return [sets.centre_crop(image) for _, image in sets.sample_photographs()]


@pytest.fixture(scope='module')
def known(photographs):
  return [realism.moments(image) for image in photographs]


def changed(photographs, change):
  images = [np.clip(np.rint(change(image.astype(float))), 0, 255) for image in photographs]
  return [realism.moments(image.astype(np.uint8)) for image in images]


def test_wavelets_do_not_answer_to_constants_and_cover_the_frequencies():
  bank, average = realism.wavelets()
  assert np.abs(bank[:, :, 0, 0]).max() < 1e-6 and average[0, 0] == pytest.approx(1, abs=1e-3)
  power = (bank**2).sum((0, 1)) + (bank**2).sum((0, 1))[::-1, ::-1] + average**2
  rows, columns = np.abs(np.meshgrid(*[np.fft.fftfreq(128)] * 2))
  assert power[(rows**2 + columns**2 < 0.45**2)].min() > 0.2


def test_a_flat_image_has_no_texture():
  found = realism.features(np.full((128, 256, 3), 77, np.uint8))
  assert found.shape == (2 * 36, realism.FEATURES)
  np.testing.assert_allclose(found, np.log(0.5), atol=1e-3)


@pytest.mark.parametrize('step', range(realism.ANGLES))
@pytest.mark.parametrize('scale', [0, 1])
def test_waves_are_found_at_their_direction_and_scale(step, scale):
  angle = np.pi * step / realism.ANGLES
  first = realism.features(stripes(angle, 8 / 3 * 2**scale)).mean(0)[: 4 * realism.ANGLES]
  found_scale, found_step = divmod(int(first.argmax()), realism.ANGLES)
  assert found_scale == scale
  assert found_step in (step, -step % realism.ANGLES)


def test_equal_sets_have_no_distance_and_order_does_not_matter(known):
  assert realism.distance(known, known[::-1]) < 1e-6
  low, high = realism.interval(known, known, draws=5)
  assert 0 <= low <= high < 1e-6


@pytest.mark.slow
def test_blur_is_far_and_the_more_the_farther(photographs, known):
  blurred = {
    width: changed(photographs, lambda x, w=width: scipy.ndimage.gaussian_filter(x, (w, w, 0)))
    for width in (0.5, 1, 2)
  }
  far = [realism.distance(known, moments) for moments in blurred.values()]
  assert 0.05 < far[0] < far[1] < far[2]
  # As far in squared error as blur by 1, noise is much nearer: it leaves texture.
  errors = [
    np.mean((x - scipy.ndimage.gaussian_filter(x.astype(float), (1, 1, 0))) ** 2)
    for x in photographs
  ]
  rng = np.random.default_rng(0)
  noisy = changed(photographs, lambda x: x + rng.normal(0, np.mean(errors) ** 0.5, x.shape))
  assert realism.distance(known, noisy) < far[1]
  low, high = realism.interval(known, blurred[1], draws=10)
  assert low < far[1] < high


def test_the_distance_of_gaussians_is_that_of_their_formula():
  rng = np.random.default_rng(0)
  size = realism.FEATURES
  mean, scale = rng.normal(size=size), rng.uniform(0.5, 2, size)

  def moments(mean, variance):  # Of 10 samples with just these moments.
    return realism.Moments(10, 10 * mean, 10 * (np.diag(variance) + np.outer(mean, mean)))

  found = realism.distance(
    [moments(np.zeros(size), np.ones(size))], [moments(mean, scale**2), moments(mean, scale**2)]
  )
  assert found == pytest.approx(np.sum(mean**2) + np.sum((scale - 1) ** 2), rel=1e-6)


def test_small_images_are_refused():
  with pytest.raises(CodecError, match=r'realism needs sides of 128 pixels, not \(127, 300\)'):
    realism.features(np.zeros((127, 300, 3), np.uint8))
