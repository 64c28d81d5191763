"""The rate of gan's symbols as a differentiable function, for refinement."""

import jax.numpy as jnp

from compress_jax.codec import Array, Latents
from compress_jax.exact import tables
from compress_jax.layers import entropy
from compress_jax.layers.quantization import Price
from compress_jax.learned.relaxed import Relaxed, Tree, tree_of
from compress_jax.methods.gan import coding as gan


def _arrays(coding: gan.Coding, latents: Latents, level: int) -> Tree:
  return tree_of(tables.SCALES[gan.scales(coding, latents.z, latents.q.shape[:2], level)])


def _rate(tree: Tree, seen: Array, sizes: Array) -> Price:
  del seen, sizes
  (scale,) = tree
  return lambda q: entropy.bits_of(entropy.gaussian_likelihood(q, jnp.zeros_like(q), scale))


RELAXED = Relaxed(_arrays, _rate)
