"""The rate of cae's symbols as a differentiable function, for refinement."""

import jax.numpy as jnp
import numpy as np

from compress_jax.codec import Array, Latents
from compress_jax.exact import tables
from compress_jax.layers.quantization import Price
from compress_jax.learned.relaxed import Relaxed, Tree, mixture_price, tree_of
from compress_jax.methods.cae import coding as cae


def _arrays(coding: cae.Coding, latents: Latents, level: int) -> Tree:
  del latents
  shifted = coding.scale + coding.rates.offset[level][:, None]
  scale = tables.SCALES[np.clip(shifted, 0, tables.N_SCALES - 1)]
  return tree_of(scale.T, np.log(np.maximum(coding.weight.T, 1e-6)))


def _rate(tree: Tree, seen: Array, sizes: Array) -> Price:
  del seen, sizes
  scale, logits = (values[:, None, None] for values in tree)
  return mixture_price(logits, jnp.zeros_like(scale), scale)


RELAXED = Relaxed(_arrays, _rate)
