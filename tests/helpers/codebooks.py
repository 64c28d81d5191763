"""A picture, codebooks and models of shapes for kmeans."""

import numpy as np

from compress_jax.methods.kmeans import codebook, shapes

RNG = np.random.default_rng(0)


def picture(height, width, channels=3):
  """A smooth gradient with an edge and some noise, i64[H, W, C]."""
  y, x = np.mgrid[:height, :width]
  base = 90 + 0.7 * y + 0.4 * x + 60 * (x > y)
  noise = np.random.default_rng(1).normal(0, 6, (height, width, channels))
  return np.clip(base[..., None] + noise, 0, 255).astype(np.int64)


def book_of(seed, size, channels=3):
  rng = np.random.default_rng(seed)
  smooth = rng.normal(0, 40, (size, 1, 1, channels)) + rng.normal(0, 25, (size, 4, 4, channels))
  words = np.clip(128 + smooth, 0, 255)
  axes = codebook.RGB_AXES if channels == 3 else 16384 * np.eye(channels, dtype=np.int64)
  uses = rng.integers(1, 100, size).astype(float)
  price = np.full(channels, 0.005)
  return codebook.quantise(words, uses, price, codebook.flat_prior(), axes), words, axes


def shape_model(channels, contexts, size=40):
  words = RNG.normal(0, 20, (size, 4, 4, channels))
  words = np.rint(words - words.mean((1, 2), keepdims=True)).astype(np.int64)
  words[0] = 0
  counts = RNG.integers(1, 500, (contexts, size)).astype(float)
  span = 2 * shapes.reach(8) + 1
  q = np.abs(np.arange(span) - span // 2)
  means = np.broadcast_to(np.floor(1000 * 0.7**q) + 1, (channels, shapes.MISFITS, span))
  return shapes.Shapes(words, counts, means, step=8, alpha=6, tau=20_000, seen=16.0)
