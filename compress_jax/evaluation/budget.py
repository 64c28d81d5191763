"""Operating points for a budget: the best file within so many bits, or of a given quality."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from compress_jax.codec import CodecError


class Point(NamedTuple):
  """One file of a codec at one lambda."""

  lmbda: float
  file: bytes
  bpp: float
  psnr: float  # dB of the decoded image.


CodeAt = Callable[[float], Point]
SIZE_RANGE = math.log(60)  # Largest file / smallest file of a usual codec, to start from.


def within_bpp(code: CodeAt, target: float, lambdas: tuple[float, float]) -> Point:
  """The highest PSNR found with at most `target` bits per pixel.

  Raises:
    CodecError: even the smallest lambda gives a larger file.
  """
  low, high = lambdas
  seen = _bisect(code, lambda point: point.bpp <= target, low, high)
  if not seen:
    least = code(low).bpp
    raise CodecError(f'no file within {target:g} bpp: the smallest has {least:.4f} bpp')
  return max(seen, key=lambda point: (point.psnr, -point.bpp))


def reaching_psnr(code: CodeAt, target: float, lambdas: tuple[float, float]) -> Point:
  """The smallest file found with at least `target` dB.

  Raises:
    CodecError: even the largest lambda gives less.
  """
  low, high = lambdas
  seen = _bisect(code, lambda point: point.psnr >= target, high, low)
  if not seen:
    most = code(high).psnr
    raise CodecError(f'no file reaches {target:g} dB: the best has {most:.2f} dB')
  return min(seen, key=lambda point: (point.bpp, -point.psnr))


def _bisect(
  code: CodeAt, fits: Callable[[Point], bool], easy: float, hard: float, *, precision: float = 0.01
) -> list[Point]:
  """The fitting points met on the way to where they stop fitting, on a log scale of lambda.

  Args:
    code: makes the file at a lambda.
    fits: true near `easy`, false near `hard`.
    easy: where the search starts; the list is empty if that does not fit.
    hard: its other end; nothing else is tried if that fits.
    precision: stop when lambda is known to this relative precision.
  """
  seen = [code(easy)]
  if not fits(seen[0]):
    return []
  last = code(hard)
  if fits(last):
    return [*seen, last]
  while abs(math.log(hard / easy)) > precision:
    middle = math.sqrt(easy * hard)
    point = code(middle)
    if fits(point):
      seen.append(point)
      easy = middle
    else:
      hard = middle
  return seen


def nearest_size(
  encode: Callable[[float], bytes],
  points: Sequence[float],
  size: int,
  *,
  start: int | None = None,
  close: float = 0.02,
  tries: int = 4,
) -> bytes:
  """The file nearest to `size` bytes, among those of a few `points`.

  The logarithm of a codec's size is close to linear in its quality: a secant
  search over the index of the point.

  Args:
    encode: makes the file of a point.
    points: rising in file size.
    size: bytes wanted.
    start: index of the first point to try; the middle one if not given.
    close: relative difference that is near enough.
    tries: at most so many files are made.
  """
  found: dict[int, bytes] = {}
  slope = SIZE_RANGE / len(points)  # Of the logarithm of the size, per index.
  i = len(points) // 2 if start is None else start
  while i not in found and len(found) < tries:
    last = list(found)[-1:]
    found[i] = encode(points[i])
    if last and len(found[i]) != len(found[last[0]]):
      slope = math.log(len(found[i]) / len(found[last[0]])) / (i - last[0])
    off = math.log(len(found[i]) / size)
    if abs(off) > close:
      i = min(len(points) - 1, max(0, i - round(off / slope)))
  return min(found.values(), key=lambda file: abs(len(file) - size))
