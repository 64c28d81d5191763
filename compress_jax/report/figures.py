"""Figures of rate-distortion curves and of the byte split, as PNG and SVG by matplotlib.

One figure per learned method, its curves in colour over grey classical anchors, one of all
codecs, and one of the classical codecs with their variants, which the others leave out. Curves
carry their names; markers and dashes back the colours up.
"""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compress_jax.files.atomic import write_atomically
from compress_jax.methods import METHODS
from compress_jax.report import curves, qualities
from compress_jax.report.byte_split import part_colours, splits
from compress_jax.report.curves import Curve, Row
from compress_jax.report.palette import display, looks
from compress_jax.report.published import Published
from compress_jax.report.qualities import PSNR, Quality

INK, SOFT, FAINT = '#1d1d1f', '#6b6b73', '#e4e4e8'
STYLE: dict[Any, Any] = {
  'font.size': 10,
  'font.family': 'sans-serif',
  'axes.edgecolor': SOFT,
  'axes.labelcolor': INK,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': FAINT,
  'grid.linewidth': 0.8,
  'xtick.color': SOFT,
  'ytick.color': SOFT,
  'xtick.major.size': 0,
  'ytick.major.size': 0,
  'svg.hashsalt': 'compress_jax',  # The same figure is the same file.
  'svg.fonttype': 'path',
}
_MARKERS = {
  'circle': 'o',
  'diamond': 'D',
  'square': 's',
  'triangle-up': '^',
  'triangle-down': 'v',
  'star': '*',
  'cross': 'P',
  'x': 'X',
  'hexagon': 'h',
  'pentagon': 'p',
}
# Titles of the figures that show no single method.
TITLES = {'all': 'All codecs', 'classical': 'Classical codecs'}
_LABEL_GAP = 0.043  # Height of a line of a label, as a share of the axes' height.


class Line(NamedTuple):
  """The points of a curve that are drawn: those at which the quality was measured."""

  bpp: list[float]
  values: list[float]


def write_figures(
  folder: str | os.PathLike, rows: Sequence[Row], published: Sequence[Published] = ()
) -> list[Path]:
  """Writes the figures, rd-<method> to split, as .png and .svg; returns the paths.

  Published curves hold on full images and are left out on crops.
  """
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  found = figures(rows, published)
  return [path for name in found for path in write_figure(folder, name, found[name])]


def write_figure(folder: str | os.PathLike, name: str, figure: Figure) -> list[Path]:
  """Writes a figure to a folder, as name.png and name.svg; returns the paths."""
  paths = [Path(folder) / f'{name}.{suffix}' for suffix in ('png', 'svg')]
  for path in paths:
    write_atomically(path, _bytes(figure, path.suffix[1:]), overwrite=True)
  return paths


def figures(rows: Sequence[Row], published: Sequence[Published] = ()) -> dict[str, Figure]:
  """Returns every figure by name; that of the byte split only if files of a codec have parts.

  By PSNR there is one per learned method, one of all codecs, and one of the classical codecs where
  a variant of them is there; by every other quality that was measured one of all codecs.
  """
  protocol, means = curves.one_protocol(rows), curves.mean_curves(rows)
  literature = list(published) if protocol == 'full' else []
  subtitle = describe(rows)
  methods = [m for m in METHODS if any(c.method == m for c in means)]
  dashed = {n: [p.curve for p in literature if n in p.figures] for n in (*methods, 'all')}
  out = {}
  with mpl.rc_context(STYLE):
    for name in [*methods, 'all'] if means else []:  # Lossless codecs have no curves.
      out[f'rd-{name}'] = rd_figure(name, means, dashed[name], subtitle)
    if any(curves.variant(curve.method) for curve in means):
      out['rd-classical'] = rd_figure('classical', means, [], subtitle)
    for quality in qualities.ALL[1:]:
      if any(curves.points(curve, quality)[0] for curve in means):
        out[f'rd-all-{quality.key}'] = rd_figure('all', means, dashed['all'], subtitle, quality)
    if splits(rows):
      out['split'] = split_figure(rows, subtitle)
  return out


def describe(rows: Sequence[Row]) -> str:
  """Returns a description of the images, such as '24 images, 256x256 centre crops'."""
  count = len(curves.images(rows))
  kind = 'full size' if curves.one_protocol(rows) == 'full' else '256×256 centre crops'
  return f'{count} image{"s" * (count != 1)}, {kind}'


