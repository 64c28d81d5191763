"""The parts of a learned method, of which `learned.codec` makes a codec."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from compress_jax import coder
from compress_jax.codec import Array, Latents, Params
from compress_jax.layers.blocks import Frame
from compress_jax.layers.entropy import Mixture
from compress_jax.layers.quantization import Price
from compress_jax.learned.refine import Rate, Seen, Synthesis
from compress_jax.learned.tiles import Transform


class Scheme(NamedTuple):
  """The networks and functions that differ between learned methods."""

  name: str
  number: int  # The method's number in the header of files.
  # The module of all parameters, with the methods `analyse`, `predict`, `rate` and `synthesise`.
  model: nn.Module
  # The networks that run on tiles, of at most `largest` cells a side.
  analysis: Transform
  synthesis: Transform
  # The same synthesis and the bits of symbols, both differentiable.
  whole: Synthesis
  rate: Rate
  largest: int
  depth: int  # Channels of the latents.
  quantise: Callable[[Any, np.ndarray, np.ndarray, int], Latents]  # (coding, y, z, level)
  decide: Callable[[Any, Latents, int, float], Latents]  # (coding, latents, level, worth); `rdoq`.
  write: Callable[[Any, coder.Writer, Latents, int], None]
  read: Callable[[Any, coder.Reader, int, int, int], tuple[Latents, Mapping[str, float]]]
  # `make` turns params into the integers of a coding, calibrated on latents and hyper-latents of a
  # few images; `unmake` turns them back.
  make: Callable[[Params, Sequence[tuple[np.ndarray, np.ndarray]]], Any]
  unmake: Callable[[Any], Params]
  # Methods with hyper-latents have the next four fields.
  hyper_analysis: Transform | None = None
  hyper_cell: int = 1  # Latents along a side of a hyper-latent.
  hyper_depth: int = 0  # Channels of the hyper-latents.
  fit_prior: Callable[[Any], Params] | None = None  # A float prior for integer tables without one.
  transposes: bool = False  # Whether images that are taller than wide are coded transposed.

  @property
  def cell(self) -> int:
    """Returns the number of pixels along a side of a latent."""
    return self.analysis.cell_in


def transform(
  networks: Mapping[str, nn.Module],
  name: str,
  cells: tuple[int, int],
  halo: int,
) -> Transform:
  """Returns a network of zero-padded convolutions for `tiles`, in float32 on every device.

  Args:
    networks: modules that are called with f32[B, H, W, C] and a Frame.
    name: the name of the network and of its parameters.
    cells: pixels along a side of a cell in the input and in the output.
    halo: the number of cells on each side on which an output may depend.
  """

  def apply(params: Params, x: Array, edges: Array) -> Array:
    frame = Frame(edges, (x.shape[1] // cells[0], x.shape[2] // cells[0]))
    with jax.default_matmul_precision('highest'):
      out: Any = networks[name].apply({'params': params[name]}, x, frame)
      return out

  return Transform(apply, *cells, halo)


def whole(networks: Mapping[str, nn.Module]) -> Callable[[Params, Array], Array]:
  """Returns a function that synthesises whole arrays, without frames or tiles."""

  def apply(params: Params, y_hat: Array) -> Array:
    out: Any = networks['synthesis'].apply({'params': params['synthesis']}, y_hat)
    return out

  return apply


def rate(model: nn.Module) -> Rate:
  """Returns the function of `refine` that gives the bits of an image's symbols."""

  def bits(seen: Seen, q: Array, magnitudes: Array) -> Price:
    given: Any = (seen.z_hat, seen.level, q, magnitudes)
    with jax.default_matmul_precision('highest'):
      predicted: Any = model.apply(
        {'params': seen.params}, *(value[None] for value in given), method='predict'
      )
    return Mixture(*(part[:, 0] for part in predicted)).bits

  return bits


def unframed(network: nn.Module, name: str, params: Params, x: Array, edges: Array) -> Array:
  """Applies a network of valid convolutions, which needs no frame; its signature is `tiles.Apply`.

  The network computes in float32 on every device.
  """
  del edges
  with jax.default_matmul_precision('highest'):
    out: Any = network.apply({'params': params[name]}, x)
    return out
