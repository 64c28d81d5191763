"""From the parts of a learned method to its codec: images to files and back."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from compress_jax import bitstream, coder
from compress_jax.codec import Array, Codec, CodecError, Coded, Image, Key, Level, Params
from compress_jax.exact import mixture
from compress_jax.latents import Latents
from compress_jax.layers import Frame
from compress_jax.levels import level_of
from compress_jax.released import Released
from compress_jax.tiles import Transform

_TRANSPOSED = 1  # Header flag.
HYPER_SIDE = 64  # Pixels of a hyper-latent.


class Scheme(NamedTuple):
  """What a learned method does; the rest is common to all."""

  name: str
  method_id: int
  cell: int  # Pixels of a latent's side.
  symbols: Callable[[int, int], int]  # How many a file with a grid of h x w latents holds.
  quantise: Callable[[Released, Image, int], Latents]  # At a level.
  write: Callable[[Any, coder.Writer, Latents, int], None]  # Given the method's Coding.
  read: Callable[[Any, coder.Reader, int, int, int], tuple[Latents, Mapping[str, float]]]
  synthesise: Callable[[Released, Latents, int], np.ndarray]  # f32[cell * h, cell * w, 3].
  export: Callable[[Params, list[Image]], Released]
  transposes: bool = False  # Codes tall images on their side.


def codec(scheme: Scheme, model: nn.Module, lmbda: float) -> Codec:
  """The codec of a scheme that writes at one lambda, and of the model it was made of."""
  level = level_of(lmbda)

  def init(key: Key) -> Params:
    side = 2 * HYPER_SIDE
    return model.init(key, jnp.zeros((1, side, side, 3)), jnp.zeros(1, jnp.int32))['params']

  def apply(params: Params, x: Array, level: Level, key: Key | None) -> Coded:
    coded: Any = model.apply({'params': params}, x, level, key)
    return coded

  def encode(released: Released, image: Image) -> bytes:
    height, width = bitstream.check_image(image)
    flags = _TRANSPOSED if scheme.transposes and height > width else 0
    latents = scheme.quantise(released, _turned(image, flags), level)
    writer = coder.Writer()
    scheme.write(released.coding, writer, latents, level)
    header = bitstream.Header(scheme.method_id, height, width, level, flags, released.model_id)
    return bitstream.pack(header, writer.finish())

  def decode(released: Released, data: bytes) -> Image:
    header, latents, _ = _read(scheme, released, data)
    x_hat = pixels(scheme.synthesise(released, latents, header.level))
    return np.ascontiguousarray(_turned(x_hat, header.flags)[: header.height, : header.width])

  def split(released: Released, data: bytes) -> Mapping[str, float]:
    bits = _read(scheme, released, data)[2]
    parts = {name: value / 8 for name, value in bits.items()}
    return {'header': len(data) - sum(parts.values()), **parts}  # With CRC and rounding.

  def latents(released: Released, data: bytes) -> Latents:
    return _read(scheme, released, data)[1]

  def quantise(released: Released, image: Image) -> Latents:
    height, width = bitstream.check_image(image)
    flags = _TRANSPOSED if scheme.transposes and height > width else 0
    return scheme.quantise(released, _turned(image, flags), level)

  return Codec(
    encode, decode, split, init, scheme.export, apply, quantise=quantise, latents=latents
  )


def transform(
  networks: Mapping[str, nn.Module],
  name: str,
  cells: tuple[int, int],
  halo: int,
) -> Transform:
  """A network of zero-padded convolutions for `tiles`, in full float32 on every device.

  Args:
    networks: modules that are called with f32[B, H, W, C] and a Frame.
    name: of the one, and of its parameters.
    cells: pixels of a cell going in and coming out.
    halo: cells on each side that an output may depend on.
  """

  def apply(params: Params, x: Array, edges: Array) -> Array:
    frame = Frame(edges, (x.shape[1] // cells[0], x.shape[2] // cells[0]))
    with jax.default_matmul_precision('highest'):
      out: Any = networks[name].apply({'params': params[name]}, x, frame)
      return out

  return Transform(apply, *cells, halo)


def pixels(x_hat: np.ndarray) -> Image:
  """u8[H, W, 3] of f32[H, W, 3] in [0, 1]."""
  return np.rint(np.clip(x_hat, 0, 1) * 255).astype(np.uint8)


def _turned(image: np.ndarray, flags: int) -> np.ndarray:
  return np.ascontiguousarray(image.transpose(1, 0, 2)) if flags & _TRANSPOSED else image


def _read(scheme: Scheme, released: Released, data: bytes) -> tuple[Any, Latents, Mapping]:
  header, payload = bitstream.unpack(data)
  if header.method != scheme.method_id:
    raise CodecError(f'the file was written by method number {header.method}, not by {scheme.name}')
  if header.flags > (_TRANSPOSED if scheme.transposes else 0):
    raise CodecError(f'{scheme.name} has no flags {header.flags}: the file is damaged')
  if header.model_id != released.model_id:
    raise CodecError(
      f'the file needs the {scheme.name} model {header.model_id.hex()}, '
      f'but this is {released.model_id.hex()}'
    )
  height, width = header.height, header.width
  if header.flags & _TRANSPOSED:
    height, width = width, height
  grid = -(-height // scheme.cell), -(-width // scheme.cell)
  if 8 * len(payload) < mixture.least_bits(scheme.symbols(*grid)):
    raise CodecError(
      f'{len(payload)} bytes cannot hold {width}x{height} pixels: the file is damaged'
    )
  reader = coder.Reader(payload)
  latents, bits = scheme.read(released.coding, reader, *grid, header.level)
  reader.finish()
  return header, latents, bits


def unframed(network: nn.Module, name: str, params: Params, x: Array, edges: Array) -> Array:
  """A network of valid convolutions for `tiles`, which needs no frame."""
  del edges
  with jax.default_matmul_precision('highest'):
    out: Any = network.apply({'params': params[name]}, x)
    return out
