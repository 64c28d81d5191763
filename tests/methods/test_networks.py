"""The networks have the published sizes, the geometry of the format, and the reach of the tiles."""

import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax import codec as levels
from compress_jax.codec import LAMBDA_RANGE, CodecError
from compress_jax.exact import hyper
from compress_jax.layers import blocks as layers
from compress_jax.layers import dct, entropy
from compress_jax.methods.cae import codec as cae_method
from compress_jax.methods.cae import networks as cae
from compress_jax.methods.gan import codec as gan_method
from compress_jax.methods.gan import networks as gan
from compress_jax.methods.gmm import codec as gmm_method
from tests.helpers.modules import jit, random

TINY = {
  'cae': (cae_method, {'widths': (4, 4, 4)}),
  'gan': (gan_method, {'base': 2, 'blocks': 1, 'latents': 4, 'hyper': 4}),
  'gmm': (gmm_method, {'channels': 4, 'attention': False}),
}
TINY |= {f'linear {name}': (module, {**kw, 'linear': True}) for name, (module, kw) in TINY.items()}
TINY['gmm of a stem'] = gmm_method, {'channels': 4, 'attention': False, 'stem': 4}
TINY['gmm of more latents'] = gmm_method, {**TINY['gmm of a stem'][1], 'latents': 6, 'hyper': 3}
TINY['gmm in slices'] = (
  gmm_method,
  {**TINY['gmm of more latents'][1], 'slices': (2, 4), 'magnitudes': True},
)
BESIDE = {'restoration': 3, 'centred': True}
TINY['gmm by channels'] = gmm_method, {**TINY['gmm in slices'][1], 'context': 'channels'}
TINY['gmm beside a path'] = gmm_method, {**TINY['linear gmm'][1], 'stem': 4, **BESIDE}
TINY['gmm with shortcuts'] = gmm_method, {**TINY['gmm beside a path'][1], 'shortcuts': True}
TINY['gan beside a path'] = gan_method, {**TINY['linear gan'][1], **BESIDE, 'magnitudes': True}
TINY['gan with deblocking'] = gan_method, {**TINY['gan beside a path'][1], 'deblocking': True}
CELLS = {cae_method: 8, gan_method: 16, gmm_method: 16}


def sizes(tree):
  return {name: count(part) for name, part in tree.items()}


def count(tree):
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def shapes_of(codec):
  return jax.eval_shape(codec.init, jax.random.key(0))


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


def attended(latents, attention):
  """Parameters of the attention modules of gmm with 4 channels, by transform and module."""
  codec = gmm_method.codec(channels=4, latents=latents, attention=attention, stem=4)
  parts = shapes_of(codec)
  return {
    (side, name): count(part)
    for side in ('analysis', 'synthesis')
    for name, part in parts[side].items()
    if 'attention' in name
  }


def module_of(width):
  """Parameters of an attention module: six residual units of half the width, and a 1x1 layer."""
  half = width // 2
  unit = (width * half + half) + (9 * half * half + half) + (half * width + width)
  return 6 * unit + width * width + width


def test_attention_stands_inside_of_the_transforms_beside_the_latents_or_at_both():
  inside = {('analysis', 'attention0'): module_of(4), ('synthesis', 'attention1'): module_of(4)}
  for latents in (4, 6):
    beside = ('analysis', 'attention1'), ('synthesis', 'attention0')
    four = inside | dict.fromkeys(beside, module_of(latents))
    assert attended(latents, 'all') == four
    assert attended(latents, 'inner') == inside
    assert attended(latents, False) == {}
    assert attended(latents, True) == (four if latents == 4 else inside)


def test_an_unknown_attention_is_refused():
  with pytest.raises(CodecError, match="attention='none' is not one of True, False, inner, all"):
    gmm_method.codec(channels=4, attention='none')


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
  options = module.METHOD.preset('paper').options
  assert {name: defaults[name].default for name in options} == options