def rd_figure(
  name: str,
  found: Sequence[Curve],
  dashed: Sequence[Curve],
  subtitle: str,
  quality: Quality = PSNR,
) -> Figure:
  """Returns a figure of a quality over bpp, with published curves dashed.

  Args:
    name: a method, which is drawn over the classical codecs; 'all', or 'classical'. Variants of
      classical codecs are in the last one only.
    found: the curves of all codecs; those without the quality are left out.
    dashed: published curves.
    subtitle: a description of the images.
    quality: the measure on the vertical axis.
  """
  figure = Figure(figsize=(7.6, 4.9), layout=None)
  ax = figure.add_axes((0.085, 0.115, 0.685, 0.745))
  lines = {c.codec: Line(*curves.points(c, quality)) for c in (*dashed, *found)}
  found, dashed = ([c for c in some if lines[c.codec].bpp] for some in (found, dashed))
  shown = [c for c in found if _belongs(c.method, name)] or found
  main = [c for c in shown if c.method in METHODS] or shown
  _limits(ax, [lines[c.codec] for c in main], [lines[c.codec] for c in (*shown, *dashed)])
  seen = looks([(c.method, c.codec) for c in found])
  labels = []
  for curve in sorted(shown, key=lambda c: c.method in METHODS):
    bold = curve.method in METHODS
    look = seen[curve.codec]
    colour = look.light if bold or name in TITLES else '#74747c'
    marker = _MARKERS[look.symbol.removesuffix('-open')]
    hollow = look.symbol.endswith('-open')
    ax.plot(
      *lines[curve.codec], color=colour, marker=marker, lw=2.2 if bold else 1.1,
      ms=5.5 if bold else 3.8, mfc='white' if hollow else colour, mec=colour if hollow else 'white',
      mew=0.9, zorder=5 if bold else 3,
    )  # fmt: skip
    labels.append((curve.codec, colour, bold))
  for curve in dashed:
    ax.plot(*lines[curve.codec], color=SOFT, lw=1.1, ls=(0, (4, 2)), zorder=2)
    labels.append((curve.codec, SOFT, False))
  _label_ends(ax, labels, lines)
  title = METHODS[name].title if name in METHODS else TITLES[name]
  headline(figure, f'{title}: {quality.name} against rate', subtitle, bool(dashed))
  ax.set_xlabel('bits per pixel, whole file')
  ax.set_ylabel(quality.axis)
  return figure


def _belongs(method: str, figure: str) -> bool:
  """Returns whether a method or classical codec is in a figure."""
  if figure == 'classical':
    return method not in METHODS
  if method in METHODS:
    return figure in ('all', method)
  return not curves.variant(method)


def split_figure(rows: Sequence[Row], subtitle: str) -> Figure:
  """Returns a figure of the mean bytes of files' parts, one panel per codec."""
  by_codec = splits(rows)
  heights = [len(points) for points in by_codec.values()]
  figure = Figure(figsize=(7.6, 1.5 + 0.34 * sum(heights) + 0.75 * len(by_codec)), layout=None)
  total = figure.get_figheight()
  panels = figure.subplots(len(by_codec), 1, squeeze=False, height_ratios=heights)[:, 0]
  figure.subplots_adjust(
    0.115, 0.62 / total, 0.95, 1 - 1.05 / total, hspace=0.75 * len(by_codec) * 2 / sum(heights)
  )
  colours = part_colours(by_codec)
  widest = max(sum(parts.values()) for points in by_codec.values() for _, parts in points)
  for ax, (codec, points) in zip(panels, by_codec.items(), strict=True):
    _split_panel(ax, codec, points, colours, widest)
    ax.set_xlim(0, widest * 1.09)
  panels[-1].set_xlabel('mean bytes per image')
  headline(figure, 'Where the bytes go', subtitle)
  return figure


