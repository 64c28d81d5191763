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
  highest: Any = None  # f32[n], the largest scale of each; None for 1.
  until: Any = None  # f32[n], cumulative probabilities of the images; None draws by area.


def store(
  images: Sequence[Image],
  *,
  highest: Sequence[float] | None = None,
  weights: Sequence[float] | None = None,
) -> Store:
  """Returns the images as one array in the host's memory; jitted functions accept it directly.

  Args:
    images: u8[H, W, 3] each.
    highest: the largest scale at which each image is seen; 1 unless given.
    weights: positive numbers; a pixel of an image is drawn in proportion to its weight.

  Raises:
    CodecError: there are none, or together they have 2^31 pixels.
  """
  heights, widths = (np.array([image.shape[axis] for image in images], int) for axis in (0, 1))
  sizes = heights * widths
  if not len(images) or sizes.sum() > _LARGEST:
    raise CodecError(f'{len(images)} images of {sizes.sum()} pixels cannot be held on a device')
  starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
  pixels = np.concatenate([image.reshape(-1, 3) for image in images])
  limits = None if highest is None else np.asarray(highest, np.float32)
  shares = None if weights is None else np.cumsum(sizes * np.asarray(weights, np.float64))
  until = None if shares is None else (shares / shares[-1]).astype(np.float32)
  start, height, width = (part.astype(np.int32) for part in (starts, heights, widths))
  return Store(pixels, start, height, width, limits, until)


def crops(
  held: Store,
  keys: Key,
  size: int,
  scales: tuple[float, float] = SCALES,
  *,
  turns: bool = False,
) -> Array:
  """Returns f32[B, size, size, 3] in [0, 1], one random crop for each key of Key[B].

  Each crop is a function of its key alone. Images are drawn in proportion to their pixels: a
  photograph of ten times the area is drawn as often as ten images. The image drawn is cropped;
  for half of the keys it is first shrunk with antialiasing. Half of the crops are mirrored left
  to right, and half are transposed, so that photographs are seen upright and on their side. With
  `turns` half of them are also mirrored top to bottom, which makes all eight ways to lay a square
  equally frequent. No side is shrunk below that of the crop.

  A store can weigh its images, and can have a largest scale for each: then no crop of the
  image is larger, and those that would not be shrunk have that scale.
  """
  return jax.vmap(partial(_crop, held, size, scales, turns))(keys)


def _crop(held: Store, size: int, scales: tuple[float, float], turns: bool, key: Key) -> Array:
  keys = jax.random.split(key, 6)
  index = _index(held, keys[0])
  start, height, width = (
    jnp.asarray(part)[index] for part in (held.start, held.height, held.width)
  )
  least = size / jnp.minimum(height, width)
  whole: Any = 1.0  # Scale of the crops that are not shrunk.
  limit: Any = scales[1]
  if held.highest is not None:
    whole = jnp.maximum(jnp.asarray(held.highest)[index], jnp.maximum(scales[0], least))
    limit = jnp.minimum(limit, whole)
  low, high = (jnp.maximum(edge, least) for edge in (scales[0], limit))
  scale = jax.random.uniform(keys[1], (), minval=low, maxval=jnp.maximum(high, low))
  scale = jnp.where(jax.random.bernoulli(keys[2]), whole, scale)
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
  if turns:  # Both mirrorings and the transposition together give all eight orientations.
    upside_down = jax.random.bernoulli(jax.random.fold_in(key, len(keys)))
    window = jnp.where(upside_down, window[::-1], window)
  return jnp.where(jax.random.bernoulli(keys[5]), window.swapaxes(0, 1), window)


def _index(held: Store, key: Key) -> Array:
  """Returns the number of the image that a key draws."""
  if held.until is None:
    pixel = jax.random.randint(key, (), 0, held.pixels.shape[0])
    return jnp.searchsorted(jnp.asarray(held.start), pixel, side='right') - 1
  place = jax.random.uniform(key)
  return jnp.searchsorted(jnp.asarray(held.until), place, side='right')
