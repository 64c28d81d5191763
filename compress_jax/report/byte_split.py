"""Where a file's bytes go: codebook, indices and so on, as means over images."""

import statistics
from collections.abc import Sequence

from compress_jax.report import curves
from compress_jax.report.curves import Row
from compress_jax.report.palette import PARTS

Splits = dict[str, list[tuple[float, dict[str, float]]]]  # codec -> (point, bytes by part).


def splits(rows: Sequence[Row]) -> Splits:
  """codec -> (operating point, mean bytes by part), for codecs whose files have parts."""
  out: Splits = {}
  for _, codec in curves.codecs(rows):
    own = [row for row in rows if row['codec'] == codec and len(row['split']) > 1]
    points = sorted({curves.operating_point(row) for row in own})
    if points:
      out[codec] = [
        (at, mean_split([r for r in own if curves.operating_point(r) == at])) for at in points
      ]
  return out


def mean_split(rows: Sequence[Row]) -> dict[str, float]:
  """Mean bytes of each part of the files."""
  names = dict.fromkeys(name for row in rows for name in row['split'])
  return {n: statistics.fmean(row['split'].get(n, 0) for row in rows) for n in names}


def part_colours(
  found: Splits,
) -> dict[str, str]:
  """A colour for each part's name, the same for all codecs."""
  names = dict.fromkeys(n for points in found.values() for _, parts in points for n in parts)
  return {name: PARTS[i % len(PARTS)] for i, name in enumerate(names)}
