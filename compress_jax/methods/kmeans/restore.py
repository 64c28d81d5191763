"""A filter after decoding, which smooths the block grid that vector quantisation leaves.

Each pixel moves towards a weighted mean of its neighbours. The weights depend on
the pixel's position in its 4x4 block and on the activity around it; they were
fitted by least squares to photographs before and after coding (Wiener filters
chosen by activity, as the adaptive loop filter of H.266, which however sends its
weights in the file). The filter is outside the coding loop and exact in integers.
"""

import numpy as np

from compress_jax.methods.kmeans.blocks import SIDE, Plane

Ints = np.ndarray
RADIUS = 3
OFFSETS = [
  (y, x)
  for y in range(-RADIUS, RADIUS + 1)
  for x in range(-RADIUS, RADIUS + 1)
  if 0 < abs(y) + abs(x) <= RADIUS
]
_BUSY = np.array([100, 300])  # Sums of 25 absolute gradients: 4 and 12 levels a pixel.
CLASSES = SIDE * SIDE * (len(_BUSY) + 1)
_SHIFT = 8  # Weights are in units of 1/256.


def _padded(plane: Plane) -> Ints:
  return np.pad(plane[..., 0], RADIUS, mode='edge')


def _activity(padded: Ints) -> Ints:
  """Returns i64[H, W], the differences to the pixels right and below, summed over 5x5 pixels."""
  right, below = np.abs(np.diff(padded, axis=1)), np.abs(np.diff(padded, axis=0))
  gradient = right[:-1] + below[:, :-1]
  sums = np.pad(gradient, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
  box = sums[5:, 5:] - sums[:-5, 5:] - sums[5:, :-5] + sums[:-5, :-5]
  return box[: padded.shape[0] - 2 * RADIUS, : padded.shape[1] - 2 * RADIUS]


def classes(plane: Plane) -> Ints:
  """Returns i64[H, W], the filter's number for each pixel of i32[H, W, 1]."""
  height, width = plane.shape[:2]
  place = (np.arange(height) % SIDE)[:, None] * SIDE + np.arange(width) % SIDE
  busy = np.searchsorted(_BUSY, _activity(_padded(plane)), side='right')
  return place * (len(_BUSY) + 1) + busy


def restore(plane: Plane, taps: Ints) -> Plane:
  """Filters i32[H, W, 1] by weights i64[CLASSES, len(OFFSETS)], in units of 1/256."""
  padded, kind = _padded(plane), classes(plane)
  height, width, _ = plane.shape
  taps = taps.astype(np.int32)
  centre, total = plane[..., 0], np.zeros((height, width), np.int32)
  for (y, x), column in zip(OFFSETS, taps.T, strict=True):
    near = padded[RADIUS + y : RADIUS + y + height, RADIUS + x : RADIUS + x + width]
    total += column[kind] * (near - centre)
  return np.clip(centre + ((total + (1 << _SHIFT - 1)) >> _SHIFT), 0, 255)[..., None]


class Fit:
  """Normal equations of the filters, summed over images."""

  def __init__(self) -> None:
    n = len(OFFSETS)
    self.products, self.targets = np.zeros((CLASSES, n, n)), np.zeros((CLASSES, n))

  def add(self, decoded: Plane, original: Plane) -> None:
    """Adds one image: i32[H, W, 1] decoded, before the filter, and the original."""
    padded, kind = _padded(decoded), classes(decoded)
    height, width, _ = decoded.shape
    columns = [
      padded[RADIUS + y : RADIUS + y + height, RADIUS + x : RADIUS + x + width] - decoded[..., 0]
      for y, x in OFFSETS
    ]
    features = np.stack(columns, -1).astype(np.float64)
    residual = (original - decoded)[..., 0].astype(np.float64)
    for i in range(CLASSES):
      chosen = features[kind == i]
      self.products[i] += chosen.T @ chosen
      self.targets[i] += chosen.T @ residual[kind == i]

  def taps(self, ridge: float = 1000.0) -> Ints:
    """Returns i64[CLASSES, len(OFFSETS)], the weights for `restore`."""
    damped = self.products + ridge * np.eye(len(OFFSETS))
    solved = np.linalg.solve(damped, self.targets[..., None])[..., 0]
    return np.rint(solved * (1 << _SHIFT)).astype(np.int64)
