"""Shortcuts are linear maps of orthonormal wavelets, with the penalty of their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax.layers import wavelets
from compress_jax.layers.blocks import to_cells
from compress_jax.methods.gmm import codec as gmm
from compress_jax.methods.gmm import networks
from tests.helpers.modules import init, jit

X = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)


def test_a_cell_of_four_pixels_becomes_its_four_haar_bands():
  cell = jnp.array([[[[1.0], [2.0]], [[3.0], [7.0]]]])  # Rows 1 2 and 3 7.
  # The bands are half of the sum, and half of the differences between columns, between rows and
  # between diagonals.
  np.testing.assert_allclose(wavelets.haar(cell).ravel(), [6.5, -2.5, -3.5, 1.5])


def test_the_transform_keeps_energy_and_is_undone_by_its_inverse():
  bands = wavelets.haar(X)
  assert bands.shape == (2, 2, 3, 12)
  np.testing.assert_allclose((bands**2).sum(), (X**2).sum(), rtol=1e-5)
  np.testing.assert_allclose(wavelets.inverse_haar(bands), X, atol=1e-6)


def test_channels_stay_apart_in_the_bands():
  for channel in range(3):
    alone = np.asarray(wavelets.haar(X[..., channel : channel + 1]))
    np.testing.assert_allclose(wavelets.haar(X)[..., channel::3], alone, atol=1e-6)


def identity(params):
  """The parameters with a projection that changes nothing."""
  kernel = jnp.eye(len(params['projection']['kernel']))
  return {**params, 'projection': {**params['projection'], 'kernel': kernel}}


def test_three_bands_are_scaled_by_the_root_of_e_at_first():
  down = wavelets.WaveletDown(12)
  params = identity(down.init(jax.random.key(0), X)['params'])
  factors = np.exp([0.5, 0.5, 0.5, 0]).repeat(3)
  found = down.apply({'params': params}, X)
  np.testing.assert_allclose(found, wavelets.haar(X) * factors, rtol=1e-5)
  up = wavelets.WaveletUp(3)
  params = identity(up.init(jax.random.key(0), found)['params'])
  np.testing.assert_allclose(up.apply({'params': params}, found), X, atol=1e-5)


@pytest.mark.parametrize('shape', [(3, 5), (5, 3), (4, 4)])
def test_an_orthogonal_projection_costs_nothing_and_twice_of_it_nine_over_the_side(shape):
  square = np.linalg.qr(np.random.default_rng(1).normal(size=(max(shape),) * 2))[0]
  kernel = jnp.asarray(square[: shape[0], : shape[1]] if shape[0] <= shape[1] else square[:, :3])
  side = min(shape)

  def cost(factor):
    params = {'a': {'projection': {'kernel': factor * kernel, 'bias': jnp.ones(shape[1])}}}
    return float(wavelets.orthogonality({**params, 'other': {'kernel': 9 * kernel}}))

  assert cost(1) == pytest.approx(0, abs=1e-10)
  # The Gram matrix is 4 times the identity: (4 - 1)^2 on the diagonal, of side^2 entries.
  assert cost(2) == pytest.approx(9 / side, rel=1e-4)
  assert cost(0) == pytest.approx(1 / side)


def count(tree):
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def level(given, features):
  """Parameters of a level: its scales, projection and bias, either way."""
  return given + given * features + features


@pytest.mark.parametrize('stem', [1, 4])
def test_gmm_has_a_level_of_the_chain_for_each_halving_and_nothing_else_in_addition(stem):
  n, m, sizes = 4, 6, {}
  for shortcuts in (False, True):
    codec = gmm.codec(channels=n, latents=m, stem=stem, attention=False, shortcuts=shortcuts)
    sizes[shortcuts] = jax.eval_shape(codec.init, jax.random.key(0))
  down = [level(4 * 3, n), level(4 * n, n), level(4 * n, n), level(4 * n, m)]
  # Upwards the scales are those of the four bands that the projection makes.
  up = [4 * n + m * 4 * n + 4 * n, *[4 * n + n * 4 * n + 4 * n] * 2, 12 + n * 12 + 12]
  for side, expected in (('analysis', down), ('synthesis', up)):
    more = {f'shortcut{i}' for i in range(4)}
    assert sizes[True][side].keys() - sizes[False][side].keys() == more
    assert [count(sizes[True][side][name]) for name in sorted(more)] == expected
    rest = {name: part for name, part in sizes[True][side].items() if name not in more}
    assert count(rest) == count(sizes[False][side])


@pytest.mark.parametrize('stem', [1, 4])
def test_a_network_that_is_silent_leaves_the_linear_chain(stem):
  """The analysis of a sum is the sum of the analyses, and so is the synthesis."""
  for network, shape in (
    (networks.Analysis(4, False, 0.01, stem, latents=6, shortcuts=True), (1, 32, 32, 3)),
    (networks.Synthesis(4, False, 0.01, stem, shortcuts=True), (1, 2, 2, 6)),
  ):
    a, b = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    params = jit(network.init)(jax.random.key(0), a)['params']
    params = {
      name: part if 'shortcut' in name else jax.tree.map(jnp.zeros_like, part)
      for name, part in params.items()
    }
    last = {'params': params}
    run = jit(network.apply)
    whole = np.asarray(run(last, a + b))
    np.testing.assert_allclose(whole, run(last, a) + run(last, b), atol=1e-5)
    assert whole.std() > 0.01


@pytest.mark.parametrize('dtype,error', [(jnp.float32, 1e-5), (jnp.bfloat16, 3e-2)])
def test_levels_at_once_are_the_levels_one_by_one(dtype, error):
  wide, narrow = wavelets.WaveletUp(5), wavelets.WaveletUp(2)
  x = X.astype(dtype)
  params = [init(wide, X), init(narrow, X.repeat(2, -1)[..., :5], seed=9)]

  def levels(x):
    return narrow.apply({'params': params[1]}, wide.apply({'params': params[0]}, x))

  expected = np.asarray(to_cells(levels(X), 4))
  found = wavelets.at_once(levels, x)
  assert found.dtype == dtype and found.shape == (2, 4, 6, 4 * 4 * 2)
  np.testing.assert_allclose(
    found.astype(jnp.float32), expected, atol=error * np.abs(expected).max()
  )


def test_faint_shortcuts_hardly_change_what_the_network_beside_them_gives():
  network = networks.Synthesis(4, False, 0.01, 4, shortcuts=True)
  y = np.random.default_rng(0).normal(size=(1, 2, 2, 6)).astype(np.float32)
  params = jit(network.init)(jax.random.key(0), y)['params']
  faint = wavelets.faint(params)
  for name, part in params.items():
    if 'shortcut' not in name:
      jax.tree.map(np.testing.assert_array_equal, faint[name], part)
  alone, run = networks.Synthesis(4, False, 0.01, 4), jit(network.apply)
  rest = {name: part for name, part in params.items() if 'shortcut' not in name}
  without = np.asarray(jit(alone.apply)({'params': rest}, y))
  full, little = (np.std(run({'params': p}, y) - without) for p in (params, faint))
  assert 0 < little < 0.1 * full
