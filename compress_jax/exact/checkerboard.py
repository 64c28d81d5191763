"""The two passes of a checkerboard, and the latents that a position sees in each.

Positions whose row and column have an even sum are the anchors, which the first pass codes (D. He,
Y. Zheng, B. Sun, Y. Wang, H. Qin, "Checkerboard context model for efficient learned image
compression", CVPR 2021). The second pass codes the others and sees the anchors around them.
"""

import functools

import numpy as np

BORDER = 2  # Zeros on each side of the latents.
# (row, column) relative to a position: what both passes see of the channels coded before,
WINDOW = tuple((dr, dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1))
# and the anchors around a position of the second pass.
ANCHORS = tuple((dr, dc) for dr in range(-2, 3) for dc in range(-2, 3) if (dr + dc) % 2)


@functools.lru_cache(16)
def passes(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  """The positions of each pass, i64[n], counted row by row."""
  rows, columns = np.indices((height, width))
  odd = (rows + columns).ravel() % 2
  found = np.flatnonzero(odd == 0), np.flatnonzero(odd)
  for array in found:
    array.setflags(write=False)
  return found


def padded(height: int, width: int, channels: int) -> np.ndarray:
  """f64[height + 4, width + 4, channels] of zeros, whose inner part holds latents."""
  return np.zeros((height + 2 * BORDER, width + 2 * BORDER, channels))


def inner(border: np.ndarray) -> np.ndarray:
  """The part of `padded` that holds latents, as a view."""
  return border[BORDER:-BORDER, BORDER:-BORDER]


def gather(border: np.ndarray, at: np.ndarray, taps: tuple[tuple[int, int], ...]) -> np.ndarray:
  """f64[n, len(taps) * C]: the latents at these offsets from positions i64[n].

  Args:
    border: f64[H + 4, W + 4, C] of `padded`; any view of its channels.
    at: positions i64[n] in H x W, counted row by row.
    taps: (row, column) offsets of at most two.
  """
  width = border.shape[1] - 2 * BORDER
  rows, columns = np.divmod(at, width)
  parts = [border[rows + dr + BORDER, columns + dc + BORDER] for dr, dc in taps]
  return np.concatenate(parts, -1)
