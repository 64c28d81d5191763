"""The networks have the published sizes, the geometry of the format, and the reach of the tiles."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax import layers
from compress_jax.methods import cae as cae_method
from compress_jax.methods import gan as gan_method
from compress_jax.methods import gmm as gmm_method
from compress_jax.models import cae, gan, gmm

TINY = {
  'cae': (cae_method, {'widths': (4, 4, 4)}),
  'gan': (gan_method, {'base': 2, 'blocks': 1, 'latents': 4, 'hyper': 4}),
  'gmm': (gmm_method, {'channels': 4, 'attention': False}),
}
CELLS = {'cae': 8, 'gan': 16, 'gmm': 16}
# These programs run once: compiling them is what takes time.
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def sizes(tree):
  return {name: count(part) for name, part in tree.items()}


def count(tree):
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def shapes_of(codec):
  return jax.eval_shape(codec.init, jax.random.key(0))


def random(shapes, draw):
  """Parameters: `draw(shape)` of every kernel, and of the rest what `rest` says by its name."""
  rest = {'bias': 0.0, 'beta': 1.0, 'gamma': 1.0}

  def value(path, leaf):
    name = path[-1].key
    if name in rest:
      return np.full(leaf.shape, rest[name], np.float32)
    return np.asarray(draw(leaf.shape), np.float32)

  return jax.tree_util.tree_map_with_path(value, shapes)


# Sizes.


@pytest.mark.parametrize(
  'channels,attention,expected',
  [
    (128, True, 13_183_293),  # cheng2020-attn and -anchor of CompressAI 1.2.8, as counted there.
    (192, True, 29_631_788),
    (128, False, 11_833_149),
    (192, False, 26_598_956),
  ],
)
def test_gmm_of_one_gaussian_has_the_parameters_of_compressai(channels, attention, expected):
  codec = gmm_method.codec(channels=channels, attention=attention, mixtures=1)
  parts = sizes(shapes_of(codec))
  assert parts.pop('log_gains') == 6 * channels  # Ours.
  assert sum(parts.values()) == expected


def test_a_mixture_adds_to_the_last_layer_alone():
  one, three = (sizes(shapes_of(gmm_method.codec(mixtures=k))) for k in (1, 3))
  hidden = 128 * 8 // 3
  three['parameters'] -= (hidden + 1) * (9 - 2) * 128
  assert three == one


def test_cae_has_the_parameters_of_its_paper():
  parts = sizes(shapes_of(cae_method.codec()))
  # Theis et al. (2017), figure 2, with 96 channels of latents and 6 scales each.
  assert parts == {
    'analysis': 1_402_592,
    'synthesis': 1_630_476,
    'prior': 2 * 6 * 96,
    'log_gains': 6 * 96,
  }


def test_gan_has_the_parameters_of_its_authors_networks():
  parts = sizes(shapes_of(gan_method.codec()))
  assert parts.pop('log_gains') == 6 * 220
  assert parts == {
    'analysis': 7_423_420,
    'synthesis': 156_774_683,
    'hyper_analysis': 5_754_560,
    'hyper_mean': 5_754_460,
    'hyper_scale': 5_754_460,
    'prior': 13_760,
  }
  assert sum(parts.values()) == 181_475_343


@pytest.mark.parametrize('module', [cae_method, gan_method, gmm_method])
def test_a_codec_without_options_has_the_size_of_its_paper(module):
  defaults = inspect.signature(module.codec).parameters
  assert {name: defaults[name].default for name in module.PRESETS['paper']} == module.PRESETS[
    'paper'
  ]


def discriminator(filters, side, latents):
  module = gan.Discriminator(filters)
  x, y_hat = jnp.zeros((1, side, side, 3)), jnp.zeros((1, side // 16, side // 16, latents))
  return module, jax.eval_shape(module.init, jax.random.key(0), x, y_hat), x, y_hat


def test_the_discriminator_has_its_parameters_and_judges_patches_of_eight_pixels():
  module, shapes, x, y_hat = discriminator((64, 128, 256, 512), 256, 220)
  assert count(shapes['params']) == 2_800_797
  assert jax.eval_shape(module.apply, shapes, x, y_hat).shape == (1, 32, 32)


def test_the_discriminator_sees_kernels_of_norm_one_and_sends_no_gradient_to_the_latents():
  module, shapes, x, y_hat = discriminator((4, 4, 4, 4), 32, 5)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda v: rng.normal(size=v.shape).astype(np.float32), shapes)
  variables['params'] = random(shapes['params'], lambda shape: rng.normal(size=shape))
  x, y_hat = (rng.normal(size=v.shape).astype(np.float32) for v in (x, y_hat))

  @jit
  def logits(params, stats, y_hat):
    variables = {'params': params, 'batch_stats': stats}
    return module.apply(variables, x, y_hat, update=True, mutable=['batch_stats'])

  params, stats = variables['params'], variables['batch_stats']
  for _ in range(2):
    out, updated = logits(params, stats, y_hat)
    larger = jax.tree.map(lambda v: 9 * v, params)  # Biases are 0.
    np.testing.assert_allclose(logits(larger, stats, y_hat)[0], out, rtol=1e-4, atol=1e-5)
    assert np.abs(out).max() > 1e-3
    stats = updated['batch_stats']
  changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), variables['batch_stats'], stats)
  assert all(jax.tree.leaves(changed))
  assert np.abs(np.asarray(logits(params, stats, 2 * y_hat)[0]) - out).max() > 1e-3
  grad = jit(jax.grad(lambda y_hat: logits(params, stats, y_hat)[0].sum()))(y_hat)
  assert not np.asarray(grad).any()


# Geometry.


@pytest.mark.parametrize('name', TINY)
@pytest.mark.parametrize('size,noisy', [((1, 1), False), ((65, 33), True)])
def test_any_size_has_latents_for_every_cell_and_comes_back_whole(name, size, noisy):
  module, options = TINY[name]
  codec = module.codec(**options)
  x, level = jnp.zeros((2, *size, 3)), jnp.zeros(2, jnp.int32)
  key = jax.random.key(0) if noisy else None
  coded = jax.eval_shape(codec.apply, shapes_of(codec), x, level, key)
  assert coded.x_hat.shape == x.shape
  assert coded.y_hat.shape == (2, *(-(-side // CELLS[name]) for side in size), 4)
  assert set(coded.bits) == ({'y'} if name == 'cae' else {'y', 'z'})
  assert all(bits.shape == (2,) for bits in coded.bits.values())


def test_the_valid_convolutions_of_cae_use_up_35_pixels_on_each_side():
  module = cae.Analysis((4, 4, 4))

  def latents(side):
    x = jnp.zeros((1, side, side, 3))
    return jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], x).shape[1]

  for cells in (1, 2, 16):
    side = 8 * cells + 2 * cae.MARGIN
    assert latents(side) == cells
    # Strides leave one pixel to spare at the far end: 8 is even, and kernels are odd.
    assert latents(side - 1) == cells and latents(side - 2) == cells - 1


def test_a_valid_block_adds_its_shortcut_at_the_same_place():
  identity = np.zeros((3, 3, 1, 1), np.float32)
  identity[1, 1] = 1
  conv = {'kernel': identity, 'bias': np.zeros(1, np.float32)}
  x = np.random.default_rng(0).random((1, 9, 8, 1), np.float32)
  found = cae.ValidBlock().apply({'params': {'conv1': conv, 'conv2': conv}}, x)
  np.testing.assert_allclose(found, 2 * x[:, 2:-2, 2:-2], rtol=1e-6)


def test_what_is_synthesised_is_whole_symbols_with_noise_for_the_rate_alone():
  module, options = TINY['cae']
  codec, rng = module.codec(**options), np.random.default_rng(0)
  params = random(shapes_of(codec), lambda shape: rng.normal(size=shape) / 4)
  params['prior']['log_scales'] += 2
  x, level = rng.random((2, 24, 16, 3), np.float32), np.array([0, 204])

  @jit
  def both():
    return codec.apply(params, x, level, None), codec.apply(params, x, level, jax.random.key(0))

  rounded, noisy = both()
  gain = np.exp(params['log_gains'])[[0, 4]]  # Learned at every 51st level byte.
  symbols = np.asarray(rounded.y_hat) * gain[:, None, None]
  assert np.abs(symbols).max() > 2
  np.testing.assert_allclose(symbols, np.rint(symbols), atol=1e-3)
  np.testing.assert_array_equal(noisy.y_hat, rounded.y_hat)
  np.testing.assert_array_equal(noisy.x_hat, rounded.x_hat)
  assert (np.asarray(noisy.bits['y']) != rounded.bits['y']).all()


# Reach.


def test_the_context_sees_exactly_the_twelve_neighbours_that_are_coded_before():
  module, y = gmm.Context(), np.ones((1, 7, 8, 2), np.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), y)['params']
  rng = np.random.default_rng(0)
  params = random(shapes, lambda shape: 1 + rng.random(shape))

  @jit
  @jax.grad
  def influence(y, row, column):
    return module.apply({'params': params}, y)[0, row, column].sum()

  for row, column in [(3, 4), (0, 0), (0, 7), (6, 2), (5, 6)]:
    seen = {(int(i), int(j)) for _, i, j, _ in np.argwhere(np.asarray(influence(y, row, column)))}
    expected = {(row - i, column + j) for i in (1, 2) for j in range(-2, 3)}
    expected |= {(row, column - 1), (row, column - 2)}
    assert seen == {(i, j) for i, j in expected if 0 <= i < 7 and 0 <= j < 8}


def test_the_context_applies_each_tap_to_its_own_neighbour():
  y = np.random.default_rng(0).normal(size=(1, 6, 7, 2)).astype(np.float32)
  kernel = np.random.default_rng(1).normal(size=(5, 5, 2, 4)).astype(np.float32)
  bias = np.arange(4, dtype=np.float32)
  masked = kernel.copy()
  masked[2, 2:] = masked[3:] = 0
  params = {'kernel': kernel, 'bias': bias}
  np.testing.assert_allclose(
    gmm.Context().apply({'params': params}, y), layers.convolve(y, masked) + bias, atol=1e-4
  )


def reach(network, channels, cell_in, cell_out, halo):
  """How many cells away from its own an output cell depends on inputs, as a real number.

  Kernels are random; where activations could cut off a path their inputs are kept positive.
  """
  side, middle = 2 * halo + 5, halo + 2
  x = np.random.default_rng(0).uniform(0.5, 1, (1, side * cell_in, side * cell_in, channels))
  shapes = jax.eval_shape(network.init, jax.random.key(0), x.astype(np.float32))['params']
  rng = np.random.default_rng(1)
  params = random(shapes, lambda shape: rng.uniform(0.5, 1.5, shape) / np.prod(shape[:-1]))
  # ChannelNorm takes away what all channels have in common, so its outputs are lifted above 0.
  lifted = jax.tree_util.tree_map_with_path(
    lambda path, v: v * 0 + 4 if path[-1].key == 'beta' and 'norm' in path[-2].key else v, params
  )

  @jit
  @jax.grad
  def influence(x):
    out = network.apply({'params': lifted}, x)
    kept = slice(middle * cell_out, (middle + 1) * cell_out)
    weight = np.random.default_rng(2).uniform(1, 2, (cell_out, cell_out, out.shape[-1]))
    return (weight * out[0, kept, kept]).sum()

  seen = np.asarray(influence(x.astype(np.float32)))[0].any(-1)
  ends = [np.flatnonzero(seen.any(axis)) for axis in (0, 1)]
  before = max(middle * cell_in - found[0] for found in ends)
  behind = max(found[-1] + 1 - (middle + 1) * cell_in for found in ends)
  return max(before, behind) / cell_in


NETWORKS = {
  # Network, channels, pixels of a cell in and out, halo, and the sum of radii by hand.
  'gmm analysis': (
    gmm.Analysis(2), 3, 16, 1, gmm_method._ANALYSIS_HALO,
    # Pixels: blocks at 1/1 .. 1/8, three units of attention at 1/4 and at 1/16.
    (1 + 2 + 4 + 2 + 4 + 12 + 8 + 4 + 8 + 16 + 8 + 48) / 16,
  ),
  'gmm hyper_analysis': (gmm.HyperAnalysis(), 2, 4, 1, gmm_method._HYPER_HALO, (3 + 4) / 4),
  'gmm synthesis': (
    gmm.Synthesis(), 2, 1, 16, gmm_method._SYNTHESIS_HALO,
    # Latents: whole up to the fraction of a pixel's place in its cell.
    (3 + 2 + 1) + (1 + 2 + 1) / 2 + (1 + 3 + 2 + 1) / 4 + (1 + 2 + 1) / 8,
  ),
  'gan analysis': (
    gan.Analysis(2, 3), 3, 16, 1, gan_method._ANALYSIS_HALO, (3 + 1 + 2 + 4 + 8 + 16) / 16
  ),
  'gan hyper_analysis': (gan.HyperAnalysis(3), 2, 4, 1, gan_method._HYPER_HALO, (1 + 2 + 4) / 4),
  'cae synthesis': (
    cae.Synthesis((4, 4, 4)), 4, 1, 8, cae_method._SYNTHESIS_HALO, 1 + 6 / 2 + 1 / 2 + 1 / 4
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', NETWORKS)
def test_the_halo_of_tiles_covers_what_an_output_depends_on(name):
  *network, halo, radius = NETWORKS[name]
  found = reach(*network, halo)
  # A cell of the input is whole: its nearest pixel is `radius` away, and the next is not.
  assert found == (radius if network[2] > 1 else np.ceil(radius))
  assert halo - 1 < found <= halo


@pytest.mark.parametrize('blocks', [1, 2])
def test_the_halo_of_the_generator_grows_with_its_blocks(blocks):
  halo = 2 * blocks + 4
  found = reach(gan.Synthesis(2, blocks), 3, 1, 16, halo)
  assert found <= halo


def test_the_analysis_of_cae_sees_its_margin_and_no_more():
  module = cae.Analysis((4, 4, 4))
  x = np.ones((1, 8 + 2 * cae.MARGIN, 8 + 2 * cae.MARGIN, 3), np.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)['params']
  rng = np.random.default_rng(0)
  params = random(shapes, lambda shape: rng.uniform(0.5, 1.5, shape) / np.prod(shape[:-1]))
  grad = jit(jax.grad(lambda x: module.apply({'params': params}, x).sum()))(x)
  seen = np.flatnonzero(np.asarray(grad).any((0, 2, 3)))
  # The latent of pixels 0..7 is centred on pixel 3, and sees 38 to either side of it.
  assert (seen[0] - cae.MARGIN, seen[-1] - cae.MARGIN) == (3 - 38, 3 + 38)
