"""The command line's compress and decompress: files, folders and pipes."""

import functools
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from absl import flags

from compress_jax import budget, data, methods, metrics, pretrained
from compress_jax.cache import enable_cache
from compress_jax.codec import Codec, CodecError, Image, Released
from compress_jax.command import options as method_options

PIPE = '-'
SUFFIX = '.cjx'


class Task(NamedTuple):
  """One file to make; None is a pipe."""

  source: Path | None
  target: Path | None

  def __str__(self) -> str:
    """How a report names it."""
    return f'{self.source or "stdin"} -> {self.target or "stdout"}'


Work = Callable[[bytes | Path, Task], tuple[bytes, str]]  # (the file, what to report).


def run(values: flags.FlagValues) -> int:
  """Compresses or decompresses as the flags say; 1 if any file failed.

  Raises:
    CodecError: nothing can be done, or the work would overwrite something.
    flags.Error: a flag is missing or does not fit.
  """
  for name in ('input', 'output'):
    if not values[name].value:
      raise flags.Error(f'--mode={values.mode} needs --{name}')
  if values.mode == 'compress':
    work = compressor(values)
    tasks = plan(values.input, values.output, SUFFIX, data.find_images)
  else:
    work = decompressor(values)
    tasks = plan(values.input, values.output, '.png', _find_coded)
  check(tasks, force=values.force)
  enable_cache()
  failed = [task for task in tasks if not _done(task, work, len(tasks) > 1, values.force)]
  if failed and len(tasks) > 1:
    print(f'{len(failed)} of {len(tasks)} files failed', file=sys.stderr)
  return 1 if failed else 0


def plan(source: str, target: str, suffix: str, find: Callable[[Path], list[Path]]) -> list[Task]:
  """The files to make: of a folder, one for each that `find` finds, in the same subfolders."""
  into = None if target == PIPE else Path(target)
  if source == PIPE:
    return [Task(None, into)]
  root = Path(source)
  if not root.is_dir():
    if not root.exists():
      raise CodecError(f'{root}: no such file or folder')
    if into is not None and (into.is_dir() or target.endswith('/')):
      into /= root.with_suffix(suffix).name
    return [Task(root, into)]
  if into is None or into.is_file():
    raise CodecError(f'{source} is a folder, so the output has to be one too')
  return [Task(path, into / path.relative_to(root).with_suffix(suffix)) for path in find(root)]


def check(tasks: list[Task], *, force: bool) -> None:
  """Finds what would be lost before anything is written.

  Raises:
    CodecError: two files would get one name, or a target exists (allowed by
      `force`), or is its own source (never allowed).
  """
  sources: dict[Path, Path | None] = {}
  for source, target in tasks:
    if target is None:
      continue
    if target.is_dir():
      raise CodecError(f'{target} is a folder')
    if target in sources:
      raise CodecError(f'{sources[target]} and {source} would both become {target}')
    sources[target] = source
    if source and target.exists() and target.samefile(source):
      raise CodecError(f'{target}: output and input are the same file')
    if target.is_file() and not force:
      raise CodecError(f'{target} exists; --force overwrites it')


def compressor(values: flags.FlagValues) -> Work:
  """What turns an image into a file, at the lambda or for the budget of the flags."""
  bpp, psnr = values.target_bpp, values.target_psnr
  if bpp is not None and psnr is not None:
    raise flags.Error('--target_bpp and --target_psnr exclude each other')
  for name in ('target_bpp', 'target_psnr'):
    target = values[name].value
    if target is not None and not 0 < target < math.inf:
      raise flags.Error(f'--{name} must be a positive number')
  read = functools.partial(
    data.load_image,
    flatten=values.flatten,
    first_frame=values.first_frame,
    max_pixels=values.max_pixels,
  )
  options = pretrained.seeded(values.method, method_options(values), values.seed)

  @functools.cache
  def codec_at(lmbda: float) -> tuple[Codec, Released]:
    return pretrained.pretrained(values.method, lmbda=lmbda, **options)

  codec_at(getattr(values, 'lambda'))  # Complains before any work.

  def work(source: bytes | Path, task: Task) -> tuple[bytes, str]:
    code_at = functools.partial(_code, codec_at, read(source))
    lambdas = pretrained.lambda_range(values.method)
    if bpp is not None:
      point = budget.within_bpp(code_at, bpp, lambdas)
    elif psnr is not None:
      point = budget.reaching_psnr(code_at, psnr, lambdas)
    else:
      point = code_at(getattr(values, 'lambda'))
    size = f'{len(point.file)} bytes, {point.bpp:.4f} bpp, {point.psnr:.2f} dB'
    return point.file, f'{size} at lambda {point.lmbda:.5g}'

  return work


def decompressor(values: flags.FlagValues) -> Work:
  """What turns a file into an image, by the method that the file names."""
  options = method_options(values)
  decoders = functools.cache(functools.partial(pretrained.decoder, **options))

  def work(source: bytes | Path, task: Task) -> tuple[bytes, str]:
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > 4 * values.max_pixels + 4096:
      raise CodecError(f'too large for an image of {values.max_pixels} pixels')
    file = source if isinstance(source, bytes) else source.read_bytes()
    name = methods.of_file(file, max_pixels=values.max_pixels)
    image = decoders(name)(file)
    suffix = task.target.suffix if task.target else '.png'
    return data.image_bytes(image, suffix), f'{image.shape[1]}x{image.shape[0]}, {name}'

  return work


def _code(
  codec_at: Callable[[float], tuple[Codec, Released]], image: Image, lmbda: float
) -> budget.Point:
  codec, released = codec_at(lmbda)
  file = codec.encode(released, image)
  psnr = metrics.psnr(image, codec.decode(released, file))
  return budget.Point(lmbda, file, metrics.bpp(len(file), *image.shape[:2]), psnr)


def _done(task: Task, work: Work, several: bool, force: bool) -> bool:
  """Makes one file; of several, a failing one is named and leaves the others to go on."""
  start = time.perf_counter()
  try:
    source = sys.stdin.buffer.read() if task.source is None else task.source
    file, report = work(source, task)
    _write(task, file, force)
  except (CodecError, OSError) as error:
    line = _named(task, error)
    if not several:
      raise CodecError(line) from error
    print(f'error: {line}', file=sys.stderr)
    return False
  print(f'{task}: {report}, {time.perf_counter() - start:.2f} s', file=sys.stderr)
  return True


def _named(task: Task, error: Exception) -> str:
  """The error in one line that names a file."""
  text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
  named = any(path and str(path) in text for path in task)
  return text if named else f'{task.source or "standard input"}: {text}'


def _write(task: Task, file: bytes, force: bool) -> None:
  if task.target is None:
    if sys.stdout.isatty():
      raise CodecError('stdout is a terminal: send it to a file or a pipe')
    sys.stdout.buffer.write(file)
    sys.stdout.buffer.flush()
    return
  task.target.parent.mkdir(parents=True, exist_ok=True)
  data.write_atomically(task.target, file, overwrite=force, source=task.source)


def _find_coded(root: Path) -> list[Path]:
  found = sorted(path for path in root.rglob(f'*{SUFFIX}') if path.is_file())
  if not found:
    raise CodecError(f'{root}: no {SUFFIX} files in this folder')
  return found
