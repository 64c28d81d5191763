"""The codec of a learned method, made from its scheme: images to files and back."""

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

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
  Progress,
  Rated,
  level_of,
)
from compress_jax.exact import floats, hyper, mixture, rates, tables
from compress_jax.learned import lambdas, tiles
from compress_jax.learned.refine import Given, Seen
from compress_jax.learned.refine import refine as refined
from compress_jax.learned.released import Released, flatten, release
from compress_jax.learned.scheme import Scheme

_TRANSPOSED = 1  # Header flag.
_WORTH = 1.0  # The largest worth of a bit in squared steps; only two symbols are compared.
# Refined files use the steps of this share of lambda, independently of the model's table. They cost
# 0.1 to 0.9 % less than with the steps of lambda itself (six validation crops, lambda 0.0018 to
# 0.0483, all three methods), and at most 0.2 % more than with the best share (24 Kodak crops).
_COARSER = 0.8
HYPER_SIDE = 64  # Pixels along a side of a hyper-latent.


def codec(scheme: Scheme, lmbda: float, refine: int = 0, *, rdoq: float = 0.0) -> Codec:
  """Returns the codec of a scheme, which writes files at one lambda.

  Args:
    scheme: the scheme of a method.
    lmbda: the weight of the MSE in bits per pixel + lmbda * MSE, which is minimised.
    refine: the number of passes that search cheaper latents of each image, with the quantisation
      steps of 0.8 lambda.
    rdoq: the worth of a bit in squared steps where latents are rounded, as in `exact.rdoq`.

  Raises:
    CodecError: `rdoq` or `refine` is out of range.
  """
  if isinstance(rdoq, bool) or not 0 <= rdoq <= _WORTH:
    raise CodecError(f'rdoq={rdoq} must be a number from 0 to {_WORTH:g}')
  if isinstance(refine, bool) or not isinstance(refine, int) or refine < 0:
    raise CodecError(f'refine={refine} must be a whole number of passes, 0 or more')
  model = scheme.model

  def level_in(released: Released) -> int:
    return level_of(_COARSER * lmbda if refine else lambdas.steps_of(lmbda, released.ratios))

  def init(key: Key) -> Params:
    side = 2 * HYPER_SIDE
    return model.init(key, jnp.zeros((1, side, side, 3)), jnp.zeros(1, jnp.int32))['params']

  def analysis(params: Params, x: Array) -> Array:
    y: Any = model.apply({'params': params}, _images(x), method='analyse')
    return y.astype(jnp.float32)

  def rated(
    params: Params, y: Array, level: Level, key: Key | None, *, as_files: bool, **more: Any
  ) -> Rated:
    keys = jax.random.split(key, len(y)) if key is not None and key.ndim == 0 else key
    more['rdoq'] = rdoq if key is None or as_files else 0.0
    result: Any = model.apply(
      {'params': params}, y, _levels(level, len(y)), keys, exact=as_files, **more, method='rate'
    )
    return result

  def rate(
    params: Params, y: Array, level: Level, key: Key | None, *, as_files: bool = False
  ) -> Rated:
    return rated(params, y, level, key, as_files=as_files)

  def synthesis(params: Params, y_hat: Array, size: tuple[int, int]) -> Array:
    x_hat: Any = model.apply({'params': params}, y_hat, method='synthesise')
    return x_hat[:, : size[0], : size[1]].astype(jnp.float32)

  def apply(
    params: Params,
    x: Array,
    level: Level,
    key: Key | None,
    *,
    as_files: bool = False,
    mask: Array | None = None,
  ) -> Coded:
    if mask is not None and scheme.hyper_analysis:
      raise CodecError(f'{scheme.name} predicts its latents from one another: it takes no mask')
    more = {} if mask is None else {'mask': mask}
    y, dtype = analysis(params, x), jnp.asarray(x).dtype
    part = rated(params, y, level, key, as_files=as_files, dtype=dtype, **more)
    x_hat = synthesis(params, part.y_hat.astype(dtype), (x.shape[1], x.shape[2]))
    return Coded(x_hat, part.y_hat, part.bits)

  def export(params: Params, images: list[Image]) -> Released:
    for name, value in flatten(params, 'params').items():
      if not np.isfinite(value).all():
        raise CodecError(f'{name} holds numbers that are not finite')
    encoder = {name: params[name] for name in ('analysis', 'hyper_analysis') if name in params}
    examples = _analyse(scheme, encoder, images) if scheme.hyper_analysis else []
    made = release(encoder, {'synthesis': params['synthesis']}, scheme.make(params, examples))
    return made._replace(prior=params['prior']) if scheme.fit_prior else made

  def thaw(released: Released) -> Params:
    params = {**released.encoder, **released.decoder, **entropy_params(released)}
    if scheme.fit_prior:
      known = released.prior is not None
      params['prior'] = released.prior if known else scheme.fit_prior(released.coding)
    return jax.device_put(jax.tree.map(np.array, params))  # Copies: the caller may donate them.

  @_of_the_last
  def entropy_params(released: Released) -> Params:
    log_gains = floats.log_gains_of(released.coding.rates, model.levels)
    params = {**scheme.unmake(released.coding), 'log_gains': log_gains}
    # In NumPy: callers may donate arrays of JAX, which would delete those that are cached, and JAX
    # would compile a conversion from float64 for every shape.
    return jax.tree.map(lambda value: np.asarray(value, np.float32), params)

  def quantised(
    released: Released, images: Sequence[Image], level: int, progress: Progress | None
  ) -> list[Latents]:
    coding = released.coding
    both = _analyse(scheme, released.encoder, images, progress)
    return [scheme.quantise(coding, y, z, level)._replace(y=y) for y, z in both]

  def chosen(
    released: Released, images: Sequence[Image], level: int, progress: Progress | None = None
  ) -> list[Latents]:
    rounded = quantised(released, images, level, progress)
    if rdoq:
      rounded = [scheme.decide(released.coding, latents, level, rdoq) for latents in rounded]
    if not refine:
      return rounded
    params = jax.device_put(entropy_params(released))
    return [
      _refined(scheme, released, params, image, latents, level, lmbda, refine, progress)
      for image, latents in zip(images, rounded, strict=True)
    ]

  def encode_all(
    released: Released, images: Sequence[Image], *, progress: Progress | None = None
  ) -> list[bytes]:
    all_flags = [_flags(scheme, image) for image in images]
    turned = [_turned(image, flags) for image, flags in zip(images, all_flags, strict=True)]
    files, level = [], level_in(released)
    coded = chosen(released, turned, level, progress)
    for image, flags, latents in zip(images, all_flags, coded, strict=True):
      writer = coder.Writer()
      scheme.write(released.coding, writer, latents, level)
      height, width = image.shape[:2]
      header = bitstream.Header(scheme.number, height, width, level, flags, released.model_id)
      files.append(bitstream.pack(header, writer.finish()))
    return files

  def decode_all(
    released: Released, files: Sequence[bytes], *, progress: Progress | None = None
  ) -> list[Image]:
    opened = [_open(scheme, released, data) for data in files]
    beside = futures.ThreadPoolExecutor(1)  # JAX compiles in it while symbols are read here.
    try:
      preparing = beside.submit(
        tiles.prepare,
        scheme.synthesis,
        released.decoder,
        [_grid(scheme, header) for header, _ in opened],
        scheme.depth,
        largest=scheme.largest,
      )
      coded = [_read(scheme, released, *file)[0] for file in opened]
      preparing.result()
    finally:  # An error or an interrupt waits for no program.
      beside.shutdown(wait=False, cancel_futures=True)
    read = [(header, held) for (header, _), held in zip(opened, coded, strict=True)]
    table = released.coding.rates
    y_hats = [rates.dequantise(held.q, table, header.level, held.mean) for header, held in read]
    x_hats = tiles.run_many(
      scheme.synthesis,
      released.decoder,
      y_hats,
      largest=scheme.largest,
      progress=_stage(progress, 'synthesis'),
    )
    return [_cropped(x_hat, header) for x_hat, (header, _) in zip(x_hats, read, strict=True)]

  def split(released: Released, data: bytes) -> Mapping[str, float]:
    bits = _read(scheme, released, *_open(scheme, released, data))[1]
    parts = {name: value / 8 for name, value in bits.items()}
    return {'header': len(data) - sum(parts.values()), **parts}  # With CRC and rounding.

  def latents(released: Released, data: bytes) -> Latents:
    return _read(scheme, released, *_open(scheme, released, data))[0]

  def quantise(released: Released, image: Image) -> Latents:
    turned = _turned(image, _flags(scheme, image))
    return chosen(released, [turned], level_in(released))[0]

  return Codec(
    encode=lambda released, image: encode_all(released, [image])[0],
    decode=lambda released, data: decode_all(released, [data])[0],
    split=split,
    init=init,
    analysis=analysis,
    rate=rate,
    synthesis=synthesis,
    apply=apply,
    export=export,
    thaw=thaw,
    quantise=quantise,
    latents=latents,
    encode_all=encode_all,
    decode_all=decode_all,
  )


