"""What a network that sees the picture of the linear path adds to it; in none of the papers.

A linear path of blocks (`linear=True`) leaves edges between them, and a network that sees only
latents would have to learn the cosine transform to find these. This one sees the pixels, as the
filters do that standards run behind their block transforms.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from compress_jax.layers.blocks import (
  Conv,
  Frame,
  ResidualBlock,
  from_cells,
  initial,
  leaky,
  to_cells,
)
from compress_jax.layers.linear import centred_cells

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
    x = jnp.concatenate([centred_cells(cells, frame), features], -1)
    x = leaky(self.slope)(Conv(self.channels, name='first')(x, frame))
    for i in range(2):
      x = ResidualBlock(self.slope, name=f'block{i}')(x, frame)
    # In tenths of the range: a step of Adam is then small beside what there is to correct.
    x = 0.1 * Conv(3 * fold**2, kernel_init=initial(0.3), name='last')(x, frame)
    return from_cells(x, fold)
