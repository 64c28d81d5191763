"""Training images in device memory, and random crops of them as a function of a key.

A set that fits into the device's memory stays there as u8, so that its input never limits the
step; `streams` is for larger ones.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress_jax.codec import Array, CodecError, Image, Key

SCALES = (0.5, 1.0)  # Range of the scale of half of the crops; the others are not scaled.
_LARGEST = 2**31 - 1  # Largest number of pixels: their indices are i32.


class Store(NamedTuple):
  """The pixels of all images in one array."""

  pixels: Any  # u8[P, 3], row by row.
  start: Any  # i32[n], the first pixel of each.
  height: Any  # i32[n]
  width: Any  # i32[n]


def store(images: Sequence[Image]) -> Store:
  """Returns the images as one array in the host's memory; jitted functions accept it directly.

  Raises:
    CodecError: there are none, or together they have 2^31 pixels.
  """
  heights, widths = (np.array([image.shape[axis] for image in images], int) for axis in (0, 1))
  sizes = heights * widths
  if not len(images) or sizes.sum() > _LARGEST:
    raise CodecError(f'{len(images)} images of {sizes.sum()} pixels cannot be held on a device')
  starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
  pixels = np.concatenate([image.reshape(-1, 3) for image in images])
  return Store(pixels, *(part.astype(np.int32) for part in (starts, heights, widths)))


def crops(held: Store, keys: Key, size: int, scales: tuple[float, float] = SCALES) -> Array:
  """Returns f32[B, size, size, 3] in [0, 1], one random crop for each key of Key[B].

  Each crop is a function of its key alone. Images are drawn in proportion to their pixels: a
  photograph of ten times the area is drawn as often as ten images. It is shrunk with antialiasing
  or (for half of the keys) not, and cropped. Half of the crops are mirrored left to right, and half
  are transposed, so that photographs are seen upright and on their side. No side is shrunk below
  that of the crop.
  """
  return jax.vmap(partial(_crop, held, size, scales))(keys)


def _crop(held: Store, size: int, scales: tuple[float, float], key: Key) -> Array:
  keys = jax.random.split(key, 6)
  pixel = jax.random.randint(keys[0], (), 0, held.pixels.shape[0])
  index = jnp.searchsorted(jnp.asarray(held.start), pixel, side='right') - 1
  start, height, width = (jnp.asarray(part)[index] for part in held[1:])
  least = size / jnp.minimum(height, width)
  low, high = (jnp.maximum(edge, least) for edge in scales)
  scale = jax.random.uniform(keys[1], (), minval=low, maxval=jnp.maximum(high, low))
  scale = jnp.where(jax.random.bernoulli(keys[2]), 1.0, scale)
  side = jnp.ceil(size / scale).astype(jnp.int32)  # Side of the crop in pixels of the image.
  top, left = (
    jax.random.randint(at, (), 0, jnp.maximum(axis - side, 0) + 1)
    for at, axis in zip(jax.random.split(keys[3]), (height, width), strict=True)
  )
  span = np.arange(int(np.ceil(size / scales[0])) + 1)
  rows, columns = jnp.minimum(top + span, height - 1), jnp.minimum(left + span, width - 1)
  window = jnp.asarray(held.pixels)[start + rows[:, None] * width + columns] / 255
  if scales[0] < 1:
    shape = (size, size, 3)
    by, move = jnp.stack([scale, scale]), jnp.zeros(2)
    window = jax.image.scale_and_translate(window, shape, (0, 1), by, move, 'linear')
  window = window[:size, :size]
  window = jnp.where(jax.random.bernoulli(keys[4]), window[:, ::-1], window)
  return jnp.where(jax.random.bernoulli(keys[5]), window.swapaxes(0, 1), window)
