"""The two passes of a checkerboard, and the latents on which a position depends in each.

Positions whose row and column have an even sum are the anchors, which the first pass codes (D. He,
Y. Zheng, B. Sun, Y. Wang, H. Qin, "Checkerboard context model for efficient learned image
compression", CVPR 2021). The second pass codes the others and sees the anchors around them.
"""

import functools

import numpy as np

BORDER = 2  # Zeros on each side of the latents.
# Offsets (row, column) at which both passes see the channels that were coded before.
WINDOW = tuple((dr, dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1))
# Offsets of the anchors around a position of the second pass.
ANCHORS = tuple((dr, dc) for dr in range(-2, 3) for dc in range(-2, 3) if (dr + dc) % 2)


@functools.lru_cache(16)
def passes(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the positions i64[n] of each of the two passes, counted row by row."""
  rows, columns = np.indices((height, width))
  odd = (rows + columns).ravel() % 2
  both = np.flatnonzero(odd == 0), np.flatnonzero(odd)
  for array in both:
    array.setflags(write=False)
  return both


def padded(height: int, width: int, channels: int) -> np.ndarray:
  """Returns zeros f64[height + 4, width + 4, channels], whose inner part is to hold latents."""
  return np.zeros((height + 2 * BORDER, width + 2 * BORDER, channels))


def inner(border: np.ndarray) -> np.ndarray:
  """Returns a view of the part of `padded` that holds latents."""
  return border[BORDER:-BORDER, BORDER:-BORDER]


def gather(border: np.ndarray, at: np.ndarray, taps: tuple[tuple[int, int], ...]) -> np.ndarray:
  """Returns the latents f64[n, len(taps) * C] at the offsets `taps` from n positions.

  Args:
    border: f64[H + 4, W + 4, C] as `padded` returns it.
    at: i64[n], positions in H x W, counted row by row.
    taps: offsets (row, column), each of at most two in magnitude.
  """
  height, width, channels = border.shape
  rows, columns = np.divmod(at, width - 2 * BORDER)
  offsets = np.array([(dr + BORDER) * width + dc + BORDER for dr, dc in taps])
  places = (rows * width + columns)[:, None] + offsets
  latents = np.take(border.reshape(height * width, channels), places, axis=0)
  return latents.reshape(len(at), len(taps) * channels)
