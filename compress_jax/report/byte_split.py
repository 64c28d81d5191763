"""Bytes of files by purpose, such as codebook and indices, as means over images."""

import statistics
from collections.abc import Sequence

from compress_jax.report import curves
from compress_jax.report.curves import Row
from compress_jax.report.palette import PARTS

Splits = dict[str, list[tuple[float, dict[str, float]]]]  # codec -> (point, bytes by part).


def splits(rows: Sequence[Row]) -> Splits:
  """Returns {codec: [(operating point, mean bytes by part)]} of codecs whose files have parts."""
  out: Splits = {}
  for _, codec in curves.codecs(rows):
    divided = [row for row in rows if row['codec'] == codec and len(row['split']) > 1]
    points = sorted({curves.operating_point(row) for row in divided})
    if points:
      out[codec] = [
        (at, mean_split([r for r in divided if curves.operating_point(r) == at])) for at in points
      ]
  return out


def mean_split(rows: Sequence[Row]) -> dict[str, float]:
  """Returns the mean bytes of each part of the files."""
  names = dict.fromkeys(name for row in rows for name in row['split'])
  return {n: statistics.fmean(row['split'].get(n, 0) for row in rows) for n in names}


def part_colours(
  found: Splits,
) -> dict[str, str]:
  """Returns a colour for the name of each part, the same for all codecs."""
  names = dict.fromkeys(n for points in found.values() for _, parts in points for n in parts)
  return {name: PARTS[i % len(PARTS)] for i, name in enumerate(names)}
