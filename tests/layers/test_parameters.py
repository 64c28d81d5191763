"""Parameters are those of Flax, and their initialisers are not traced where they have values."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError

from compress_jax.layers.parameters import parameter

CALLS = []


def init(key, shape):
  CALLS.append(shape)
  return jax.random.normal(key, shape)


class Ours(nn.Module):
  size: int = 3

  @nn.compact
  def __call__(self, x):
    return x * parameter(self, 'kernel', init, (self.size,))


class Theirs(nn.Module):
  @nn.compact
  def __call__(self, x):
    return x * self.param('kernel', init, (3,))


def test_parameters_begin_as_flax_makes_them():
  ours, theirs = (net.init(jax.random.key(0), jnp.ones(3)) for net in (Ours(), Theirs()))
  assert jax.tree.all(jax.tree.map(np.array_equal, ours, theirs))
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)


def test_initialisers_are_not_called_for_values():
  params = Ours().init(jax.random.key(0), jnp.ones(3))
  CALLS.clear()
  out = jax.jit(Ours().apply)(params, 2 * jnp.ones(3))
  np.testing.assert_array_equal(out, 2 * params['params']['kernel'])
  assert not CALLS


def test_another_shape_is_refused():
  params = Ours().init(jax.random.key(0), jnp.ones(3))
  with pytest.raises(ScopeParamShapeError, match='kernel'):
    Ours(size=4).apply(params, jnp.ones(4))