def _of_the_last(make: Callable[[Released], Params]) -> Callable[[Released], Params]:
  """Returns a function like `make` that caches its last result, by the identity of the coding."""
  last: tuple[Any, Any] = None, None

  def kept(released: Released) -> Params:
    nonlocal last
    coding, params = last
    if coding is not released.coding:
      params = make(released)
      last = released.coding, params
    return params

  return kept


def _images(x: Array) -> Array:
  """Returns x after checking it.

  Raises:
    CodecError: x is not a batch of images with three channels, in floats.
  """
  if x.ndim != 4 or x.shape[-1] != 3 or not jnp.issubdtype(x.dtype, jnp.floating):
    raise CodecError(f'x is {x.dtype}{list(x.shape)}, not floats [B, H, W, 3] in [0, 1]')
  return x


def _levels(level: Level, batch: int) -> Array:
  """Returns level bytes i32[B]; a single number applies to all examples.

  Raises:
    CodecError: the number of levels is neither 1 nor B.
  """
  levels = jnp.asarray(level, jnp.int32)
  if levels.shape not in ((), (batch,)):
    raise CodecError(f'level has the shape {levels.shape} for {batch} examples')
  return jnp.broadcast_to(levels, (batch,))


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
  """Returns a function that reports the progress of one stage of the work; None without one."""
  return functools.partial(progress, stage) if progress else None


