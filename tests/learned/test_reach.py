"""What an output of the networks depends on, and that tiles cover it."""

import jax
import numpy as np
import pytest

from compress_jax.layers import convolution
from compress_jax.learned import scheme, tiles
from compress_jax.methods.cae import codec as cae_method
from compress_jax.methods.cae import networks as cae
from compress_jax.methods.gan import codec as gan_method
from compress_jax.methods.gan import networks as gan
from compress_jax.methods.gmm import codec as gmm_method
from compress_jax.methods.gmm import networks as gmm
from compress_jax.methods.gmm import serial
from tests.helpers.modules import jit, random


def test_the_context_sees_exactly_the_twelve_neighbours_that_are_coded_before():
  module, y = serial.Context(4), np.ones((1, 7, 8, 2), np.float32)
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
    serial.Context(4).apply({'params': params}, y),
    convolution.convolve(y, masked) + bias,
    atol=1e-4,
  )


def reach(network, channels, cell_in, cell_out, halo):
  """How many cells before its own, and behind it, an output cell depends on inputs."""
  side, middle = 2 * halo + 5, halo + 2
  x = np.random.default_rng(0).uniform(0.5, 1, (1, side * cell_in, side * cell_in, channels))
  shapes = jax.eval_shape(network.init, jax.random.key(0), x.astype(np.float32))['params']
  rng = np.random.default_rng(1)
  # Positive weights and activations: no two paths cancel, and no rectifier cuts one off.
  params = random(shapes, lambda shape: rng.uniform(0.5, 1.5, shape) / np.prod(shape[:-1]))
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
  assert (seen.any(0) == seen.any(1)).all()
  found = np.flatnonzero(seen.any(0))
  before, behind = middle * cell_in - found[0], found[-1] + 1 - (middle + 1) * cell_in
  return before / cell_in, behind / cell_in


MODELS = {
  'gmm': (gmm_method, gmm.Model(2, 1, True, 1, 0.01, None)),
  'gmm of a stem': (gmm_method, gmm.Model(2, 1, True, 1, 0.01, None, 4, True)),
  'gmm of more latents': (gmm_method, gmm.Model(2, 1, True, 1, 0.01, None, 4, True, 3)),
  'gmm of four modules': (gmm_method, gmm.Model(2, 1, 'all', 1, 0.01, None, 4, True, 3)),
  'gmm with shortcuts': (gmm_method, gmm.Model(2, 1, True, 1, 0.01, None, shortcuts=True)),
  'gmm with restoration': (
    gmm_method,
    gmm.Model(2, 1, True, 1, 0.01, None, 4, True, restoration=2),
  ),
  'gmm of a centred stem': (
    gmm_method,
    gmm.Model(2, 1, True, 1, 0.01, None, 4, True, centred=True),
  ),
  'gan of 1 block': (gan_method, gan.Model(2, 1, 3, 3, 1)),
  'gan of 2 blocks': (gan_method, gan.Model(2, 2, 3, 3, 1)),
  'gan with restoration': (gan_method, gan.Model(2, 1, 3, 3, 1, True, 2)),
  'gan with deblocking': (gan_method, gan.Model(2, 1, 3, 3, 1, True, 2, deblocking=True)),
  'gan of centred images': (gan_method, gan.Model(2, 1, 3, 3, 1, True, centred=True)),
  'cae': (cae_method, cae.Model((4, 4, 4), 1, 1)),
}
LATENTS = {gmm_method: 2, gan_method: 3, cae_method: 4}  # Of these models, in channels.
# Radii of kernels by hand. An output of stride 2 is centred on the first of its two inputs, so
# analyses reach further before a cell than behind it.
BEFORE = {
  ('gmm', 'analysis'): (1 + 2 + 4 + 2 + 4 + 12 + 8 + 4 + 8 + 16 + 8 + 48) / 16,
  ('gmm', 'hyper_analysis'): (1 + 1 + 1 + 2 + 2) / 4,
  ('gmm', 'synthesis'): np.ceil(6 + (1 + 2 + 1) / 2 + (1 + 3 + 2 + 1) / 4 + (1 + 2 + 1) / 8),
  # In cells of 4 pixels at first.
  ('gmm of a stem', 'analysis'): (1 + 2 + 1 + 2 + 6 + 4 + 2 + 12) * 4 / 16,
  ('gmm of a centred stem', 'analysis'): (1 + 2 + 1 + 2 + 6 + 4 + 2 + 12 + 3) * 4 / 16,
  ('gmm of a stem', 'synthesis'): np.ceil(6 + (1 + 3 + 2 + 1) / 2 + (1 + 2 + 1) / 4),
  ('gmm with restoration', 'synthesis'): np.ceil(6 + (1 + 3 + 2 + 1) / 2 + (1 + 2 + 1 + 9) / 4),
  ('gmm of more latents', 'analysis'): (1 + 2 + 1 + 2 + 6 + 4 + 2) * 4 / 16,
  ('gmm of more latents', 'synthesis'): np.ceil(4 + (1 + 3 + 2 + 1) / 2 + (1 + 2 + 1) / 4),
  ('gmm with shortcuts', 'analysis'): (1 + 2 + 4 + 2 + 4 + 12 + 8 + 4 + 8 + 16 + 8 + 48) / 16,
  ('gmm of four modules', 'analysis'): (1 + 2 + 1 + 2 + 6 + 4 + 2 + 12) * 4 / 16,
  ('gmm of four modules', 'synthesis'): np.ceil(7 + (1 + 3 + 2 + 1) / 2 + (1 + 2 + 1) / 4),
  ('gan of 1 block', 'analysis'): (3 + 1 + 2 + 4 + 8 + 16) / 16,
  # The 34 pixels begin in the ninth cell of 4, whose mean is of three more.
  ('gan of centred images', 'analysis'): (9 + 3) * 4 / 16,
  ('gan of 1 block', 'hyper_analysis'): (1 + 2 + 4) / 4,
  ('cae', 'synthesis'): np.ceil(1 + 6 / 2 + 1 / 2 + 1 / 4),
}
# Transposed convolutions of 3 taps read one input, or that and the next: at the four of them
# pixel 15 + 3 of the last convolution needs pixels 9, 5, 3 and 2; pixel -3 needs -2, -1, -1, -1.
BEHIND = {
  ('gan of 1 block', 'synthesis'): 1 + 2 + 2,
  ('gan of 2 blocks', 'synthesis'): 1 + 4 + 2,
  ('gan with restoration', 'synthesis'): 1 + 2 + 4,  # 36 pixels more.
  ('gan with deblocking', 'synthesis'): 1 + 2 + 5,  # Then 20 more.
}


