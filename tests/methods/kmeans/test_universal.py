"""The universal model and its arrays."""

import numpy as np

from compress_jax.methods.kmeans import restore, universal
from tests.helpers.codebooks import shape_model

RNG = np.random.default_rng(0)


def test_models_survive_their_arrays():
  taps = RNG.integers(-99, 99, (restore.CLASSES, len(restore.OFFSETS)))
  model = universal.Model(shape_model(1, 3), shape_model(2, 9), taps)
  back = universal.from_arrays(universal.to_arrays(model, 'x'), 'x')
  np.testing.assert_array_equal(back.taps, taps)
  for part, other in zip(model[:2], back[:2], strict=True):
    for a, b in zip(part, other, strict=True):
      np.testing.assert_array_equal(a, b)
