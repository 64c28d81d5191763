"""A network that corrects the picture of the linear path; it is in none of the papers.

A linear path of blocks (`linear=True`) leaves edges between blocks. A network whose input is only
the latents would have to learn the cosine transform to locate them. This one sees the pixels, like
the filters that follow the block transforms of video coding standards.
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
  """A network that corrects an image, from its pixels and the features of another network."""

  channels: int
  slope: float = 0.01

  @nn.compact
  def __call__(self, image: Array, features: Array, frame: Frame | None = None) -> Array:
    """Returns the corrections of f32[B, k * h, k * w, 3] in [0, 1], of the size of the image.

    Features are f32[B, h, w, C]. Pixels are folded into channels of the features' grid, where six
    3x3 convolutions work.
    """
    fold = image.shape[1] // features.shape[1]
    cells = to_cells(image - 0.5, fold)
    x = jnp.concatenate([centred_cells(cells, frame), features], -1)
    x = leaky(self.slope)(Conv(self.channels, name='first')(x, frame))
    for i in range(2):
      x = ResidualBlock(self.slope, name=f'block{i}')(x, frame)
    # In tenths of the range: a step of Adam is then small beside the errors to be corrected.
    x = 0.1 * Conv(3 * fold**2, kernel_init=initial(0.3), name='last')(x, frame)
    return from_cells(x, fold)
