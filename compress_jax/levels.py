"""Operating points: a level byte, 0..255, equally spaced in log(lambda)."""

import math

LAMBDA_RANGE = (0.0009, 0.1)  # Of level bytes 0 and 255.
MIDDLE = math.sqrt(LAMBDA_RANGE[0] * LAMBDA_RANGE[1])  # The lambda between them.


def level_of(lmbda: float) -> int:
  """The level byte nearest to a lambda."""
  low, high = (math.log(edge) for edge in LAMBDA_RANGE)
  return min(max(round(255 * (math.log(lmbda) - low) / (high - low)), 0), 255)
