"""The linear path: a cosine transform at first, beside which networks see details only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax.codec import CodecError
from compress_jax.layers import linear
from compress_jax.layers.blocks import Conv, Frame, to_cells
from tests.helpers.modules import apply
from tests.helpers.photographs_model import blocks


def initial(module, x):
  """Parameters with which training begins."""
  return jax.jit(module.init)(jax.random.key(0), x)['params']


def block_transforms(x, cell, channels):
  """Latents of a linear path as it starts, and the image that they give."""
  analysis, synthesis = linear.BlockAnalysis(channels, cell), linear.BlockSynthesis(cell)
  y = apply(analysis, initial(analysis, x), x)
  return y, apply(synthesis, initial(synthesis, y), y)


@pytest.mark.parametrize('cell', [2, 8, 16])
def test_all_channels_of_a_linear_path_give_the_image_back(cell):
  x = np.random.default_rng(0).random((2, 2 * cell, 3 * cell, 3), np.float32)
  y, x_hat = block_transforms(x, cell, 3 * cell**2)
  assert y.shape == (2, 2, 3, 3 * cell**2)
  np.testing.assert_allclose(x_hat, x, atol=1e-5)


def test_few_channels_of_a_linear_path_give_the_nearest_image_of_their_kind():
  x = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
  y, x_hat = block_transforms(x, 8, 20)
  again, same = block_transforms(x_hat, 8, 20)
  np.testing.assert_allclose(again, y, atol=1e-4)
  np.testing.assert_allclose(same, x_hat, atol=1e-5)
  error, kept = x_hat - x, x_hat - 0.5
  assert (error * kept).sum() == pytest.approx(0, abs=1e-3)  # A projection.
  assert (error**2).sum() < ((x - 0.5) ** 2).sum()


def test_the_latents_of_a_linear_path_have_variance_one_for_drawn_photographs():
  x = 0.5 + blocks(np.random.default_rng(0), 4000, 8)
  y, _ = block_transforms(x.astype(np.float32), 8, 40)
  assert y.shape == (4000, 1, 1, 40)
  np.testing.assert_allclose(y.reshape(4000, 40).std(0), 1, rtol=5 / np.sqrt(2 * 4000))


def test_a_centred_image_does_not_depend_on_its_brightness_but_on_contrast():
  x = np.random.default_rng(0).uniform(0.2, 0.6, (1, 48, 40, 3)).astype(np.float32)
  found = linear.centred(x)
  assert found.shape == x.shape
  lit = x + np.array([0.3, -0.1, 0.2], np.float32)
  np.testing.assert_allclose(linear.centred(lit), found, atol=1e-5)  # At the edges too.
  np.testing.assert_allclose(linear.centred(0.5 * x), 0.5 * np.asarray(found), atol=1e-5)
  # In the middle: less the mean of 7 x 7 cells of 4 pixels, times 4.
  expected = 4 * (x[0, 20:24, 16:20] - x[0, 8:36, 4:32].mean((0, 1)))
  np.testing.assert_allclose(found[0, 20:24, 16:20], expected, atol=1e-5)


def test_a_centred_image_is_the_same_inside_of_a_larger_array():
  x = np.random.default_rng(0).uniform(size=(1, 32, 48, 3)).astype(np.float32)
  around = np.random.default_rng(1).uniform(size=(1, 64, 64, 3)).astype(np.float32)
  around[:, 16:48, :48] = x
  frame = Frame(jnp.array([[1, 3, 0, 3]]), (4, 4))
  found = linear.centred(around, frame)[:, 16:48, :48]
  np.testing.assert_allclose(found, linear.centred(x), atol=1e-5)


def test_weights_that_saw_whole_images_make_the_same_of_differences():
  rng = np.random.default_rng(0)
  first = {'kernel': rng.normal(size=(3, 3, 48, 5)).astype(np.float32), 'bias': np.arange(5.0)}
  params = {'analysis': {'stem': first, 'last': 7}, 'prior': 8}
  found = linear.centring(params)
  assert (found['analysis']['last'], found['prior']) == (7, 8)
  part = rng.uniform(size=(28, 28, 3))  # The size of a window: any of its cells has this mean.
  x = np.tile(part - part.mean((0, 1)) + 0.5, (3, 3, 1))[None].astype(np.float32)
  before = apply(Conv(5), first, to_cells(x, 4))
  after = apply(Conv(5), found['analysis']['stem'], to_cells(linear.centred(x), 4))
  inner = slice(4, -4)  # Without zeros around it, and with whole windows.
  np.testing.assert_allclose(after[:, inner, inner], before[:, inner, inner], atol=1e-4)


def test_weights_without_such_a_layer_are_refused():
  with pytest.raises(CodecError, match='where they have a stem'):
    linear.centring({'analysis': {'down0': {}}})


def test_images_of_a_size_that_is_not_known_yet_are_centred_the_same():
  shape = jax.export.symbolic_shape('b, 4*h, 4*w, 3')
  program = jax.export.export(jax.jit(linear.centred))(jax.ShapeDtypeStruct(shape, np.float32))
  for rows, columns in ((1, 2), (9, 5)):
    x = np.random.default_rng(0).random((2, 4 * rows, 4 * columns, 3), np.float32)
    np.testing.assert_allclose(program.call(x), linear.centred(jnp.asarray(x)), atol=1e-5)
