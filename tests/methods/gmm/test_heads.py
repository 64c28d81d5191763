"""The outputs of gmm's entropy parameters, and how they start."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax.methods.gmm import geometry, heads


class Alone(nn.Module):
  """A head without the layers before it."""

  mixtures: int

  @nn.compact
  def __call__(self, x):
    return heads.head(x, self.mixtures, 2, 'last')


@pytest.mark.parametrize('mixtures,parts', [(1, 2), (2, 3), (3, 3)])
def test_one_gaussian_has_no_logits(mixtures, parts):
  assert geometry.parts(mixtures) == parts
  assert geometry.outputs_of_latent(mixtures) == parts * mixtures
  params = Alone(mixtures).init(jax.random.key(0), jnp.zeros((1, 1, 1, 5)))['params']
  assert params['last']['kernel'].shape == (1, 1, 5, 2 * parts * mixtures)


@pytest.mark.parametrize('mixtures,means', [(1, [0]), (2, [-0.5, 0.5]), (3, [-1, 0, 1])])
def test_scales_start_at_one_and_means_apart(mixtures, means):
  x = jnp.zeros((1, 3, 4, 5))
  found, _ = Alone(mixtures).init_with_output(jax.random.key(0), x)
  assert found.shape == (1, 3, 4, 3, mixtures, 2)
  scale, mean, logits = np.asarray(found[0, 1, 2])
  np.testing.assert_array_equal(scale, np.ones((mixtures, 2)))
  np.testing.assert_array_equal(mean, np.tile(np.array(means)[:, None], 2))
  np.testing.assert_array_equal(logits, 0 * scale)
