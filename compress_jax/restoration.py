"""What a network that sees the picture of the linear path adds to it; in none of the papers.

A linear path of blocks (`linear=True`) leaves edges between them, and a network that sees only
latents would have to learn the cosine transform to find these. This one sees the pixels, as the
filters do that standards run behind their block transforms.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from compress_jax.codec import CodecError
from compress_jax.layers import (
  Conv,
  Frame,
  ResidualBlock,
  from_cells,
  initial,
  leaky,
  masked,
  to_cells,
)

Array = jax.Array


class Restoration(nn.Module):
  """A correction of an image, from its pixels and what another network knows of them."""

  channels: int
  slope: float = 0.01

  @nn.compact
  def __call__(self, image: Array, features: Array, frame: Frame | None = None) -> Array:
    """f32[B, k * h, k * w, 3] in [0, 1] and features f32[B, h, w, C], to the size of the image.

    Pixels are folded into channels of the features' grid, where six 3x3 convolutions work.
    """
    fold = image.shape[1] // features.shape[1]
    cells = to_cells(image - 0.5, fold)
    x = jnp.concatenate([4 * (cells - _around(cells, frame)), features], -1)
    x = leaky(self.slope)(Conv(self.channels, name='first')(x, frame))
    for i in range(2):
      x = ResidualBlock(self.slope, name=f'block{i}')(x, frame)
    # In tenths of the range: a step of Adam is then small beside what there is to correct.
    x = 0.1 * Conv(3 * fold**2, kernel_init=initial(0.3), name='last')(x, frame)
    return from_cells(x, fold)


def _around(cells: Array, frame: Frame | None) -> Array:
  """The mean colour of 7x7 cells around each, f32[B, h, w, 3 n], as far as they are image.

  What matters are differences. With the colour of a region in all of its inputs a network learns
  a tenth as fast, or not at all.
  """
  pool = lambda x: nn.avg_pool(x, (7, 7), padding='SAME')  # noqa: E731
  colours = cells.reshape(*cells.shape[:3], -1, 3).mean(3)
  share = pool(masked(jnp.ones_like(colours[..., :1]), frame))
  mean = pool(masked(colours, frame)) / jnp.maximum(share, 1e-6)
  return jnp.tile(mean, cells.shape[-1] // 3)


def check(restoration: int, linear: bool) -> None:
  """Raises CodecError where there is nothing to restore."""
  if restoration and not linear:
    raise CodecError(f'restoration={restoration} is of the linear path: it needs linear=True')
