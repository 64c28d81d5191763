"""The blocks of the transforms do what their formulas say, in NumPy and float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from compress_jax.layers import blocks, linear
from compress_jax.layers.blocks import Frame
from tests.helpers.modules import apply, init, leaky, normal

PEDESTAL = 2.0**-36


def conv(x, params, stride=1, pad=None):
  """Cross-correlation of f64[B, H, W, Cin], tap by tap."""
  kernel, bias = (np.asarray(params[name], np.float64) for name in ('kernel', 'bias'))
  size = len(kernel)
  pad = size // 2 if pad is None else pad
  x = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  rows, columns = ((side - size) // stride + 1 for side in x.shape[1:3])
  out = np.zeros((len(x), rows, columns, len(bias))) + bias
  for i in range(size):
    for j in range(size):
      taps = x[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
      out += taps[:, :rows, :columns] @ kernel[i, j]
  return out


def shuffled(x):
  out = np.zeros((len(x), 2 * x.shape[1], 2 * x.shape[2], x.shape[3] // 4))
  for i, part in enumerate(np.split(x, 4, -1)):
    out[:, i // 2 :: 2, i % 2 :: 2] = part
  return out


def gdn(x, params, *, inverse=False):
  beta = np.maximum(params['beta'].astype(np.float64), (1e-6 + PEDESTAL) ** 0.5) ** 2 - PEDESTAL
  gamma = np.maximum(params['gamma'].astype(np.float64), 2.0**-18) ** 2 - PEDESTAL
  out = np.empty(x.shape)
  for i in range(x.shape[-1]):  # gamma is [from, to].
    norm = np.sqrt(beta[i] + sum(gamma[j, i] * x[..., j] ** 2 for j in range(x.shape[-1])))
    out[..., i] = x[..., i] * norm if inverse else x[..., i] / norm
  return out


def relu(x):
  return np.maximum(x, 0)


def unit(x, params):
  out = relu(conv(x, params['conv1']))
  out = relu(conv(out, params['conv2']))
  return relu(x + conv(out, params['conv3']))


def attention(x, params):
  trunk = gate = x
  for i in range(3):
    trunk, gate = unit(trunk, params[f'trunk{i}']), unit(gate, params[f'gate{i}'])
  return x + trunk * special.expit(conv(gate, params['gate']))


def block(x, params, slope=0.01):
  return x + leaky(conv(leaky(conv(x, params['conv1']), slope), params['conv2']), slope)


def down(x, params, slope=0.01):
  out = leaky(conv(x, params['conv1'], 2), slope)
  return gdn(conv(out, params['conv2']), params['gdn']) + conv(x, params['skip'], 2)


def up(x, params, slope=0.01):
  out = leaky(shuffled(conv(x, params['subpixel']['conv'])), slope)
  out = gdn(conv(out, params['conv']), params['igdn'], inverse=True)
  return out + shuffled(conv(x, params['skip']['conv']))


def transposed(x, params):
  """Each input adds its kernel, turned by half a circle, around its place in the output."""
  kernel = np.asarray(params['kernel'], np.float64)[::-1, ::-1]
  size, (batch, height, width, _) = len(kernel), x.shape
  out = np.zeros((batch, 2 * height + 2 * size, 2 * width + 2 * size, kernel.shape[-1]))
  for i in range(height):
    for j in range(width):
      top, left = 2 * i - size // 2 + size, 2 * j - size // 2 + size
      out[:, top : top + size, left : left + size] += np.einsum(
        'bc,klco->bklo', x[:, i, j].astype(np.float64), kernel
      )
  return out[:, size:-size, size:-size] + params['bias']


FORMULAS = {
  'conv3': (blocks.Conv(5), conv),
  'conv1': (blocks.Conv(5, 1), conv),
  'conv7': (blocks.Conv(2, 7), conv),
  'strided3': (blocks.Conv(5, stride=2), lambda x, p: conv(x, p, 2)),
  'strided5': (blocks.Conv(5, 5, 2), lambda x, p: conv(x, p, 2)),
  'strided1': (blocks.Conv(5, 1, 2), lambda x, p: conv(x, p, 2)),
  'valid3': (blocks.Conv(5, padding='VALID'), lambda x, p: conv(x, p, pad=0)),
  'valid5': (blocks.Conv(5, 5, 2, 'VALID'), lambda x, p: conv(x, p, 2, 0)),
  'subpixel': (blocks.SubPixel(3), lambda x, p: shuffled(conv(x, p['conv']))),
  'deconv3': (blocks.Deconv(3), transposed),
  'deconv5': (blocks.Deconv(3, 5), transposed),
  'gdn': (blocks.GDN(), gdn),
  'igdn': (blocks.GDN(inverse=True), lambda x, p: gdn(x, p, inverse=True)),
  'block': (blocks.ResidualBlock(0.2), lambda x, p: block(x, p, 0.2)),
  'down': (blocks.ResidualDown(5), down),
  'up': (blocks.ResidualUp(3), up),
  'unit': (blocks.ResidualUnit(), unit),
  'attention': (blocks.Attention(), attention),
}


@pytest.mark.parametrize('name', FORMULAS)
def test_a_layer_is_its_formula(name):
  module, formula = FORMULAS[name]
  x = normal(2, 6, 8, 4)
  params = jax.tree.map(lambda v: v / 4 if v.ndim == 4 else v, init(module, x))
  expected = formula(x.astype(np.float64), params)
  found = apply(module, params, x)
  assert found.shape == expected.shape
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


STRIDES = {'strided3': 2, 'strided5': 2, 'strided1': 2, 'down': 2}
UPS = ('subpixel', 'deconv3', 'deconv5', 'up')
FRAMED = [name for name in FORMULAS if 'valid' not in name and 'gdn' not in name]


@pytest.mark.parametrize('name', FRAMED)
def test_a_framed_image_gives_the_numbers_that_it_gives_alone(name):
  module, _ = FORMULAS[name]
  stride, up_by = STRIDES.get(name, 1), 2 if name in UPS else 1
  x = normal(2, 4, 6, 4)
  params = jax.tree.map(lambda v: v / 4 if v.ndim == 4 else v, init(module, x))
  grid = 12 // stride, 14 // stride
  corners = [(2, 4), (6, 8)]  # Of the image in the array, one for each example.
  larger = 100 * normal(2, 12, 14, 4, seed=1)  # What is around it must not matter.
  edges = []
  for i, (top, left) in enumerate(corners):
    larger[i, top : top + 4, left : left + 6] = x[i]
    edges.append([value // stride for value in (top, top + 4, left, left + 6)])
  frame = Frame(jnp.array(edges), grid)
  run = jax.jit(lambda x, edges: module.apply({'params': params}, x, Frame(edges, grid)))
  found, alone = np.asarray(run(larger, frame.edges)), apply(module, params, x)
  for i, (top, left) in enumerate(corners):
    top, left = (value * up_by // stride for value in (top, left))
    inside = found[i, top : top + alone.shape[1], left : left + alone.shape[2]]
    np.testing.assert_allclose(inside, alone[i], rtol=1e-4, atol=1e-4)


def masked(x, frame):
  return np.asarray(jax.jit(lambda x, e: blocks.masked(x, Frame(e, frame.grid)))(x, frame.edges))


def test_masked_keeps_the_cells_inside_at_every_resolution():
  frame = Frame(jnp.array([[1, 3, 0, 2], [0, 4, 2, 5]]), (4, 5))
  for scale in (1, 3):
    x = np.ones((2, 4 * scale, 5 * scale, 2), np.float32)
    expected = np.zeros_like(x)
    expected[0, scale : 3 * scale, : 2 * scale] = 1
    expected[1, :, 2 * scale :] = 1
    np.testing.assert_array_equal(masked(x, frame), expected)
  assert blocks.masked(x, None) is x


def test_masked_stops_what_is_no_number():
  x = np.full((1, 4, 5, 1), np.nan, np.float32)
  assert not masked(x, Frame(jnp.array([[0, 0, 0, 0]]), (4, 5))).any()


def test_a_pixel_shuffle_lays_channels_out_by_row_then_column():
  x = jnp.arange(8.0).reshape(1, 1, 1, 8)  # Two channels: (0, 1) top left, (2, 3) top right.
  found = np.asarray(blocks.pixel_shuffle(x))
  np.testing.assert_array_equal(found[0, :, :, 0], [[0, 2], [4, 6]])
  np.testing.assert_array_equal(found[0, :, :, 1], [[1, 3], [5, 7]])


@pytest.mark.parametrize('cell,channels', [(1, 3), (2, 3), (4, 2), (8, 3)])
def test_cells_come_apart_and_together_again(cell, channels):
  x = normal(2, 3 * cell, 2 * cell, channels)
  cells = blocks.to_cells(x, cell)
  assert cells.shape == (2, 3, 2, cell**2 * channels)
  np.testing.assert_array_equal(blocks.from_cells(cells, cell), x)


def test_a_cell_is_a_block_of_pixels_row_by_row():
  x = normal(1, 6, 9, 2)
  cells = np.asarray(blocks.to_cells(x, 3))
  for row in range(2):
    for column in range(3):
      block = x[0, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
      np.testing.assert_array_equal(cells[0, row, column], block.ravel())


HALVES = {name: FORMULAS[name][0] for name in FORMULAS} | {
  'channel norm': blocks.ChannelNorm(),
  'block analysis': linear.BlockAnalysis(5, 2),
  'block synthesis': linear.BlockSynthesis(2),
}


@pytest.mark.parametrize('name', HALVES)
@pytest.mark.parametrize('kind', [jnp.bfloat16, jnp.float32])
def test_outputs_have_the_type_of_inputs_whatever_that_of_parameters_is(name, kind):
  x = jax.ShapeDtypeStruct((1, 6, 8, 3 if name == 'block analysis' else 4), jnp.float32)
  module = HALVES[name]
  variables = jax.eval_shape(lambda x: nn.Module.init(module, jax.random.key(0), x), x)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
  out = jax.eval_shape(module.apply, variables, jax.ShapeDtypeStruct(x.shape, kind))
  assert out.dtype == kind


@pytest.mark.parametrize('kernel', [3, 5])
def test_an_impulse_through_a_transposed_convolution_is_its_turned_kernel(kernel):
  weights = np.arange(1.0, kernel**2 + 1, dtype=np.float32).reshape(kernel, kernel, 1, 1)
  x = np.zeros((1, 5, 5, 1), np.float32)
  x[0, 2, 2] = 1
  params = {'kernel': weights, 'bias': np.zeros(1, np.float32)}
  found = apply(blocks.Deconv(1, kernel), params, x)[0, :, :, 0]
  first, last = 4 - kernel // 2, 4 + kernel // 2 + 1
  np.testing.assert_array_equal(found[first:last, first:last], weights[::-1, ::-1, 0, 0])
  assert found.sum() == weights.sum()


def test_gdn_starts_as_its_paper_does():
  params = jax.jit(blocks.GDN().init)(jax.random.key(0), np.ones((1, 1, 1, 3)))['params']
  x = np.array([[[[1.0, -2.0, 0.5]]]], np.float32)  # beta 1, gamma 0.1 on the diagonal.
  np.testing.assert_allclose(apply(blocks.GDN(), params, x), x / np.sqrt(1 + 0.1 * x**2), rtol=1e-5)


def test_gdn_stays_finite_where_training_drove_its_parameters_below_zero():
  params = {'beta': np.full(3, -5, np.float32), 'gamma': np.full((3, 3), -5, np.float32)}
  x = normal(1, 2, 2, 3)
  # beta is held at 1e-6, gamma at 0.
  np.testing.assert_allclose(apply(blocks.GDN(), params, x), x * 1e3, rtol=1e-3)


@pytest.mark.parametrize('channels', [2, 7])
def test_channel_norm_is_its_formula(channels):
  module, x = blocks.ChannelNorm(), 3 + 2 * normal(2, 3, 4, channels)
  params = init(module, x)
  centred = x - x.mean(-1, keepdims=True, dtype=np.float64)
  variance = x.astype(np.float64).var(-1, ddof=1, keepdims=True)
  expected = centred / np.sqrt(variance + 1e-3) * params['gamma'] + params['beta']
  np.testing.assert_allclose(apply(module, params, x), expected, rtol=1e-4, atol=1e-5)


def test_the_norm_of_a_single_channel_is_its_offset():
  params = {'gamma': np.ones(1, np.float32), 'beta': np.full(1, 2, np.float32)}
  assert (apply(blocks.ChannelNorm(), params, normal(1, 2, 2, 1)) == 2).all()


def test_lower_bound_lets_through_only_gradients_that_do_not_push_further_down():
  x, bound = jnp.array([-1.0, -1.0, 0.5, 2.0, 2.0]), 0.5
  np.testing.assert_array_equal(blocks.lower_bound(x, bound), [0.5, 0.5, 0.5, 2, 2])
  weight = jnp.array([3.0, -3.0, 3.0, 3.0, -3.0])  # Descent lowers x where it is positive.
  grad = jax.grad(lambda x: (weight * blocks.lower_bound(x, bound)).sum())(x)
  np.testing.assert_array_equal(grad, [0, -3, 3, 3, -3])


@pytest.mark.parametrize('gain', [1.0, 8.0])
def test_initial_kernels_are_uniform_with_the_variance_asked_for(gain):
  kernel = np.asarray(blocks.initial(gain)(jax.random.key(0), (3, 3, 64, 32)))
  limit = gain / np.sqrt(9 * 64)
  assert 0.99 * limit < np.abs(kernel).max() <= limit
  assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.01)


@pytest.mark.parametrize('sides', [(3, 2), (8, 40)])
def test_mirror_images_are_those_of_numpy_also_where_the_size_is_not_known_yet(sides):
  x = np.random.default_rng(0).random((1, *sides, 2), np.float32)
  expected = np.pad(x, ((0, 0), (7, 7), (7, 7), (0, 0)), 'reflect')
  np.testing.assert_array_equal(blocks.mirror(jnp.asarray(x), 7), expected)
  shape = jax.export.symbolic_shape('b, h, w, 2')
  given = jax.ShapeDtypeStruct(shape, np.float32)
  program = jax.export.export(jax.jit(lambda x: blocks.mirror(x, 7)))(given)
  np.testing.assert_array_equal(program.call(x), expected)


@pytest.mark.parametrize('size', [3, 5])
def test_the_slopes_of_a_transposed_convolution_are_those_of_its_formula(size):
  """It is linear in input and kernel: a slope times a change is the change by the formula."""
  x, dx = normal(2, 3, 4, 5), normal(2, 3, 4, 5, seed=1)
  kernel, dk = normal(size, size, 5, 2), normal(size, size, 5, 2, seed=1)
  weight, no_bias = normal(2, 6, 8, 2), np.zeros(2)
  total = lambda x, kernel: jnp.vdot(weight, blocks.transposed(x, kernel))  # noqa: E731
  of_x, of_kernel = jax.jit(jax.grad(total, (0, 1)))(x, kernel)
  by_x = np.vdot(weight, transposed(dx, {'kernel': kernel, 'bias': no_bias}))
  by_kernel = np.vdot(weight, transposed(x, {'kernel': dk, 'bias': no_bias}))
  assert float(np.vdot(of_x, dx)) == pytest.approx(by_x, rel=1e-4, abs=1e-3)
  assert float(np.vdot(of_kernel, dk)) == pytest.approx(by_kernel, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize('size', [3, 5])
def test_a_transposed_convolution_takes_one_product_per_tap_and_input(size):
  x, kernel = normal(1, 8, 12, 32), normal(size, size, 32, 16)
  cost = jax.jit(blocks.transposed).lower(x, kernel).compile().cost_analysis()
  assert cost['flops'] <= 2 * size**2 * 8 * 12 * 32 * 16


@pytest.mark.parametrize('size', [3, 5])
def test_a_transposed_convolution_is_the_sub_pixel_convolution_that_files_are_coded_by(size):
  x, kernel = normal(2, 5, 7, 6), normal(size, size, 6, 3)
  wide = blocks.pixel_shuffle(blocks.convolve(x, blocks.phases(kernel)))
  found = jax.jit(blocks.transposed)(x, kernel)
  np.testing.assert_allclose(found, wide, atol=1e-5 * np.abs(wide).max())
