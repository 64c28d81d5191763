"""Conversion of images to 4x4 blocks and back in integers: pixels are the same everywhere."""

from collections.abc import Callable

import numpy as np

from compress_jax.codec import Image

SIDE = 4
Plane = np.ndarray  # i32[H, W, C], 0..255.


def pad_to(plane: Plane, multiple: int) -> Plane:
  """Repeats the last row and column until both sides are multiples of `multiple`."""
  bottom, right = -plane.shape[0] % multiple, -plane.shape[1] % multiple
  return np.pad(plane, ((0, bottom), (0, right), (0, 0)), mode='edge')


def to_blocks(plane: Plane) -> np.ndarray:
  """Returns the 4x4 blocks of [H, W, C], as [H/4, W/4, 4, 4, C]."""
  height, width, channels = plane.shape
  tiles = plane.reshape(height // SIDE, SIDE, width // SIDE, SIDE, channels)
  return tiles.swapaxes(1, 2)


def from_blocks(tiles: np.ndarray) -> Plane:
  """Returns the plane [H, W, C] of blocks [H/4, W/4, 4, 4, C]."""
  rows, columns, _, _, channels = tiles.shape
  return tiles.swapaxes(1, 2).reshape(rows * SIDE, columns * SIDE, channels)


# BT.601 full range as in JFIF, 16 fractional bits; rows sum to 65536, 0 and 0.
_TO_YCBCR = np.array(
  [[19595, 38470, 7471], [-11058, -21710, 32768], [32768, -27440, -5328]], np.int32
)
_TO_RGB = np.array([[65536, 0, 91881], [65536, -22554, -46802], [65536, 116130, 0]], np.int32)
_HALF = 1 << 15
# Squared error of a sample of Y, Cb or Cr in the MSE of RGB: means of squared columns.
YCBCR_WEIGHT = (_TO_RGB.astype(np.float64) ** 2).sum(0) / 3 / 2.0**32


def rgb_to_ycbcr(image: Image) -> Plane:
  """Converts u8[H, W, 3] to Y, Cb, Cr: i32[H, W, 3], 0..255, chroma centred on 128."""
  ycbcr = (image.astype(np.int32) @ _TO_YCBCR.T + _HALF) >> 16
  ycbcr[..., 1:] += 128
  return np.clip(ycbcr, 0, 255)


def ycbcr_to_rgb(ycbcr: Plane) -> Image:
  """Converts Y, Cb, Cr to RGB, rounded and clipped: the inverse of `rgb_to_ycbcr`."""
  centred = ycbcr.astype(np.int32) - np.array([0, 128, 128], np.int32)
  return np.clip((centred @ _TO_RGB.T + _HALF) >> 16, 0, 255).astype(np.uint8)


def halve(plane: Plane) -> Plane:
  """Returns i32[H, W, C] of i32[2H, 2W, C]: rounded means of 2x2 pixels."""
  pairs = plane[0::2] + plane[1::2]
  return (pairs[:, 0::2] + pairs[:, 1::2] + 2) >> 2


def double(plane: Plane) -> Plane:
  """Returns i32[2H, 2W, C] of i32[H, W, C] by linear interpolation with weights 3/4 and 1/4."""
  height, width, channels = plane.shape
  near = np.pad(plane, ((1, 1), (1, 1), (0, 0)), mode='edge')
  rows = np.empty((2 * height, width + 2, channels), plane.dtype)
  rows[0::2] = 3 * near[1:-1] + near[:-2]
  rows[1::2] = 3 * near[1:-1] + near[2:]
  out = np.empty((2 * height, 2 * width, channels), plane.dtype)
  out[:, 0::2] = (3 * rows[:, 1:-1] + rows[:, :-2] + 8) >> 4
  out[:, 1::2] = (3 * rows[:, 1:-1] + rows[:, 2:] + 7) >> 4
  return out


def _largest_eigenvalue(symmetric: np.ndarray) -> np.ndarray:
  return np.linalg.eigvalsh(symmetric)[..., -1]


def _centred(x: np.ndarray, axis: int) -> np.ndarray:
  return x - x.mean(axis, keepdims=True)


def covariance(tiles: np.ndarray) -> np.ndarray:
  """Returns the largest eigenvalue of the covariance of each block's four rows, grey."""
  grey = _centred(tiles.mean(-1), -2)
  return _largest_eigenvalue(np.swapaxes(grey, -1, -2) @ grey / 3)


def gram(tiles: np.ndarray) -> np.ndarray:
  """Returns the largest eigenvalue of G^T G / 4 of each grey block G: no mean is removed."""
  grey = tiles.mean(-1)
  return _largest_eigenvalue(np.swapaxes(grey, -1, -2) @ grey / 4)


def colour(tiles: np.ndarray) -> np.ndarray:
  """Returns the largest eigenvalue of the 3x3 colour covariance of each block's 16 pixels."""
  pixels = _centred(tiles.reshape(*tiles.shape[:-3], SIDE * SIDE, tiles.shape[-1]), -2)
  return _largest_eigenvalue(np.swapaxes(pixels, -1, -2) @ pixels / 15)


def trace(tiles: np.ndarray) -> np.ndarray:
  """Returns the sum of the eigenvalues of `covariance`: the variance about the column means."""
  return (_centred(tiles.mean(-1), -2) ** 2).sum((-1, -2)) / 3


# Readings of the paper's "eigen value of a block": [..., 4, 4, C] to f64[...].
EIGENVALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'covariance': covariance,
  'gram': gram,
  'colour': colour,
  'trace': trace,
}
