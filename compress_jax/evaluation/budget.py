"""Operating points for a budget: the best file within a number of bits, or of a given quality."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from compress_jax.codec import CodecError


class Point(NamedTuple):
  """The file of a codec at one lambda, with its rate and quality."""

  lmbda: float
  file: bytes
  bpp: float
  psnr: float  # dB of the decoded image.


CodeAt = Callable[[float], Point]
PRECISION = 0.01  # A search stops when lambda is known to this relative precision.
SIZE_RANGE = math.log(60)  # Typical ratio of a codec's largest and smallest file: a first guess.


def within_bpp(
  code: CodeAt,
  target: float,
  lambdas: tuple[float, float],
  *,
  progress: Callable[[int, int], None] | None = None,
) -> Point:
  """Returns the file of the highest PSNR among those tried with at most `target` bits per pixel.

  Args:
    code: makes the file at a lambda.
    target: bits per pixel.
    lambdas: the smallest and the largest.
    progress: is called after each file, with how many are made and how many there will be at most.

  Raises:
    CodecError: even the smallest lambda gives a larger file.
  """
  low, high = lambdas
  code = _counted(code, lambdas, progress)
  fits = lambda point: point.bpp <= target  # noqa: E731
  points = _bisect(code, fits, low, high)
  if not fits(points[0]):
    raise CodecError(f'no file within {target:g} bpp: the smallest has {points[0].bpp:.4f} bpp')
  return max(points, key=lambda point: (point.psnr, -point.bpp))


def reaching_psnr(
  code: CodeAt,
  target: float,
  lambdas: tuple[float, float],
  *,
  progress: Callable[[int, int], None] | None = None,
) -> Point:
  """Returns the smallest file among those tried with at least `target` dB.

  Args:
    code: makes the file at a lambda.
    target: PSNR in dB.
    lambdas: the smallest and the largest.
    progress: is called after each file, with how many are made and how many there will be at most.

  Raises:
    CodecError: even the largest lambda gives less.
  """
  low, high = lambdas
  code = _counted(code, lambdas, progress)
  fits = lambda point: point.psnr >= target  # noqa: E731
  points = _bisect(code, fits, high, low)
  if not fits(points[0]):
    raise CodecError(f'no file reaches {target:g} dB: the best has {points[0].psnr:.2f} dB')
  return min(points, key=lambda point: (point.bpp, -point.psnr))


def _counted(
  code: CodeAt, lambdas: tuple[float, float], progress: Callable[[int, int], None] | None
) -> CodeAt:
  """Returns `code`, which tells after each file how many of a search are made."""
  if progress is None:
    return code
  halvings = math.log2(math.log(lambdas[1] / lambdas[0]) / PRECISION)
  most, made = 2 + max(0, math.ceil(halvings)), itertools.count(1)

  def counted(lmbda: float) -> Point:
    point = code(lmbda)
    progress(next(made), most)
    return point

  return counted


def _bisect(code: CodeAt, fits: Callable[[Point], bool], easy: float, hard: float) -> list[Point]:
  """Bisects lambda on a log scale; returns the first point tried, then the later ones that fit.

  Args:
    code: makes the file at a lambda.
    fits: true near `easy`, false near `hard`.
    easy: the first lambda; nothing else is tried if it does not fit.
    hard: the other end; nothing else is tried if it fits.
  """
  points = [code(easy)]
  if not fits(points[0]):
    return points
  last = code(hard)
  if fits(last):
    return [*points, last]
  while abs(math.log(hard / easy)) > PRECISION:
    middle = math.sqrt(easy * hard)
    point = code(middle)
    if fits(point):
      points.append(point)
      easy = middle
    else:
      hard = middle
  return points


def nearest_size(
  encode: Callable[[float], bytes],
  points: Sequence[float],
  size: int,
  *,
  start: int | None = None,
  close: float = 0.02,
  tries: int = 6,
) -> bytes:
  """Returns the file nearest to `size` bytes, among those of a few `points`.

  The logarithm of a codec's size is close to linear in its quality, so this is a secant search over
  the index of the point. Each try lies between the largest point known to be too small and the
  smallest known to be too large: sizes that locally fall, as those of JPEG XL do where it begins to
  code at full resolution, cannot lead it away from the size.

  Args:
    encode: makes the file of a point.
    points: increasing in file size, but for small steps back.
    size: the wanted number of bytes.
    start: index of the first point to try; None is the middle one.
    close: relative difference at which the search stops.
    tries: largest number of files that are made.
  """
  files: list[bytes] = []
  errors: dict[int, float] = {}  # Logarithms of size / wanted size, by index.
  low, high = -1, len(points)  # Between the two are the indices that may still be tried.
  i = len(points) // 2 if start is None else start
  while low < i < high and len(files) < tries:
    files.append(encode(points[i]))
    errors[i] = math.log(len(files[-1]) / size)
    if abs(errors[i]) <= close:
      break
    low, high = (i, high) if errors[i] < 0 else (low, i)
    guess = i - errors[i] / _slope(errors, low, high, len(points))
    i = min(max(round(guess), low + 1), high - 1)
  return min(files, key=lambda file: abs(len(file) - size))


def _slope(errors: dict[int, float], low: int, high: int, count: int) -> float:
  """Returns the change of a file's logarithmic size per index, near the wanted size.

  The slope is taken between the nearest points below and above the size, or else between the last
  two tried; before that it is a first guess.
  """
  both = low in errors and high in errors
  first, last = (low, high) if both else (min(list(errors)[-2:]), max(list(errors)[-2:]))
  slope = (errors[last] - errors[first]) / max(last - first, 1)
  return slope if slope > 0 else SIZE_RANGE / count
