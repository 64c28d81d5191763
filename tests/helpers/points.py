"""Points to cluster."""

import numpy as np


def clouds(n=600, d=5, k=12, seed=0):
  """Points f32[n, d] around k centres far from the origin, not in any order."""
  rng = np.random.default_rng(seed)
  centres = 100 + 10 * rng.normal(size=(k, d))
  return (centres[rng.integers(k, size=n)] + 3 * rng.normal(size=(n, d))).astype(np.float32)
