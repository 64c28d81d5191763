"""The qualities that reports show side by side: their names, scales, and why rows lack them."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

NOT_MEASURED = 'not measured'  # Of rows that were made without a metric.


class Quality(NamedTuple):
  """One way to measure how near a decoded image is to its original."""

  key: str  # In rows, and of the fields of a curve.
  name: str
  axis: str
  unit: str  # Of the scale.
  form: str  # Format of the number itself.
  # The number on the scale of figures and BD-rates, which rises with quality.
  scale: Callable[[float], float]
  overlap: float  # On that scale: curves with less in common have no BD-rate.
  without: str  # Why a row has none.


def decibel(distance: float) -> float:
  """-10 log10 of a distance, which spreads the values near 0; infinite at 0."""
  return -10 * math.log10(distance) if distance > 0 else math.inf


def _itself(value: float) -> float:
  return value


PSNR = Quality('psnr', 'PSNR', 'PSNR in dB, RGB', ' dB', '.2f', _itself, 1.0, 'lossless')
MS_SSIM = Quality(
  *('ms_ssim', 'MS-SSIM', 'MS-SSIM in dB, −10 log10(1 − x)', ' dB', '.4f'),
  *(lambda value: decibel(1 - value), 1.0, 'images too small'),
)
SSIMULACRA2 = Quality(
  *('ssimulacra2', 'SSIMULACRA2', 'SSIMULACRA2, 100 for equal images', '', '.2f'),
  *(_itself, 5.0, 'images too small'),
)
LPIPS = Quality(
  *('lpips', 'LPIPS', 'LPIPS in dB, −10 log10(x)', ' dB', '.4f'),
  *(decibel, 1.0, 'no weights'),
)
ALL = (PSNR, MS_SSIM, SSIMULACRA2, LPIPS)


def missing(rows: Iterable[Mapping[str, Any]], quality: Quality) -> str:
  """Returns why no row has a quality: 'not measured', 'no weights'; '' where one has it."""
  asked = False
  for row in rows:
    if row.get(quality.key) is not None:
      return ''
    asked |= quality.key in row
  return quality.without if asked else NOT_MEASURED
