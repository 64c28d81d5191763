"""Positions that decode together under a 5x5 causal mask, and the neighbours they see.

Position (r, c) depends on (r, < c) and on rows r - 1 and r - 2 up to column c + 2, so
all positions with the same c + 3r are independent of each other.
"""

import functools

import numpy as np

TAPS = (*((dr, dc) for dr in (-2, -1) for dc in range(-2, 3)), (0, -2), (0, -1))
BORDER = 2  # Rows above, columns left and right.


@functools.lru_cache(16)
def order(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Positions in coding order, and where the steps start in it.

  Returns:
    rows i64[n], columns i64[n], bounds i64[steps + 1]; n = height * width.
  """
  rows, columns = np.divmod(np.arange(height * width), width)
  steps = columns + 3 * rows
  chosen = np.lexsort((rows, steps))
  starts = np.flatnonzero(np.diff(steps[chosen], prepend=-1))
  found = rows[chosen], columns[chosen], np.append(starts, height * width)
  for array in found:
    array.setflags(write=False)
  return found


def padded(y: np.ndarray) -> np.ndarray:
  """f64[H, W, C] -> f64[H + 2, W + 4, C]: the zeros that the mask sees beyond the border."""
  return np.pad(y, ((BORDER, 0), (BORDER, BORDER), (0, 0)))


def gather(border: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """f64[n, 12 * C]: the neighbours of n positions, in order of TAPS.

  Args:
    border: f64[H + 2, W + 4, C] of `padded`.
    rows: i64[n], in 0..H-1.
    columns: i64[n], in 0..W-1.
  """
  _, width, channels = border.shape
  offsets = np.array([(dr + BORDER) * width + dc + BORDER for dr, dc in TAPS])
  places = (rows * width + columns)[:, None] + offsets
  taken = np.take(border.reshape(-1, channels), places, axis=0)
  return taken.reshape(len(rows), len(TAPS) * channels)


def causal_rows(kernel: np.ndarray) -> np.ndarray:
  """[5, 5, Cin, Cout] -> [12 * Cin, Cout]: the weights that the mask leaves, for `gather`."""
  return np.concatenate([kernel[dr + 2, dc + 2] for dr, dc in TAPS])


def causal_kernel(rows: np.ndarray) -> np.ndarray:
  """[12 * Cin, Cout] -> [5, 5, Cin, Cout]: the inverse of `causal_rows`, zero behind the mask."""
  kernel = np.zeros((5, 5, len(rows) // len(TAPS), rows.shape[1]), rows.dtype)
  for (dr, dc), weights in zip(TAPS, np.split(rows, len(TAPS)), strict=True):
    kernel[dr + 2, dc + 2] = weights
  return kernel
