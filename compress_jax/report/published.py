"""Curves from the literature, and what codecs reach at their rates by LPIPS."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from compress_jax.report.curves import Curve

# The names of a curve's optional qualities in CompressAI's result files.
COMPRESSAI = {'ms_ssim': 'ms-ssim-rgb', 'ssimulacra2': 'ssimulacra2', 'lpips': 'lpips'}


class Published(NamedTuple):
  """A curve from the literature, on the 24 full Kodak images."""

  curve: Curve  # `at` is empty.
  source: str
  figures: tuple[str, ...]  # The figures that show it: methods and 'all'.


def read_published(folder: str | os.PathLike) -> list[Published]:
  """Returns the published curves in a folder of CompressAI result files.

  They are valid on full images only: the same codec is 1-2 dB lower on crops at equal bpp.
  """
  out = []
  for path in sorted(Path(folder).glob('*.json')):
    entry = json.loads(path.read_text())
    results = entry['results']
    unknown = [math.nan] * len(results['bpp'])
    others = [results.get(name, unknown) for name in COMPRESSAI.values()]
    columns = zip(results['bpp'], results['psnr-rgb'], *others, strict=True)
    curve = Curve(entry['name'], entry['method'], (), *zip(*sorted(columns), strict=True))
    out.append(Published(curve, entry['source'], tuple(entry['figures'])))
  return out


def lpips_at(curve: Curve, bpp: float) -> float | None:
  """Returns a curve's LPIPS at a rate; None outside the curve, and where LPIPS is not known.

  LPIPS is interpolated linearly in log bpp between points.
  """
  if not curve.lpips or not curve.bpp[0] <= bpp <= curve.bpp[-1]:
    return None
  value = float(np.interp(math.log(bpp), np.log(curve.bpp), curve.lpips))
  return value if math.isfinite(value) else None


def lpips_lines(
  curves: Sequence[Curve], published: Sequence[Published]
) -> tuple[list[str], list[list[str]]]:
  """Returns the head and the lines of a table of LPIPS at the rates of published points.

  There is a line for each published point whose LPIPS is known and whose rate one of the curves
  covers, and a column for each curve that has LPIPS.
  """
  shown = [curve for curve in curves if any(map(math.isfinite, curve.lpips))]
  lines = []
  for name, bpp, lpips in _points(published):
    values = [lpips_at(curve, bpp) for curve in shown]
    if math.isfinite(lpips) and any(value is not None for value in values):
      cells = ['–' if value is None else f'{value:.4f}' for value in values]
      lines.append([name, f'{bpp:.3f}', f'{lpips:.4f}', *cells])
  return ['', 'bpp', 'its LPIPS', *(curve.codec for curve in shown)], lines


def _points(published: Sequence[Published]) -> list[tuple[str, float, float]]:
  return [
    (entry.curve.codec, bpp, lpips)
    for entry in published
    if entry.curve.lpips
    for bpp, lpips in zip(entry.curve.bpp, entry.curve.lpips, strict=True)
  ]
