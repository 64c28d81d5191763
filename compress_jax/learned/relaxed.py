"""What other symbols would cost: the integer entropy path as differentiable functions.

Each method has `arrays`, what its integers say about one image, and `rate`, a pure function
of those and of symbols f32[h, w, C]. The files are coded by `exact` alone; these estimates agree
with it as the float models do, but for symbols far from all that is expected: a file escapes them
in fewer bits than the floor of the likelihoods says. Of the models that ship that is 0.2 % or less.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from compress_jax.codec import Array, Latents, Params
from compress_jax.exact import layers
from compress_jax.layers import entropy
from compress_jax.layers.quantization import Price

Tree = Any  # Nested tuples of arrays.
# Bits of symbols, each, where the networks see the symbols f32[h, w, C] of these magnitudes.
Rate = Callable[[Tree, Array, Array], Price]
Synthesis = Callable[[Params, Array], Array]  # y_hat f32[1, h, w, C] to x_hat f32[1, H, W, 3].


class Relaxed(NamedTuple):
  """The rate of a method."""

  arrays: Callable[[Any, Latents, int], Tree]  # Of a Coding, the file's integers, a level.
  rate: Rate


def tree_of(*values: Any) -> Tree:
  """Returns the values as a tuple of f32 arrays."""
  return tuple(np.asarray(value, np.float32) for value in values)


def mixture_price(logits: Array, mean: Array, scale: Array) -> Price:
  """Returns the bits of symbols under a Gaussian mixture, whose parts are f32[K, h, w, C] each."""
  return lambda q: entropy.bits_of(entropy.mixture_likelihood(q, logits, mean, scale))


def dense(layer: layers.Layer) -> Tree:
  """Weight, bias, slope and limit of a 1x1 layer, without its shift."""
  unit = np.ldexp(1.0, -layer.shift)
  return tree_of(layer.weight * unit, layer.bias * unit, layer.slope / layers.LINEAR, layer.limit)


def apply_layer(layer: Tree, x: Array) -> Array:
  """Applies a layer of `dense` to f32[..., Cin]."""
  weight, *rest = layer
  return activated(jnp.matmul(x, weight, precision='highest'), *rest)


def activated(sums: Array, bias: Array, slope: Array, limit: Array) -> Array:
  """Adds the bias, multiplies negative values by `slope` and clips to +-`limit`."""
  values = sums + bias
  return jnp.clip(jnp.where(values > 0, values, slope * values), -limit, limit)
