"""Rate-distortion curves made of rows, with their BD-rates and win counts.

A curve is the mean of bpp and the mean of each quality over images at equal lambda or
quality setting. Rows are plain mappings, one per coded file; `tables.FIELDS` lists their keys.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from compress_jax import baselines
from compress_jax.codec import CodecError
from compress_jax.evaluation.metrics import BDRate, bd_rate
from compress_jax.methods import METHODS
from compress_jax.report.qualities import ALL, PSNR, Quality

Row = Mapping[str, Any]
CLASSICAL = tuple(baselines.CODECS)

# The range of PSNR, in dB, of BD-rates among classical codecs; methods have their own.
_CLASSICAL_INTERVAL = {'crop': (22.5, 28.5), 'full': (27.0, 35.0)}
_EVERYTHING = -math.inf, math.inf


class Curve(NamedTuple):
  """A codec's operating points by rising bpp; one tuple entry each."""

  codec: str
  method: str
  at: tuple[float, ...]  # Lambda or quality.
  bpp: tuple[float, ...]
  psnr: tuple[float, ...]  # dB, finite.
  ms_ssim: tuple[float, ...]  # 0..1; nan where not measured.
  ssimulacra2: tuple[float, ...] = ()  # At most 100; as those before, or () where never measured.
  lpips: tuple[float, ...] = ()  # 0 or more; the same.


class Cell(NamedTuple):
  """A comparison of two codecs: the bits that `codec` needs beyond `anchor` at equal quality."""

  anchor: str
  codec: str
  mean: BDRate | None  # BD-rate of the mean curves; None where they do not overlap enough.
  median: float | None  # The median of the BD-rates of single images, in percent.
  better: int  # Images on which `codec` needs fewer bits,
  images: int  # of those with enough overlap.


class Wins(NamedTuple):
  """Counts of the images on which each codec is the best, for each target."""

  targets: tuple[float, ...]
  counts: Mapping[str, tuple[int, ...]]  # codec -> one count per target.
  images: tuple[int, ...]  # Images where at least two codecs reach the target.


def operating_point(row: Row) -> float:
  """Returns the lambda or the quality of a row."""
  return float(row['lambda'] if 'lambda' in row else row['quality'])


def lossless(row: Row) -> bool:
  """Returns whether the decoded pixels equal the original's."""
  return row['psnr'] is None or bool(np.isinf(row['psnr']))


def variant(method: str) -> bool:
  """Returns whether a method is another setting of a classical codec in the same table."""
  return method in baselines.CODECS and baselines.CODECS[method].variant


def one_protocol(rows: Iterable[Row]) -> str:
  """Returns the protocol of all rows.

  Raises:
    CodecError: there are no rows, or crops and full images are mixed.
  """
  protocols = sorted({row['protocol'] for row in rows})
  if len(protocols) != 1:
    raise CodecError(f'a report shows the rows of one protocol, found {protocols or "no rows"}')
  return protocols[0]


def images(rows: Iterable[Row]) -> list[str]:
  """Returns the names of all images, sorted."""
  return sorted({row['image'] for row in rows})


def codecs(rows: Iterable[Row]) -> list[tuple[str, str]]:
  """Returns the pairs (method, codec) of all codecs, learned ones first."""
  pairs = {(row['method'], row['codec']) for row in rows}
  order = {name: i for i, name in enumerate((*METHODS, *CLASSICAL))}
  return sorted(pairs, key=lambda pair: (order.get(pair[0], len(order)), pair))


def mean_curves(rows: Sequence[Row]) -> list[Curve]:
  """Returns one curve per lossy codec, over the operating points that every image has."""
  total = len(images(rows))
  return _curves(rows, lambda group: len({row['image'] for row in group}) == total)


def image_curves(rows: Sequence[Row]) -> dict[str, list[Curve]]:
  """Returns the curves of each image, by the image's name."""
  return {name: _curves([r for r in rows if r['image'] == name]) for name in images(rows)}


def incomplete(rows: Sequence[Row]) -> list[str]:
  """Returns one line per operating point that some image lacks; means leave such points out."""
  total, out = len(images(rows)), []
  for (_, codec), points in _by_point(rows).items():
    short = [at for at, group in sorted(points.items()) if len(group) < total]
    out += [f'{codec} at {at:g}: {len(points[at])} of {total} images' for at in short]
  return out


def interval(protocol: str, *methods: str) -> tuple[float, float] | None:
  """Returns the PSNR interval, in dB, common to all of `methods`; None if they have none."""
  learned = {name: getattr(entry, protocol) for name, entry in METHODS.items()}
  spans = [learned[m] for m in methods if m in learned] or [_CLASSICAL_INTERVAL[protocol]]
  low, high = max(lo for lo, _ in spans), min(hi for _, hi in spans)
  return (low, high) if low < high else None


def bd_matrix(
  rows: Sequence[Row],
  anchors: Sequence[Curve] | None = None,
  quality: Quality = PSNR,
  *,
  everywhere: bool = False,
) -> list[list[Cell]]:
  """Returns the BD-rates of each codec, one list per codec, against each anchor.

  The anchors are all codecs unless others are given. BD-rates by PSNR cover the interval of both
  methods; those by another quality, and all of them with `everywhere`, cover all values that both
  curves reach.
  """
  protocol, curves, per_image = one_protocol(rows), mean_curves(rows), image_curves(rows)
  return [
    [
      _cell(protocol, anchor, curve, per_image, quality, everywhere)
      for anchor in (anchors or curves)
    ]
    for curve in curves
  ]


