"""From the parts of a learned method to its codec: images to files and back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from compress_jax import bitstream, coder
from compress_jax.codec import (
  Array,
  Codec,
  CodecError,
  Coded,
  Image,
  Key,
  Latents,
  Level,
  Params,
  level_of,
)
from compress_jax.exact import mixture, rates, tables
from compress_jax.layers.blocks import Frame
from compress_jax.learned import lambdas, tiles
from compress_jax.learned.refine import Given
from compress_jax.learned.refine import refine as refined
from compress_jax.learned.relaxed import Relaxed, Synthesis
from compress_jax.learned.released import Released, flatten
from compress_jax.learned.tiles import Transform

_TRANSPOSED = 1  # Header flag.
_WORTH = 1.0  # Squared steps that a bit is worth at most: farther symbols are not looked at.
# Refined files take the steps of this share of lambda, whatever plain ones take. It costs 0.1 to
# 0.9 % less than those of lambda itself (six validation crops, lambda 0.0018 to 0.0483, all three
# methods), and at most 0.2 % more than the best share (24 Kodak crops).
_COARSER = 0.8
HYPER_SIDE = 64  # Pixels of a hyper-latent.


class Scheme(NamedTuple):
  """What a learned method does; the rest is common to all."""

  name: str
  method_id: int
  cell: int  # Pixels of a latent's side.
  symbols: Callable[[int, int], int]  # How many a file with a grid of h x w latents holds.
  quantise: Callable[[Released, Sequence[Image], int], list[Latents]]  # At a level.
  write: Callable[[Any, coder.Writer, Latents, int], None]  # Given the method's Coding.
  read: Callable[[Any, coder.Reader, int, int, int], tuple[Latents, Mapping[str, float]]]
  synthesise: Callable[[Released, Sequence[np.ndarray]], list[np.ndarray]]  # Of y_hat.
  export: Callable[[Params, list[Image]], Released]
  thaw: Callable[[Released], Params]  # The inverse of `export`, but for rounding.
  decide: Callable[[Any, Latents, int, float], Latents]  # By `rdoq`, given the method's Coding.
  relaxed: Relaxed  # The rate of latents, and
  whole: Synthesis  # the network behind it, to differentiate.
  transposes: bool = False  # Codes tall images on their side.


def codec(
  scheme: Scheme, model: nn.Module, lmbda: float, refine: int = 0, *, rdoq: float = 0.0
) -> Codec:
  """The codec of a scheme that writes at one lambda, and of the model it was made of.

  Args:
    scheme: of a method.
    model: with all parameters.
    lmbda: minimise bits per pixel + lmbda * MSE.
    refine: passes over the latents of each image that look for cheaper ones, in steps of 0.8
      lambda.
    rdoq: what a bit is worth where latents round to what is cheaper, as in `rdoq`.

  Raises:
    CodecError: a bit cannot be worth that.
  """
  if isinstance(rdoq, bool) or not 0 <= rdoq <= _WORTH:
    raise CodecError(f'rdoq={rdoq} must be a number from 0 to {_WORTH:g}')

  def level_in(released: Released) -> int:
    return level_of(_COARSER * lmbda if refine else lambdas.steps_of(lmbda, released.ratios))

  def init(key: Key) -> Params:
    side = 2 * HYPER_SIDE
    return model.init(key, jnp.zeros((1, side, side, 3)), jnp.zeros(1, jnp.int32))['params']

  def apply(
    params: Params, x: Array, level: Level, key: Key | None, *, worth: float | None = None
  ) -> Coded:
    if key is not None and key.ndim == 0:
      key = jax.random.split(key, len(x))
    coded: Any = model.apply({'params': params}, x, level, key, worth=worth)
    return coded

  def export(params: Params, images: list[Image]) -> Released:
    for name, value in flatten(params, 'params').items():
      if not np.isfinite(value).all():
        raise CodecError(f'{name} holds numbers that are not finite')
    return scheme.export(params, images)

  def chosen(released: Released, images: Sequence[Image], level: int) -> list[Latents]:
    found = scheme.quantise(released, images, level)
    if rdoq:
      found = [scheme.decide(released.coding, latents, level, rdoq) for latents in found]
    if not refine:
      return found
    return [
      _refined(scheme, released, image, latents, level, lmbda, refine)
      for image, latents in zip(images, found, strict=True)
    ]

  def encode_all(released: Released, images: Sequence[Image]) -> list[bytes]:
    sides = [_side(scheme, image) for image in images]
    turned = [_turned(image, side) for image, side in zip(images, sides, strict=True)]
    files, level = [], level_in(released)
    coded = chosen(released, turned, level)
    for image, side, latents in zip(images, sides, coded, strict=True):
      writer = coder.Writer()
      scheme.write(released.coding, writer, latents, level)
      height, width = image.shape[:2]
      header = bitstream.Header(scheme.method_id, height, width, level, side, released.model_id)
      files.append(bitstream.pack(header, writer.finish()))
    return files

  def decode_all(released: Released, files: Sequence[bytes]) -> list[Image]:
    read = [_read(scheme, released, data)[:2] for data in files]
    table = released.coding.rates
    y_hats = [rates.dequantise(held.q, table, header.level, held.mean) for header, held in read]
    found = scheme.synthesise(released, y_hats)
    return [_cropped(x_hat, header) for x_hat, (header, _) in zip(found, read, strict=True)]

  def split(released: Released, data: bytes) -> Mapping[str, float]:
    bits = _read(scheme, released, data)[2]
    parts = {name: value / 8 for name, value in bits.items()}
    return {'header': len(data) - sum(parts.values()), **parts}  # With CRC and rounding.

  def latents(released: Released, data: bytes) -> Latents:
    return _read(scheme, released, data)[1]

  def quantise(released: Released, image: Image) -> Latents:
    turned = _turned(image, _side(scheme, image))
    return chosen(released, [turned], level_in(released))[0]

  return Codec(
    encode=lambda released, image: encode_all(released, [image])[0],
    decode=lambda released, data: decode_all(released, [data])[0],
    split=split,
    init=init,
    export=export,
    thaw=scheme.thaw,
    apply=apply,
    quantise=quantise,
    latents=latents,
    encode_all=encode_all,
    decode_all=decode_all,
  )


def runner(largest: int) -> Callable[[Transform, Params, Sequence[np.ndarray]], list[np.ndarray]]:
  """`tiles.run_many` with tiles of at most so many cells a side."""

  def run(transform: Transform, params: Params, xs: Sequence[np.ndarray]) -> list[np.ndarray]:
    return tiles.run_many(transform, params, list(xs), largest=largest)

  return run


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


def whole(networks: Mapping[str, nn.Module]) -> Callable[[Params, Array], Array]:
  """The synthesis of whole arrays, without frames or tiles."""

  def apply(params: Params, y_hat: Array) -> Array:
    out: Any = networks['synthesis'].apply({'params': params['synthesis']}, y_hat)
    return out

  return apply


def pixels(x_hat: np.ndarray) -> Image:
  """u8[H, W, 3] of f32[H, W, 3] in [0, 1]."""
  return np.rint(np.clip(x_hat, 0, 1) * 255).astype(np.uint8)


def _side(scheme: Scheme, image: Image) -> int:
  """The flags of an image that may be coded."""
  height, width = bitstream.check_image(image)
  return _TRANSPOSED if scheme.transposes and height > width else 0


def _turned(image: np.ndarray, flags: int) -> np.ndarray:
  return np.ascontiguousarray(image.transpose(1, 0, 2)) if flags & _TRANSPOSED else image


def _cropped(x_hat: np.ndarray, header: bitstream.Header) -> Image:
  image = _turned(pixels(x_hat), header.flags)
  return np.ascontiguousarray(image[: header.height, : header.width])


def _refined(
  scheme: Scheme,
  released: Released,
  image: Image,
  latents: Latents,
  level: int,
  lmbda: float,
  passes: int,
) -> Latents:
  table = released.coding.rates
  mean = np.broadcast_to(latents.mean * 2.0**-tables.FRACTION, latents.q.shape)
  given = Given(
    released.decoder,
    scheme.relaxed.arrays(released.coding, latents, level),
    jnp.asarray(table.inverse[level] * 2.0**-rates.GAIN_BITS, jnp.float32),
    jnp.asarray(mean, jnp.float32),
    jnp.asarray(image),
    jnp.float32(lmbda),
  )
  q = refined(scheme.relaxed.rate, scheme.whole, given, latents.q, passes)
  return latents._replace(q=q)


def _read(
  scheme: Scheme, released: Released, data: bytes
) -> tuple[bitstream.Header, Latents, Mapping[str, float]]:
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
