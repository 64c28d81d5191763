"""Flat blocks become ramps where the network of the filter says so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from compress_jax.layers.blocks import Frame
from compress_jax.layers.deblocking import Deblocking, local_mean
from tests.helpers.modules import jit

FEATURES = np.zeros((1, 12, 16, 4), np.float32)
FILTER = Deblocking(16)


def blocks():
  """A picture of 3 x 4 flat blocks, f32[1, 48, 64, 3]."""
  rng = np.random.default_rng(0)
  return rng.uniform(size=(1, 3, 4, 3)).astype(np.float32).repeat(16, 1).repeat(16, 2)


def filtered(image, *, grey, colour, features=FEATURES):
  """The filtered image, all of whose shares before the sigmoid are these two."""
  params = FILTER.init(jax.random.key(0), image, features)['params']
  last = params['last']
  bias = jnp.tile(jnp.array([grey, colour], jnp.float32), len(last['bias']) // 2)
  params = {**params, 'last': {'kernel': 0 * last['kernel'], 'bias': bias}}
  return np.asarray(jit(FILTER.apply)({'params': params}, image, features))


def test_a_mean_is_that_of_the_pixels_of_a_window_that_are_in_the_image():
  x = np.random.default_rng(1).uniform(size=(2, 9, 12, 2)).astype(np.float32)
  found = np.asarray(local_mean(jnp.asarray(x), 3))
  for row, column in ((4, 5), (0, 0), (8, 2), (3, 11)):
    rows, columns = (slice(max(i - 3, 0), i + 4) for i in (row, column))
    np.testing.assert_allclose(found[:, row, column], x[:, rows, columns].mean((1, 2)), rtol=1e-5)


def test_pixels_beyond_the_frame_are_in_no_mean():
  x = np.random.default_rng(1).uniform(size=(1, 24, 32, 1)).astype(np.float32)
  frame = Frame(jnp.array([[1, 5, 2, 8]]), (6, 8))  # Cells of 4 pixels.
  inside = x[:, 4:20, 8:32]
  found = np.asarray(local_mean(jnp.asarray(x), 3, frame))
  np.testing.assert_allclose(found[:, 4:20, 8:32], local_mean(inside, 3), rtol=1e-5)
  assert np.isfinite(found).all()


def test_with_all_of_the_mean_flat_blocks_become_ramps_between_their_centres():
  image = blocks()
  found = filtered(image, grey=99, colour=99)
  np.testing.assert_allclose(found, local_mean(image, 8), atol=1e-6)
  assert np.abs(np.diff(image, axis=2)).max() > 0.3
  assert np.abs(np.diff(found, axis=2)).max() < 1 / 16


def test_with_none_of_the_mean_an_image_stays_as_it_is():
  image = blocks()
  np.testing.assert_allclose(filtered(image, grey=-99, colour=-99), image, atol=1e-6)


def test_colours_move_without_the_brightness():
  image = blocks()
  found, mean = filtered(image, grey=-99, colour=99), np.asarray(local_mean(image, 8))
  np.testing.assert_allclose(found.mean(-1), image.mean(-1), atol=1e-5)
  np.testing.assert_allclose(
    found - found.mean(-1, keepdims=True), mean - mean.mean(-1, keepdims=True), atol=1e-5
  )


def test_the_shares_depend_on_the_picture_and_on_the_features():
  rng = np.random.default_rng(0)
  image = rng.uniform(size=(1, 48, 64, 3)).astype(np.float32)
  params = FILTER.init(jax.random.key(0), image, FEATURES)
  apply = jit(FILTER.apply)
  found = np.asarray(apply(params, image, FEATURES))
  assert found.shape == image.shape
  changed = FEATURES.copy()
  changed[0, 5, 5] = 9
  assert np.abs(apply(params, image, changed) - found)[0, 20:24, 20:24].max() > 1e-4
  assert np.abs(apply(params, 0.5 * image, FEATURES) - 0.5 * found).max() > 1e-3
  lit = image + np.array([0.3, -0.1, 0.2], np.float32)  # A constant colour changes no share.
  np.testing.assert_allclose(apply(params, lit, FEATURES), found + lit - image, atol=1e-5)


def test_sums_of_short_floats_are_exact_enough():
  x = jnp.full((1, 40, 40, 3), 0.9, jnp.bfloat16)
  found = local_mean(x, 8)
  assert found.dtype == x.dtype
  np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(x, np.float32))


def test_images_of_a_size_that_is_not_known_yet_are_filtered_the_same():
  params = FILTER.init(jax.random.key(0), blocks(), FEATURES)
  of = jax.jit(functools.partial(FILTER.apply, params))
  rows, columns = jax.export.symbolic_shape('h, w')
  image = jax.ShapeDtypeStruct((1, 16 * rows, 16 * columns, 3), np.float32)
  features = jax.ShapeDtypeStruct((1, 4 * rows, 4 * columns, 4), np.float32)
  found = jax.export.export(of)(image, features).call(blocks(), FEATURES)
  np.testing.assert_allclose(found, of(blocks(), FEATURES), atol=1e-6)
