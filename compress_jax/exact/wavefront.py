"""Positions that are decoded together under a 5x5 causal mask, and their neighbours.

Position (r, c) depends on (r, < c) and on rows r - 1 and r - 2 up to column c + 2, so all positions
with the same c + 3r are independent of each other.
"""

import functools

import numpy as np

TAPS = (*((dr, dc) for dr in (-2, -1) for dc in range(-2, 3)), (0, -2), (0, -1))
BORDER = 2  # Zeros above, to the left and to the right of the latents.


@functools.lru_cache(16)
def order(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the positions in coding order, and the index at which each step starts.

  Returns:
    rows i64[n], columns i64[n], bounds i64[steps + 1]; n = height * width.
  """
  rows, columns = np.divmod(np.arange(height * width), width)
  steps = columns + 3 * rows
  chosen = np.lexsort((rows, steps))
  starts = np.flatnonzero(np.diff(steps[chosen], prepend=-1))
  ordered = rows[chosen], columns[chosen], np.append(starts, height * width)
  for array in ordered:
    array.setflags(write=False)
  return ordered


def padded(y: np.ndarray) -> np.ndarray:
  """Pads f64[H, W, C] to f64[H + 2, W + 4, C] with the zeros that the mask sees."""
  return np.pad(y, ((BORDER, 0), (BORDER, BORDER), (0, 0)))


def gather(border: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """Returns the neighbours f64[n, 12 * C] of n positions, in the order of TAPS.

  Args:
    border: f64[H + 2, W + 4, C], as `padded` returns it.
    rows: i64[n], in 0..H-1.
    columns: i64[n], in 0..W-1.
  """
  _, width, channels = border.shape
  offsets = np.array([(dr + BORDER) * width + dc + BORDER for dr, dc in TAPS])
  places = (rows * width + columns)[:, None] + offsets
  neighbours = np.take(border.reshape(-1, channels), places, axis=0)
  return neighbours.reshape(len(rows), len(TAPS) * channels)


def causal_rows(kernel: np.ndarray) -> np.ndarray:
  """Returns the weights [12 * Cin, Cout] of a kernel [5, 5, Cin, Cout] inside the mask.

  Their rows have the order of `gather`.
  """
  return np.concatenate([kernel[dr + 2, dc + 2] for dr, dc in TAPS])


def causal_kernel(rows: np.ndarray) -> np.ndarray:
  """Returns the kernel [5, 5, Cin, Cout] of weights [12 * Cin, Cout], zero outside the mask.

  This inverts `causal_rows`.
  """
  kernel = np.zeros((5, 5, len(rows) // len(TAPS), rows.shape[1]), rows.dtype)
  for (dr, dc), weights in zip(TAPS, np.split(rows, len(TAPS)), strict=True):
    kernel[dr + 2, dc + 2] = weights
  return kernel
