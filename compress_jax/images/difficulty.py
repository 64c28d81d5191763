"""Numbers that tell sharp images from blurred ones, and hard images from easy ones.

Both look at differences of neighbouring pixels, in the green channel, which a camera measures at
most places.
"""

import numpy as np

from compress_jax.codec import Image

_BITS = np.log2(1.0 + np.arange(256))  # By the magnitude of a difference.


def hardness(image: Image) -> float:
  """Returns the mean of log2(1 + |d|) over the differences d of neighbouring pixels.

  That is about the number of bits of a pixel that is predicted by its neighbour: 0 for a flat
  image, 6 to 7 for noise.

  Args:
    image: u8[H, W, 3] with at least 2 pixels.
  """
  bits = [_BITS[step] for step in _steps(image[..., 1])]
  return float(sum(part.sum() for part in bits) / sum(part.size for part in bits))


def sharpness(image: Image) -> float:
  """Returns the mean difference of neighbouring pixels, divided by that of the image at half size.

  It is 2 for noise, about 1 for a sharp photograph, whose structure is the same at all scales, and
  1/2 for an image without details at its own scale, such as one enlarged to twice its size. An
  image that is flat at half of its size counts as sharp, with 2.

  Args:
    image: u8[H, W, 3], at least 4 pixels high and wide.
  """
  green = image[..., 1]
  height, width = (side // 2 for side in green.shape)
  cells = green[: 2 * height, : 2 * width].reshape(height, 2, width, 2)
  half = cells.sum((1, 3), dtype=np.int16)  # Four times the mean.
  fine, coarse = (float(sum(np.mean(step) for step in _steps(of))) for of in (green, half))
  return 4 * fine / coarse if coarse else 2.0


def _steps(plane: np.ndarray) -> list[np.ndarray]:
  """Returns the magnitudes of the differences of neighbours, down and across."""
  wide = plane.astype(np.int16)
  return [np.abs(np.diff(wide, axis=axis)) for axis in (0, 1)]
