"""Random blocks of an AR(1) model of photographs."""

import numpy as np

CORRELATION, DEVIATION = 0.95, 0.25
# Each with its share of the variance: grey, red against blue, green against both.
COLOURS = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])
SHARES = np.array([0.93, 0.055, 0.015])


def autoregressive(rng, n, side):
  """f64[n, side, side]: neighbours correlate by 0.95 along both axes, each has variance 1."""
  x = rng.normal(size=(n, side, side))
  for _ in range(2):
    for i in range(1, side):
      x[:, i] = CORRELATION * x[:, i - 1] + (1 - CORRELATION**2) ** 0.5 * x[:, i]
    x = x.transpose(0, 2, 1).copy()
  return x


def blocks(rng, n, side):
  """f64[n, side, side, 3] of the model of photographs, around 0."""
  parts = np.stack([autoregressive(rng, n, side) for _ in SHARES], -1)
  return parts * np.sqrt(3 * SHARES) * DEVIATION @ COLOURS
