"""Tables of what `experiments.sweep` measured: means over seeds, and BD-rates against an anchor.

BD-rates cover all PSNRs that both curves reach.
"""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from compress_jax.evaluation.journal import Row
from compress_jax.evaluation.metrics import bd_rate
from compress_jax.report import curves
from compress_jax.report import tables as reports
from compress_jax.report.curves import Cell, Curve
from compress_jax.report.qualities import PSNR

PLACES = 5  # Number of PSNRs at which `along` compares the curves.
_SEED = re.compile(r'-seed\d+$')
_NEAR = 0.05  # dB on each side of a PSNR over which `along` takes the mean.


class Compared(NamedTuple):
  """A curve beside the anchor."""

  cell: Cell  # BD-rate of the means over seeds.
  # BD-rates of the single seeds in %, None without overlap: each against the anchor of the same
  # seed, and the anchor's against its own mean. Empty where the study has one seed.
  seeds: list[float | None]


def arm(label: str) -> str:
  """Returns the name of a curve without its seed."""
  return _SEED.sub('', label)


def over_seeds(rows: Sequence[Row]) -> list[Row]:
  """Returns rows in which the seeds of each curve are replaced by their mean."""
  groups: dict[tuple[str, float, str], list[Row]] = {}
  for row in rows:
    groups.setdefault((arm(row['codec']), row['lambda'], row['image']), []).append(row)

  def mean(group: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in group]
    return None if None in values else statistics.fmean(values)

  qualities = 'bpp', 'psnr', 'ms_ssim'
  return [
    {**group[0], 'codec': codec, **{name: mean(group, name) for name in qualities}}
    for (codec, _, _), group in groups.items()
  ]


def compared(rows: Sequence[Row], anchor: str) -> dict[str, Compared]:
  """Returns every curve beside the anchor, by name.

  Args:
    rows: of all models.
    anchor: the curve that the BD-rates are against, without a seed.
  """
  means = over_seeds(rows)
  average = {curve.codec: curve for curve in curves.mean_curves(means)}
  if anchor not in average:
    return {}
  cells = [cell for (cell,) in curves.bd_matrix(means, [average[anchor]], everywhere=True)]
  single = _single_seeds(rows, means, anchor) if len(means) < len(rows) else {}
  return {cell.codec: Compared(cell, single.get(cell.codec, [])) for cell in cells}


def _single_seeds(
  rows: Sequence[Row], means: Sequence[Row], anchor: str
) -> dict[str, list[float | None]]:
  """Returns the BD-rates of the curves of single seeds, by the name of their mean."""
  found = {curve.codec: curve for curve in curves.mean_curves(rows)}
  average = {curve.codec: curve for curve in curves.mean_curves(means)}
  out: dict[str, list[float | None]] = {}
  for codec in found:
    name = arm(codec)
    against = average[anchor] if name == anchor else found.get(anchor + codec[len(name) :])
    if against is None:
      continue
    bd = curves.bd_rate_of_means(against, found[codec])
    out.setdefault(name, []).append(bd.percent if bd else None)
  return out


def table(rows: Sequence[Row], anchor: str) -> str:
  """Returns Markdown: means of every operating point with BD-rates, and the table of `along`.

  Curves of several seeds are means over them. Then a column shows the BD-rates of the single
  seeds, as `Compared` has them.

  Args:
    rows: of all models.
    anchor: the curve that the BD-rates are against.
  """
  means = over_seeds(rows)
  several = len(means) < len(rows)
  lines = [
    '| curve | lambda | bpp | PSNR | MS-SSIM | BD-rate |' + ' single seeds |' * several,
    '| --- |' + ' --: |' * (5 + several),
  ]
  beside = compared(rows, anchor)
  found = curves.mean_curves(means)
  for curve in found:
    points = sorted(zip(curve.at, curve.bpp, curve.psnr, curve.ms_ssim, strict=True))
    for i, (at, bpp, psnr, ms_ssim) in enumerate(points):
      one = beside.get(curve.codec) if i == 0 else None
      bd = reports.bd_text(one.cell) if one else ''
      last = f' {", ".join(map(_percent, one.seeds if one else []))} |' * several
      numbers = f'{at:g} | {bpp:.4f} | {psnr:.2f} | {ms_ssim:.4f}'
      lines.append(f'| {curve.codec} | {numbers} | {bd} |{last}')
  count = len(curves.images(rows))
  mean_size = statistics.fmean(row['width'] * row['height'] for row in rows) / 1e6
  lines += ['', f'Means over {count} images of {mean_size:.2f} MP; BD-rates against {anchor}.']
  lines += curves.incomplete(rows)
  return '\n'.join([*lines, *_along_lines({c.codec: c for c in found}, anchor)]) + '\n'


def _percent(value: float | None) -> str:
  return 'no overlap' if value is None else reports.percent(value)


def along(found: Mapping[str, Curve], anchor: str) -> dict[str, dict[float, float]]:
  """Returns how many per cent more bits than the anchor each curve needs, by PSNR in dB.

  The PSNRs are at equal distances in the range that all curves reach. Each number is a BD-rate over
  0.1 dB around one. There are none where the curves have no common range of 1 dB.
  """
  spans = [(min(curve.psnr), max(curve.psnr)) for curve in found.values()]
  low = math.ceil(10 * max(low for low, _ in spans)) / 10
  high = math.floor(10 * min(high for _, high in spans)) / 10
  if anchor not in found or high - low < 1:
    return {}
  out: dict[str, dict[float, float]] = {}
  for name, curve in found.items():
    if name == anchor:
      continue
    for place in np.linspace(low, high, PLACES).round(1).tolist():
      ends = curves.points(found[anchor], PSNR), curves.points(curve, PSNR)
      near = (place - _NEAR, place + _NEAR)
      bd = bd_rate(*ends[0], *ends[1], interval=near, overlap=_NEAR / 2)
      if bd:
        out.setdefault(name, {})[place] = bd.percent
  return out


def _along_lines(found: Mapping[str, Curve], anchor: str) -> list[str]:
  rates = along(found, anchor)
  if not rates:
    return []
  places = list(next(iter(rates.values())))
  head = ' | '.join(f'{place:g} dB' for place in places)
  lines = ['', f'| bits against {anchor} at | {head} |', '| --- |' + ' --: |' * len(places)]
  for name, by_place in rates.items():
    numbers = ' | '.join(reports.percent(rate) for rate in by_place.values())
    lines.append(f'| {name} | {numbers} |')
  return lines