@pytest.mark.parametrize('case', [*BEFORE, *BEHIND], ids=' '.join)
def test_the_halo_of_tiles_covers_what_an_output_depends_on(case, monkeypatch):
  wired = {}

  def transform(networks, name, cells, halo):
    wired[name] = networks[name], cells, halo

  module, model = MODELS[case[0]]
  monkeypatch.setattr(scheme, 'transform', transform)
  module._scheme.__wrapped__(model)
  network, cells, halo = wired[case[1]]
  channels = 3 if case[1] == 'analysis' else getattr(model, 'latents', None) or LATENTS[module]
  before, behind = reach(network, channels, *cells, halo)
  assert max(before, behind) <= halo
  # The probe sees all that there is to see.
  assert (before if case in BEFORE else behind) == {**BEFORE, **BEHIND}[case]


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


@pytest.mark.parametrize(
  'module,model',
  [
    (gmm_method, gmm.Model(2, 1, False, 1, 0.01, None, 4, True)),
    (gmm_method, gmm.Model(2, 1, False, 1, 0.01, None, 4, True, restoration=4)),
    (gan_method, gan.Model(2, 1, 2, 3, 1, True, 4, deblocking=True)),
  ],
  ids=['gmm', 'gmm with restoration', 'gan with deblocking'],
)
def test_tiles_give_the_same_as_the_whole_image(module, model, monkeypatch):
  monkeypatch.setattr(tiles, 'BUCKETS', ())
  wired, transform = {}, scheme.transform

  def noted(networks, name, cells, halo):
    wired[name] = networks[name], transform(networks, name, cells, halo)
    return wired[name][1]

  monkeypatch.setattr(scheme, 'transform', noted)
  module._scheme.__wrapped__(model)
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (37, 469, 3), np.uint8)  # 3 x 30 cells.
  extended = np.pad(image, ((0, 11), (0, 11), (0, 0)), 'edge').astype(np.float32) / 255
  latents = rng.normal(size=(3, 30, 2)).astype(np.float32)
  for name, given, whole in (('analysis', image, extended), ('synthesis', latents, latents)):
    network, tiled = wired[name]
    shapes = jax.eval_shape(network.init, jax.random.key(0), whole[None])['params']
    params = random(shapes, lambda shape: rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])))
    # Biases tell zeros from what the network makes of them.
    params = jax.tree.map(lambda v: v + np.float32(0.05), params)
    expected = np.asarray(jit(network.apply)({'params': params}, whole[None]))[0]
    found = tiles.run(tiled, {name: params}, given, largest=2 * tiled.halo + 2)
    assert len(tiles.plan(3, 30, tiled.halo, largest=2 * tiled.halo + 2)) > 1
    assert found.shape == expected.shape and expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
