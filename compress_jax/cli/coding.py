"""Functions that compress and decompress single files as the flags of the command line say."""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from compress_jax import bitstream, methods, model_zoo
from compress_jax.cli.command import options as method_options
from compress_jax.codec import Codec, CodecError, Image, Progress, Released
from compress_jax.evaluation import budget, metrics
from compress_jax.images import sets


class Task(NamedTuple):
  """A file to make: its source and its target. None stands for a pipe."""

  source: Path | None
  target: Path | None

  def __str__(self) -> str:
    """Returns `source -> target`, as reports name the task."""
    return f'{self.source or "stdin"} -> {self.target or "stdout"}'


class Made(NamedTuple):
  """The contents of a file that is made, and a description of it."""

  file: bytes
  report: str  # The description in words.
  facts: dict[str, Any]  # The description in numbers, for --json.


Source = bytes | Path
Work = Callable[[Sequence[tuple[Task, Source]], Progress], list[Made]]


def compressor(values: flags.FlagValues) -> Work:
  """Returns a function that compresses images, at the lambda or the target that the flags give.

  Raises:
    CodecError: the method has no such model or option.
    flags.Error: the target is no positive number, or there are two targets.
  """
  bpp, psnr = values.target_bpp, values.target_psnr
  if bpp is not None and psnr is not None:
    raise flags.Error('--target_bpp and --target_psnr exclude each other')
  for name in ('target_bpp', 'target_psnr'):
    target = values[name].value
    if target is not None and not 0 < target < math.inf:
      raise flags.Error(f'--{name} must be a positive number')
  read = reader(values)
  options = model_zoo.seeded(values.method, method_options(values), values.seed)

  @functools.cache
  def codec_at(lmbda: float) -> tuple[Codec, Released]:
    return model_zoo.pretrained(values.method, lmbda=lmbda, **options)

  _, released = codec_at(getattr(values, 'lambda'))  # Complains before any work.

  def points(images: list[Image], progress: Progress) -> list[budget.Point]:
    if bpp is None and psnr is None:
      return _code_all(codec_at, images, getattr(values, 'lambda'), progress)
    lambdas = model_zoo.lambda_range(values.method, released)
    coders = [functools.partial(_code, codec_at, image) for image in images]
    steps = functools.partial(progress, 'search')
    if bpp is not None:
      return [budget.within_bpp(code_at, bpp, lambdas, progress=steps) for code_at in coders]
    assert psnr is not None
    return [budget.reaching_psnr(code_at, psnr, lambdas, progress=steps) for code_at in coders]

  def work(group: Sequence[tuple[Task, Source]], progress: Progress) -> list[Made]:
    coded = points([read(source) for _, source in group], progress)
    return [_compressed(point, values.method) for point in coded]

  return work


def _compressed(point: budget.Point, method: str) -> Made:
  """Returns a compressed file with a description of its size and quality."""
  header = bitstream.opening(point.file).header
  size = f'{len(point.file)} bytes, {point.bpp:.4f} bpp, {point.psnr:.2f} dB'
  facts = {**_facts(point.file, header, method), 'psnr': point.psnr, 'lambda': point.lmbda}
  return Made(point.file, f'{size} at lambda {point.lmbda:.5g}', facts)


def _facts(file: bytes, header: bitstream.Header, method: str) -> dict[str, Any]:
  """Returns the fields that --json prints for a compressed file, written or read."""
  return {
    'method': method,
    'level': header.level,
    'width': header.width,
    'height': header.height,
    'bytes': len(file),
    'bpp': metrics.bpp(len(file), header.height, header.width),
  }


def reader(values: flags.FlagValues) -> Callable[[str | Path | bytes], Image]:
  """Returns a function that reads an image as the flags say; it can be sent to other processes."""
  return functools.partial(
    sets.load_image,
    flatten=values.flatten,
    first_frame=values.first_frame,
    depth8=values.depth8,
    max_pixels=values.max_pixels,
  )


def decompressor(values: flags.FlagValues) -> Work:
  """Returns a function that decompresses files, each by the method that its header names."""
  chosen = method_options(values)
  decoders = functools.cache(functools.partial(model_zoo.group_decoder, **chosen))

  def read(source: Source) -> bytes:
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > 4 * values.max_pixels + 4096:
      raise CodecError(f'too large for an image of {values.max_pixels} pixels')
    return source if isinstance(source, bytes) else source.read_bytes()

  def work(group: Sequence[tuple[Task, Source]], progress: Progress) -> list[Made]:
    files = [read(source) for _, source in group]
    names = [methods.of_file(file, max_pixels=values.max_pixels) for file in files]
    images: dict[int, Image] = {}
    for name in set(names):
      places = [i for i, other in enumerate(names) if other == name]
      decoded = decoders(name)([files[i] for i in places], progress=progress)
      images |= dict(zip(places, decoded, strict=True))
    made = []
    for i, (task, _) in enumerate(group):
      suffix = task.target.suffix if task.target else '.png'
      report = f'{images[i].shape[1]}x{images[i].shape[0]}, {names[i]}'
      facts = _facts(files[i], bitstream.opening(files[i]).header, names[i])
      made.append(Made(sets.image_bytes(images[i], suffix), report, facts))
    return made

  return work


def _code(
  codec_at: Callable[[float], tuple[Codec, Released]], image: Image, lmbda: float
) -> budget.Point:
  codec, released = codec_at(lmbda)
  file = codec.encode(released, image)
  psnr = metrics.psnr(image, codec.decode(released, file))
  return budget.Point(lmbda, file, metrics.bpp(len(file), *image.shape[:2]), psnr)


def _code_all(
  codec_at: Callable[[float], tuple[Codec, Released]],
  images: list[Image],
  lmbda: float,
  progress: Progress,
) -> list[budget.Point]:
  """Codes images at one lambda, all together where the codec has `encode_all`."""
  codec, released = codec_at(lmbda)
  if codec.encode_all is None or codec.decode_all is None:
    return [_code(codec_at, image, lmbda) for image in images]
  files = codec.encode_all(released, images, progress=progress)
  decoded_all = codec.decode_all(released, files, progress=progress)
  points = []
  for image, file, decoded in zip(images, files, decoded_all, strict=True):
    bpp = metrics.bpp(len(file), *image.shape[:2])
    points.append(budget.Point(lmbda, file, bpp, metrics.psnr(image, decoded)))
  return points