def _analyse(
  scheme: Scheme,
  encoder: Params,
  images: Sequence[np.ndarray],
  progress: Progress | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Returns the latents and hyper-latents of each image.

  The hyper-latents of a method without them are empty.
  """
  ys = tiles.run_many(
    scheme.analysis,
    encoder,
    list(images),
    largest=scheme.largest,
    progress=_stage(progress, 'analysis'),
  )
  if scheme.hyper_analysis is None:
    return [(y, np.zeros((0, 0, 0), np.float32)) for y in ys]
  zs = tiles.run_many(scheme.hyper_analysis, encoder, ys, largest=scheme.largest)
  return list(zip(ys, zs, strict=True))


def _symbols(scheme: Scheme, height: int, width: int) -> int:
  """Returns the number of symbols in a file with a grid of h x w latents."""
  cells = -(-height // scheme.hyper_cell) * -(-width // scheme.hyper_cell)
  return scheme.depth * height * width + scheme.hyper_depth * cells


def pixels(x_hat: np.ndarray) -> Image:
  """Returns the image u8[H, W, 3] of f32[H, W, 3] in [0, 1], clipped and rounded."""
  return np.rint(np.clip(x_hat, 0, 1) * 255).astype(np.uint8)


def _flags(scheme: Scheme, image: Image) -> int:
  """Returns the header flags of an image.

  Raises:
    CodecError: the image is not u8[H, W, 3], empty or too large for a file.
  """
  height, width = bitstream.check_image(image)
  transposed = _TRANSPOSED if scheme.transposes and height > width else 0
  return transposed | bitstream.grey_flag(image)


def _turned(image: np.ndarray, flags: int) -> np.ndarray:
  return np.ascontiguousarray(image.transpose(1, 0, 2)) if flags & _TRANSPOSED else image


def _cropped(x_hat: np.ndarray, header: bitstream.Header) -> Image:
  if header.flags & bitstream.GREY:
    x_hat = np.repeat(x_hat.mean(-1, keepdims=True), 3, -1)
  image = _turned(pixels(x_hat), header.flags)
  return np.ascontiguousarray(image[: header.height, : header.width])


def _refined(
  scheme: Scheme,
  released: Released,
  params: Params,
  image: Image,
  latents: Latents,
  level: int,
  lmbda: float,
  passes: int,
  progress: Progress | None,
) -> Latents:
  table = released.coding.rates
  mean = np.broadcast_to(latents.mean * 2.0**-tables.FRACTION, latents.q.shape)
  z_hat = latents.z
  if scheme.hyper_analysis:
    z_hat = hyper.dequantise(latents.z, released.coding.prior)
  given = Given(
    released.decoder,
    Seen(params, jnp.asarray(z_hat, jnp.float32), jnp.int32(level)),
    jnp.asarray(table.inverse[level] * 2.0**-rates.GAIN_BITS, jnp.float32),
    jnp.asarray(mean, jnp.float32),
    jnp.asarray(image),
    jnp.float32(lmbda),
  )
  report = _stage(progress, 'refinement')
  q = refined(scheme.rate, scheme.whole, given, latents.q, passes, report)
  return latents._replace(q=q)


def _grid(scheme: Scheme, header: bitstream.Header) -> tuple[int, int]:
  """Returns the height and width of the latents of a file, turned as they were coded."""
  sides = (header.height, header.width)[:: -1 if header.flags & _TRANSPOSED else 1]
  return -(-sides[0] // scheme.cell), -(-sides[1] // scheme.cell)


def _open(scheme: Scheme, released: Released, data: bytes) -> tuple[bitstream.Header, bytes]:
  """Returns the header and the payload of a file.

  Raises:
    CodecError: the file is damaged, or of another method or model.
  """
  header, payload = bitstream.unpack(data)
  if header.method != scheme.number:
    raise CodecError(f'the file was written by method number {header.method}, not by {scheme.name}')
  if header.flags & _TRANSPOSED and not scheme.transposes:
    raise CodecError(f'{scheme.name} has no flags {header.flags}: the file is damaged')
  if header.model_id != released.model_id:
    raise CodecError(
      f'the file needs the {scheme.name} model {header.model_id.hex()}, '
      f'but this is {released.model_id.hex()}'
    )
  if 8 * len(payload) < mixture.least_bits(_symbols(scheme, *_grid(scheme, header))):
    raise CodecError(
      f'{len(payload)} bytes cannot hold {header.width}x{header.height} pixels: the file is damaged'
    )
  return header, payload


def _read(
  scheme: Scheme, released: Released, header: bitstream.Header, payload: bytes
) -> tuple[Latents, Mapping[str, float]]:
  """Returns the latents of a file, and the bits of each stream.

  Raises:
    CodecError: the file is damaged.
  """
  reader = coder.Reader(payload)
  latents, bits = scheme.read(released.coding, reader, *_grid(scheme, header), header.level)
  reader.finish()
  return latents, bits