def bd_rate_of_means(anchor: Curve, curve: Curve) -> BDRate | None:
  """Returns the BD-rate of a curve against another, over all PSNRs that both reach."""
  return _bd(anchor, curve, _EVERYTHING, PSNR)


def points(curve: Curve, quality: Quality) -> tuple[list[float], list[float]]:
  """Rates in bpp and a quality on its scale, of those points of a curve that have it."""
  values = getattr(curve, quality.key) or [math.nan] * len(curve.bpp)
  scaled = [v if math.isnan(v) else quality.scale(v) for v in values]
  kept = [(b, v) for b, v in zip(curve.bpp, scaled, strict=True) if math.isfinite(v)]
  return [b for b, _ in kept], [v for _, v in kept]


def rate_at(curve: Curve, psnr: float) -> float | None:
  """Returns the least bpp for at least `psnr` dB; None if the curve does not reach it.

  Log-rates are interpolated linearly between points.
  """
  quality = np.maximum.accumulate(curve.psnr)
  if psnr > quality[-1]:
    return None
  return float(np.exp(np.interp(psnr, quality, np.log(curve.bpp))))


def psnr_at(curve: Curve, bpp: float) -> float | None:
  """Returns the highest PSNR for at most `bpp`; None below the curve's first point.

  PSNR is interpolated linearly in log bpp between points.
  """
  if bpp < curve.bpp[0]:
    return None
  return float(np.interp(np.log(bpp), np.log(curve.bpp), curve.psnr))


def wins_at_psnr(per_image: Mapping[str, Sequence[Curve]], targets: Sequence[float]) -> Wins:
  """Counts the images on which each codec reaches a PSNR with the fewest bytes."""

  def score(curve: Curve, target: float) -> float | None:
    bpp = rate_at(curve, target)
    return None if bpp is None else -bpp

  return _wins(per_image, targets, score)


def wins_at_bpp(per_image: Mapping[str, Sequence[Curve]], targets: Sequence[float]) -> Wins:
  """Counts the images on which each codec has the highest PSNR within a rate."""
  return _wins(per_image, targets, psnr_at)


def _by_point(rows: Iterable[Row]) -> dict[tuple[str, str], dict[float, list[Row]]]:
  out: dict[tuple[str, str], dict[float, list[Row]]] = {pair: {} for pair in codecs(rows)}
  for row in rows:
    points = out[row['method'], row['codec']]
    points.setdefault(operating_point(row), []).append(row)
  return out


def _curves(
  rows: Sequence[Row], complete: Callable[[list[Row]], bool] = lambda group: True
) -> list[Curve]:
  out = []
  for (method, codec), points in _by_point(rows).items():
    kept = [
      (_mean(group, 'bpp'), at, *(_mean(group, quality.key) for quality in ALL))
      for at, group in points.items()
      if complete(group) and not any(map(lossless, group))
    ]
    if kept:
      bpp, at, psnr, ms_ssim, *others = zip(*sorted(kept), strict=True)
      later = [() if np.isnan(values).all() else values for values in others]
      out.append(Curve(codec, method, at, bpp, psnr, ms_ssim, *later))
  return out


def _mean(group: Sequence[Row], key: str) -> float:
  values = [row[key] for row in group if row.get(key) is not None]
  return statistics.fmean(values) if len(values) == len(group) else float('nan')


def _bd(
  anchor: Curve, curve: Curve, span: tuple[float, float] | None, quality: Quality
) -> BDRate | None:
  if span is None:
    return None
  one, other = points(anchor, quality), points(curve, quality)
  return bd_rate(*one, *other, interval=span, overlap=quality.overlap)


def _cell(
  protocol: str,
  anchor: Curve,
  curve: Curve,
  per_image: Mapping[str, Sequence[Curve]],
  quality: Quality,
  everywhere: bool,
) -> Cell:
  fixed = quality is PSNR and not everywhere
  span = interval(protocol, anchor.method, curve.method) if fixed else _EVERYTHING
  rates = []
  for image in per_image.values():
    by_codec = {c.codec: c for c in image}
    if anchor.codec in by_codec and curve.codec in by_codec and anchor.codec != curve.codec:
      rates.append(_bd(by_codec[anchor.codec], by_codec[curve.codec], span, quality))
  percents = [bd.percent for bd in rates if bd]
  return Cell(
    anchor.codec,
    curve.codec,
    None if anchor.codec == curve.codec else _bd(anchor, curve, span, quality),
    statistics.median(percents) if percents else None,
    sum(p < 0 for p in percents),
    len(percents),
  )


def _wins(
  per_image: Mapping[str, Sequence[Curve]],
  targets: Sequence[float],
  score: Callable[[Curve, float], float | None],
) -> Wins:
  names = list(dict.fromkeys(c.codec for image in per_image.values() for c in image))
  counts = {name: [0] * len(targets) for name in names}
  contested = [0] * len(targets)
  for i, target in enumerate(targets):
    for image in per_image.values():
      scores = {c.codec: s for c in image if (s := score(c, target)) is not None}
      if len(scores) >= 2:
        contested[i] += 1
        counts[max(scores, key=scores.__getitem__)][i] += 1
  return Wins(tuple(targets), {k: tuple(v) for k, v in counts.items()}, tuple(contested))
