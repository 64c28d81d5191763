"""A deblocking filter for the picture of the linear path; it is in none of the papers.

At low rates a linear path of blocks (`linear=True`) gives flat blocks where little was coded. Means
over windows of about a block's size turn flat blocks into straight ramps from centre to centre. A
small network decides for every pixel how far it moves towards its mean; the filters of video coding
standards decide that by rules. Brightness and colour move independently.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from compress_jax.layers.blocks import Conv, Frame, from_cells, leaky, masked, to_cells
from compress_jax.layers.linear import CONTRAST

Array = jax.Array

_CHANNELS = 32
_START = -2.0  # Added to the logits of the shares: before training, pixels move by about 12 %.


class Deblocking(nn.Module):
  """A filter that moves pixels towards local means, by shares that a network decides."""

  block: int  # Side of the blocks in pixels; even.

  @nn.compact
  def __call__(self, image: Array, features: Array, frame: Frame | None = None) -> Array:
    """Returns the filtered image f32[B, k * h, k * w, 3], from features f32[B, h, w, C]."""
    fold = image.shape[1] // features.shape[1]
    moves = to_cells(local_mean(image, self.block // 2, frame) - image, fold)
    x = jnp.concatenate([CONTRAST * moves, features], -1)
    for i in range(2):
      x = leaky(0.01)(Conv(_CHANNELS, name=f'conv{i}')(x, frame))
    start = nn.initializers.constant(_START)
    x = Conv(2 * fold**2, bias_init=start, name='last')(x, frame)
    shares = nn.sigmoid(x).reshape(*x.shape[:3], fold**2, 2)
    colours = moves.reshape(*x.shape[:3], fold**2, 3)
    grey = jnp.mean(colours, -1, keepdims=True)
    moved = shares[..., :1] * grey + shares[..., 1:] * (colours - grey)
    return image + from_cells(moved.reshape(moves.shape), fold)


def local_mean(x: Array, radius: int, frame: Frame | None = None) -> Array:
  """Returns means of f32[B, H, W, C] over windows of 2 * radius + 1 pixels, inside the image.

  They are computed in float32, since sums of so many pixels have errors in shorter types.
  """
  taps, sums = 2 * radius + 1, masked(x, frame).astype(jnp.float32)
  for axis in (1, 2):
    window = tuple(taps if i == axis else 1 for i in (1, 2))
    sums = nn.pool(sums, 0.0, lax.add, window, (1, 1), 'SAME')
  counts = (_within(x.shape[axis], axis, radius, frame) for axis in (1, 2))
  rows, columns = (count.astype(jnp.float32) for count in counts)
  return (sums / (rows[:, :, None, None] * columns[:, None, :, None])).astype(x.dtype)


def _within(size: int, axis: int, radius: int, frame: Frame | None) -> Array:
  """Returns i32[B or 1, size], how many pixels of each window along an axis are in the image."""
  place = jnp.arange(size)[None]
  edges: tuple[Array | int, Array | int] = 0, size
  if frame is not None:
    scaled = frame.edges * (size // frame.grid[axis - 1])
    edges = scaled[:, 2 * axis - 2, None], scaled[:, 2 * axis - 1, None]
  inside = jnp.minimum(place + radius + 1, edges[1]) - jnp.maximum(place - radius, edges[0])
  return jnp.maximum(inside, 1)  # Windows beyond the image hold none; their means are not used.