def discriminator(filters, side, latents):
  module = gan.Discriminator(filters)
  x, y_hat = jnp.zeros((1, side, side, 3)), jnp.zeros((1, side // 16, side // 16, latents))
  return module, jax.eval_shape(module.init, jax.random.key(0), x, y_hat), x, y_hat


def test_the_discriminator_has_its_parameters_and_judges_patches_of_eight_pixels():
  module, shapes, x, y_hat = discriminator((64, 128, 256, 512), 256, 220)
  assert count(shapes['params']) == 2_800_797
  assert jax.eval_shape(module.apply, shapes, x, y_hat).shape == (1, 32, 32)


@pytest.mark.slow
def test_the_details_that_a_discriminator_sees_leave_out_the_local_mean():
  module = gan.Discriminator((4, 4, 4, 4), details=True)
  rng = np.random.default_rng(0)
  x, y_hat = rng.uniform(size=(1, 32, 32, 3)), np.zeros((1, 2, 2, 5))
  variables = module.init(jax.random.key(0), x, y_hat)
  kernel = variables['params']['conv0']['kernel']
  assert kernel.shape == (4, 4, 3 + 3 + 12, 4)
  variables['params']['conv0']['kernel'] = kernel.at[:, :, :3].set(0)  # The image itself.
  judged = jit(lambda x: module.apply(variables, x, y_hat))
  texture = 0.1 * (np.indices((32, 32)).sum(0)[None, ..., None] % 2)
  np.testing.assert_allclose(judged(x + 0.3), judged(x), rtol=1e-3)
  assert np.abs(judged(x + texture) / judged(x) - 1).max() > 0.02


def test_the_discriminator_sees_kernels_of_norm_one_and_sends_no_gradient_to_the_latents():
  module, shapes, x, y_hat = discriminator((4, 4, 4, 4), 32, 5)
  rng = np.random.default_rng(0)
  params = random(shapes['params'], lambda shape: rng.normal(size=shape))
  stats = start = jax.tree.map(lambda v: rng.normal(size=v.shape), shapes['batch_stats'])
  x, y_hat = (rng.normal(size=v.shape) for v in (x, y_hat))

  @jit
  def judged(params, stats, x, y_hat):
    def total(x, y_hat):
      variables = {'params': params, 'batch_stats': stats}
      out, updated = module.apply(variables, x, y_hat, update=True, mutable=['batch_stats'])
      return out.sum(), (out, updated['batch_stats'])

    grads, aux = jax.grad(total, (0, 1), has_aux=True)(x, y_hat)
    return *aux, *grads

  for _ in range(2):
    out, updated, by_x, by_y = judged(params, stats, x, y_hat)
    scaled = jax.tree.map(lambda v: 9 * v, params)  # Biases are 0.
    np.testing.assert_allclose(judged(scaled, stats, x, y_hat)[0], out, rtol=1e-4, atol=1e-5)
    assert np.abs(out).max() > 1e-3
    assert np.asarray(by_x).any() and not np.asarray(by_y).any()
    stats = updated
  assert np.abs(judged(params, stats, x, 2 * y_hat)[0] - out).max() > 1e-3  # Yet they are seen.
  changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), start, stats)
  assert all(jax.tree.leaves(changed))


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
  assert coded.y_hat.shape[:3] == (2, *(-(-side // CELLS[module]) for side in size))
  assert coded.y_hat.shape[3] == options.get('latents', 4)
  assert set(coded.bits) == ({'y'} if module is cae_method else {'y', 'z'})
  assert all(bits.shape == (2,) for bits in coded.bits.values())


def test_the_valid_convolutions_of_cae_use_up_35_pixels_on_each_side():
  module = cae.Analysis((4, 4, 4))

  def latents(side):
    x = jnp.zeros((1, side, side, 3))
    return jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], x).shape[1]

  for cells in (1, 2, 16):
    assert latents(8 * cells + 2 * cae.MARGIN) == cells


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
  def both(params):
    rounded, noisy = (codec.apply(params, x, level, key) for key in (None, jax.random.key(0)))
    synthesis = cae.Synthesis((4, 4, 4))
    return rounded, noisy, synthesis.apply({'params': params['synthesis']}, rounded.y_hat)

  rounded, noisy, x_hat = both(params)
  np.testing.assert_allclose(rounded.x_hat, x_hat, atol=1e-4)
  gain = np.exp(params['log_gains'])[[0, 4]]  # Learned at every 51st level byte.
  symbols = np.asarray(rounded.y_hat) * gain[:, None, None]
  assert np.abs(symbols).max() > 2
  np.testing.assert_allclose(symbols, np.rint(symbols), atol=1e-3)
  np.testing.assert_array_equal(noisy.y_hat, rounded.y_hat)
  np.testing.assert_array_equal(noisy.x_hat, rounded.x_hat)
  assert (np.asarray(noisy.bits['y']) != rounded.bits['y']).all()


@pytest.mark.parametrize('name', ['cae', 'gan', 'gmm', 'gmm by channels', 'gmm in slices'])
def test_noise_goes_with_the_key_of_an_example_wherever_it_stands(name):
  module, options = TINY[name]
  codec, rng = module.codec(**options), np.random.default_rng(0)
  params = random(shapes_of(codec), lambda shape: rng.normal(size=shape) / 4)
  x, level = rng.random((3, 16, 24, 3), np.float32), jnp.array([0, 100, 255])
  keys = jax.random.split(jax.random.key(1), 3)
  bits = jit(lambda *given: codec.apply(*given).bits)
  order = np.array([2, 0, 1])
  found = bits(params, x, level, keys)
  moved = bits(params, x[order], level[order], keys[order])
  other = bits(params, x, level, keys[order])
  for stream, values in found.items():
    np.testing.assert_allclose(moved[stream], values[order], rtol=1e-5)
    assert (np.abs(other[stream] / values - 1) > 1e-4).all()  # So each key matters.


@pytest.mark.parametrize(
  'name', ['linear cae', 'linear gan', 'linear gmm', 'gmm of a stem', 'gan with deblocking']
)
def test_transforms_work_in_the_type_of_the_image_and_bits_are_float32(name):
  module, options = TINY[name]
  codec, level = module.codec(**options), jnp.zeros(2, jnp.int32)
  x = jax.ShapeDtypeStruct((2, 33, 16, 3), jnp.bfloat16)
  seen = {}

  def note(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if isinstance(out, jax.Array | entropy.Mixture):
      seen[context.module.path] = jax.tree.leaves(out)[0].dtype
    return out

  def apply(params, x):
    with nn.intercept_methods(note):
      return codec.apply(params, x, level, jax.random.key(0))

  coded = jax.eval_shape(apply, shapes_of(codec), x)
  floats = {path: kind for path, kind in seen.items() if path and path[0] != 'prior'}
  assert len(floats) > 10 and set(floats.values()) == {jnp.dtype(jnp.bfloat16)}
  assert {leaf.dtype for leaf in jax.tree.leaves(coded)} == {jnp.dtype(jnp.float32)}
  assert seen['prior',] == jnp.float32


# Linear paths.

LINEAR = {
  'cae': (cae_method, {'widths': (4, 4, 24)}),
  'gan': (gan_method, {'base': 2, 'blocks': 1, 'latents': 24, 'hyper': 4}),
  'gmm': (gmm_method, {'channels': 24, 'attention': False, 'stem': 4, 'mixtures': 1}),
}


@functools.cache
def started(name):
  """A codec's cell, its parameters as training starts, and `apply` of an image at a level."""
  module, options = LINEAR[name]
  codec = module.codec(**options, linear=True)
  run = jit(lambda params, x, level: codec.apply(params, x, jnp.full(1, level), None))
  return CELLS[module], jit(codec.init)(jax.random.key(0)), run


def in_reach(cell, channels=24):
  """Image f32[1, 2 cell, 3 cell, 3] that the strongest vectors of each block give exactly."""
  vectors, deviations = dct.basis(cell, channels)
  y = np.random.default_rng(0).normal(size=(1, 2, 3, channels)) / 2
  return layers.from_cells(jnp.asarray((y * deviations) @ vectors + 0.5, jnp.float32), cell)


def silenced(params):
  """Without what the networks beside the linear paths add."""

  def value(path, leaf):
    names = {part.key for part in path}
    last = names & {'last', 'up2', 'down2'} and names & {'analysis', 'synthesis'}
    return 0 * leaf if last or 'hyper_mean' in names else leaf

  return jax.tree_util.tree_map_with_path(value, params)


@pytest.mark.parametrize('name', LINEAR)
def test_a_linear_path_alone_errs_by_half_a_step_of_its_lambda_at_most(name):
  cell, params, run = started(name)
  x, silent = in_reach(cell), silenced(params)
  for level, lmbda in ((0, LAMBDA_RANGE[0]), (255, LAMBDA_RANGE[1])):
    error = np.asarray(layers.to_cells(run(silent, x, level).x_hat - x, cell), np.float64)
    coefficients = error @ dct.basis(cell, 24).vectors.T
    largest, half = np.abs(coefficients).max(), dct.step(lmbda) / 2
    assert 0.7 * half < largest <= half * (1 + 1e-3)
    # Orthonormal vectors: no error besides that of the coefficients.
    assert (error**2).sum() == pytest.approx((coefficients**2).sum(), rel=1e-3)


@pytest.mark.parametrize('name', LINEAR)
def test_a_codec_with_a_linear_path_is_good_from_the_first_step(name):
  cell, params, run = started(name)
  x = in_reach(cell)
  coded = run(params, x, 255)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(coded))
  mse = np.square(coded.x_hat - x).mean()
  assert mse < 1e-3 < np.var(x) / 7  # 30 dB, where a flat image has 21.


# Files.


@pytest.mark.parametrize('more', [{}, {'slices': (5, 12, 7), 'magnitudes': True}], ids=str)
def test_latents_and_hyper_latents_of_other_widths_are_coded(more):
  widths = {'channels': 4, 'latents': 24, 'hyper': 3, 'widths': (8, 8), 'mixtures': 2}
  options = {**widths, 'attention': False, 'stem': 4, 'linear': True, **more}
  codec = gmm_method.codec(**options, lmbda=0.013)
  image = np.asarray(255 * in_reach(16)[0].clip(0, 1), np.uint8)[:21, :45]
  params = jax.tree.map(np.asarray, jit(codec.init)(jax.random.key(0)))
  released = codec.export(params, [image])
  assert released.coding.rates.gain.shape[1] == 24
  assert hyper.channels(released.coding.prior) == 3
  assert len(released.coding.later) == (2 if more else 0)
  file = codec.encode(released, image)
  decoded = codec.decode(released, file)
  assert decoded.shape == image.shape
  assert np.mean((decoded - image.astype(float)) ** 2) < 100  # As transform coding does it.
  level = jnp.array([levels.level_of(0.013)])
  coded = jit(codec.apply)(params, image[None] / np.float32(255), level, None)
  estimate = float(sum(bits[0] for bits in coded.bits.values())) / 8
  assert abs(len(file) - estimate) < 0.01 * estimate + 64


def test_slices_sum_up_to_the_latents():
  for wrong in ((3, 4), (24, 1), (), (0, 24)):
    with pytest.raises(CodecError, match='slices'):
      gmm_method.codec(channels=4, latents=24, slices=wrong)


@pytest.mark.parametrize('attention', [1, 0, 'outer'])
def test_attention_is_a_truth_value_or_a_name(attention):
  with pytest.raises(CodecError, match=f'attention={attention!r} is not one of True, False, inner'):
    gmm_method.codec(attention=attention)
