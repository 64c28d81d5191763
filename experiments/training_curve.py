"""Shows how a model's BD-rate falls while it trains, and what an hour of training buys.

  python -m experiments.kodak --images=VALIDATION --metrics=ssimulacra2 --output=runs/curve \\
    --methods=avif,0=gmm:start.safetensors,56=gmm:later.safetensors,66=gmm:end.safetensors
  python -m experiments.training_curve --rows=runs/curve --output=curve

The first command measures models of one training by real files; the label of each is the number of
minutes after which it was taken. The second reads these rows and writes those that it needs to
curve.json, a table to curve.md and a figure. The last column of the table is the slope: the change
of the BD-rate since the row before, in percentage points per hour.

A slope holds for the schedule at hand. Where the learning rate falls to zero, most of the gain
comes at the end, so the last slope is no forecast for a longer training.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from absl import flags
from matplotlib.figure import Figure

from compress_jax.cli.command import guarded, parse
from compress_jax.cli.flag_types import define_path
from compress_jax.codec import CodecError
from compress_jax.files.atomic import write_atomically
from compress_jax.report import curves, figures
from compress_jax.report.curves import Cell, Row
from compress_jax.report.palette import display
from compress_jax.report.tables import percent, read_results, results_json, span


class Point(NamedTuple):
  """A model of the training."""

  minutes: float  # Since the training began.
  cell: Cell  # Its BD-rate against the anchor.
  slope: float | None  # Change of the BD-rate since the model before, in % per hour.


def models(rows: Sequence[Row]) -> dict[str, float]:
  """Returns the minutes of each model, by its label, in ascending order.

  Raises:
    CodecError: two models have the same minutes.
  """
  found: dict[str, float] = {}
  for label in dict.fromkeys(row['codec'] for row in rows):
    try:
      minutes = float(label)
    except ValueError:
      continue
    if minutes in found.values():
      raise CodecError(f'two models have the same minutes, {label}')
    found[label] = minutes
  return dict(sorted(found.items(), key=lambda item: item[1]))


def points(rows: Sequence[Row], anchor: str) -> list[Point]:
  """Returns the models in the order of their training.

  Args:
    rows: of all models, whose labels are minutes, and of the anchor.
    anchor: the codec that BD-rates are against.

  Raises:
    CodecError: no model or no anchor is there, or a model has no BD-rate against it.
  """
  against = [curve for curve in curves.mean_curves(rows) if curve.codec == anchor]
  minutes = models(rows)
  if not against or not minutes:
    kind = f'{anchor}, the anchor' if not against else 'a model whose label is a number of minutes'
    raise CodecError(f'the rows have no curve of {kind}')
  cells = {cell.codec: cell for (cell,) in curves.bd_matrix(rows, against)}
  out: list[Point] = []
  for label, at in minutes.items():
    cell = cells.get(label)
    if cell is None or cell.mean is None:
      raise CodecError(f'{label} has no BD-rate against {anchor}: the curves do not overlap')
    slope = None
    if out and out[-1].cell.mean:
      slope = 60 * (cell.mean.percent - out[-1].cell.mean.percent) / (at - out[-1].minutes)
    out.append(Point(at, cell, slope))
  return out


def head(anchor: str) -> str:
  """Returns the first line of the table."""
  return f'| minutes | BD-rate against {anchor} | images won | change per hour |'


def table(rows: Sequence[Row], anchor: str) -> str:
  """Returns the BD-rate of each model and the slope as a Markdown table."""
  lines = [head(anchor), '| --: | --: | --: | --: |']
  for point in points(rows, anchor):
    cell, slope = point.cell, '' if point.slope is None else percent(point.slope)
    assert cell.mean
    bd = f'{percent(cell.mean.percent)} ({span(cell.mean)})'
    lines.append(f'| {point.minutes:g} | {bd} | {cell.better} of {cell.images} | {slope} |')
  return '\n'.join(lines) + '\n'


def figure(rows: Sequence[Row], anchor: str) -> Figure:
  """Returns a figure of the BD-rate over the minutes of training."""
  found = [(point.minutes, point.cell.mean) for point in points(rows, anchor)]
  at, rates = zip(*((minutes, bd.percent) for minutes, bd in found if bd), strict=True)
  with mpl.rc_context(figures.STYLE):
    drawn = Figure(figsize=(7.2, 4.2), layout=None)
    ax = drawn.add_axes((0.11, 0.13, 0.85, 0.67))
  ax.plot(at, rates, color='#2563eb', lw=2, marker='o', ms=6)
  for i in sorted({0, len(at) - 1}):
    side, up = ('left', 9) if i == 0 else ('right', -16)
    ax.annotate(
      percent(rates[i]), (at[i], rates[i]), (0, up), textcoords='offset points',
      color=figures.INK, size=9, ha=side,
    )  # fmt: skip
  ax.margins(0.05, 0.18)
  ax.set_xlabel('minutes of training')
  ax.set_ylabel(f'BD-rate against {display(anchor)}, %')
  model = next(row for row in rows if row['codec'] in models(rows))
  title = f'{model["method"]}: what training buys'
  figures.headline(drawn, title, f'{figures.describe(rows)}, real files; lower is better')
  return drawn


def run(values: flags.FlagValues) -> int:
  """Reads rows, prints and keeps what they say; returns the exit status.

  Raises:
    CodecError: the rows cannot be read, or do not hold the models and the anchor.
    flags.Error: a flag is missing.
  """
  if not values.rows:
    raise flags.Error('--rows is missing: the folder that experiments.kodak wrote')
  meta, rows = read_results(values.rows)
  labels = models(rows)
  kept = [row for row in rows if row['codec'] == values.anchor or row['codec'] in labels]
  text = table(kept, values.anchor)
  print(text, end='')
  if values.output:
    output = Path(values.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    for suffix, content in {'.json': results_json(meta, kept), '.md': text}.items():
      write_atomically(output.with_suffix(suffix), content.encode(), overwrite=True)
    figures.write_figure(output.parent, output.name, figure(kept, values.anchor))
  return 0


def define_flags() -> flags.FlagValues:
  """Returns the flags of this program."""
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  define_path('rows', None, 'A folder of experiments.kodak; labels of models are minutes.', **here)
  flags.DEFINE_string('anchor', 'avif', 'The codec that BD-rates are against.', **here)
  define_path('output', None, 'A path without suffix, for rows, table and figure.', **here)
  flags.DEFINE_bool('help', False, 'Show this help.', short_name='h', **here)
  return values


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit status."""
  return guarded('training_curve', lambda: run(parse(define_flags(), __doc__, argv)))


if __name__ == '__main__':
  sys.exit(main())