def _split_panel(
  ax: Axes,
  codec: str,
  points: Sequence[tuple[float, Mapping[str, float]]],
  colours: Mapping[str, str],
  widest: float,
) -> None:
  for y, (_, parts) in enumerate(points):
    left, whole = 0.0, sum(parts.values())
    for part, size in parts.items():
      ax.barh(y, size, left=left, color=colours[part], height=0.72, ec='white', lw=0.8)
      if size > 0.06 * widest:
        text = f'{size / whole:.0%}'.replace('%', ' %')
        ax.text(left + size / 2, y, text, ha='center', va='center', color='white', size=8)
      left += size
    ax.text(left + 0.008 * widest, y, f'{whole:,.0f}', va='center', color=INK, size=8.5)
  names = dict.fromkeys(name for _, parts in points for name in parts)
  handles = [mpl.patches.Patch(color=colours[name], label=name) for name in names]
  ax.legend(
    handles=handles, loc='lower right', bbox_to_anchor=(1, 1), ncols=len(handles), frameon=False,
    fontsize=8.5, handlelength=0.9, handletextpad=0.5, borderpad=0, labelcolor=INK,
  )  # fmt: skip
  ax.set_title(display(codec), loc='left', size=10, weight='bold', color=INK)
  ax.set_yticks(range(len(points)), [f'λ {at:g}' for at, _ in points])
  ax.xaxis.set_major_formatter('{x:,.0f}')
  ax.invert_yaxis()
  ax.grid(axis='y', visible=False)
  ax.spines['left'].set_visible(False)


def _limits(ax: Axes, main: Sequence[Line], everything: Sequence[Line]) -> None:
  """Sets the limits of the axes to the rates of `main` and to the heights of all curves' ends."""
  right = min(1.04 * max(b for c in main for b in c.bpp), 2.0)
  # At least one curve shows a point.
  right = max(right, 1.04 * min(line.bpp[0] for line in main))
  ends = [end[1] for c in everything if (end := _last_visible(c, right))]
  low = min(v for c in main for v in c.values) - 0.6
  ax.set_xlim(0, right)
  ax.set_ylim(low, max(ends) + 0.04 * (max(ends) - low))


def _label_ends(
  ax: Axes, labels: Sequence[tuple[str, str, bool]], lines: Mapping[str, Line]
) -> None:
  """Writes the names of curves at the right edge, near their ends and without overlap."""
  (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
  placed = []
  for codec, colour, bold in labels:
    end = _last_visible(lines[codec], right)
    if end and end[1] >= low:
      x, y = (end[0] - left) / (right - left), (end[1] - low) / (high - low)
      placed.append((y, x, display(codec), colour, bold))
  # If two curves end at one height, the name of the one that ends further left goes above.
  placed.sort(key=lambda p: (round(p[0], 2), -p[1]))
  for y, (y_end, x_end, text, colour, bold) in zip(
    spread([p[0] for p in placed], _LABEL_GAP), placed, strict=True
  ):
    ax.annotate(
      text, (x_end, y_end), (1.035, y), xycoords='axes fraction', textcoords='axes fraction',
      color=colour, weight='bold' if bold else 'normal', size=9.5 if bold else 9, va='center',
      annotation_clip=False, arrowprops={
        'arrowstyle': '-', 'color': colour, 'lw': 0.6, 'alpha': 0.55, 'shrinkA': 1, 'shrinkB': 3,
        'relpos': (0, 0.5),
      },
    )  # fmt: skip


def _last_visible(curve: Line, right: float) -> tuple[float, float] | None:
  """Returns the point where a curve ends or crosses the right edge; None if it starts beyond."""
  if curve.bpp[0] > right:
    return None
  x = min(right, curve.bpp[-1])
  return x, float(np.interp(x, curve.bpp, curve.values))


def spread(values: Sequence[float], gap: float) -> list[float]:
  """Returns sorted values, shifted apart until neighbours differ by at least `gap`.

  Each pass shifts both neighbours of a short gap by the same amount; 200 passes are the limit.
  """
  out = list(values)
  for _ in range(200):
    moved = False
    for i in range(len(out) - 1):
      short = gap - (out[i + 1] - out[i])
      if short > 1e-9:
        out[i], out[i + 1], moved = out[i] - short / 2, out[i + 1] + short / 2, True
    if not moved:
      break
  return out


def headline(figure: Figure, title: str, subtitle: str, dashed: bool = False) -> None:
  """Writes the title of a figure, and below it a description of the images."""
  note = '; dashed: published, full Kodak images' if dashed else ''
  height = figure.get_figheight()
  figure.text(0.02, 1 - 0.16 / height, title, size=13, weight='bold', color=INK, va='top')
  figure.text(0.02, 1 - 0.42 / height, subtitle + note, size=9.5, color=SOFT, va='top')


def _bytes(figure: Figure, suffix: str) -> bytes:
  out = io.BytesIO()
  metadata = {'Date': None} if suffix == 'svg' else {'Software': None}
  with mpl.rc_context(STYLE):
    figure.savefig(out, format=suffix, dpi=160, metadata=metadata)
  return out.getvalue()
