"""Qualities that reports show side by side: names, scales, and reasons why rows lack them."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

NOT_MEASURED = 'not measured'  # The reason for rows that were made without the metric.


class Quality(NamedTuple):
  """A measure of the similarity of a decoded image to its original."""

  key: str  # The key in rows, and the field of a curve.
  name: str
  axis: str  # The label of the axis in figures.
  unit: str  # The unit of the scale.
  form: str  # The format of the number as it is in rows.
  # The number on the scale of figures and BD-rates, which rises with quality.
  scale: Callable[[float], float]
  overlap: float  # Curves that have less in common on that scale have no BD-rate.
  without: str  # The reason why a row has no value.


def decibel(distance: float) -> float:
  """Returns -10 log10 of a distance, which spreads the values near 0; infinite at 0."""
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
  """Returns the reason why no row has a quality, such as 'not measured'; '' if a row has it."""
  asked = False
  for row in rows:
    if row.get(quality.key) is not None:
      return ''
    asked |= quality.key in row
  return quality.without if asked else NOT_MEASURED
