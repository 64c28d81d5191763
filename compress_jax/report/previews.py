"""Pictures inside the page: for each image and target rate, the nearest file of each codec.

Previews are lossy WebP. Pictures with the same pixels are stored once.
"""

import base64
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image as PILImage

from compress_jax.codec import Image
from compress_jax.images import sets
from compress_jax.report import curves
from compress_jax.report.curves import Row

CUT_TO = 768  # Pixels: of larger pictures only the middle is in the page.
LEVELS = (0.4, 0.2, 0.8)  # Target bpp, in order of priority.
QUALITY = 90


class Previews(NamedTuple):
  """The pictures of the viewer, and the choices that lead to them."""

  pictures: dict[str, str]  # Key -> data URI.
  originals: dict[str, str]  # Image -> key.
  choices: dict[str, dict[str, dict[str, tuple[str, Row]]]]  # Image, target, codec -> key, row.
  left_out: list[str]  # Descriptions of the pictures that exceed the budget.
  cut: bool  # Whether any picture is the middle of a larger one.


def previews(
  rows: Sequence[Row],
  *,
  originals: Mapping[str, Callable[[], Image]],
  decode: Callable[[Row], Image],
  budget: int,
  levels: Sequence[float] = LEVELS,
) -> Previews:
  """Returns as many pictures as the budget allows, in whole groups.

  A group is the files of all codecs for one image near one target rate. Variants of a
  classical codec (`baselines.Anchor`), such as JPEG with 4:4:4, are in the plot alone, unless
  there are no other codecs.

  Args:
    rows: the rows of one protocol; lossless codecs are not shown.
    originals: functions by image name that load the image, cropped as the protocol says; images
      without one are not shown.
    decode: returns the pixels of a row's file.
    budget: the limit of the bytes of all data URIs.
    levels: target bits per pixel; every image gets the first one before any gets the second.
  """
  out = Previews({}, {}, {}, [], any(max(row['width'], row['height']) > CUT_TO for row in rows))
  rows = [row for row in rows if not curves.variant(row['method'])] or rows
  shown = [name for name in curves.images(rows) if name in originals]
  groups = [(level, name) for level in levels for name in shown]
  for i, (level, name) in enumerate(groups):
    nearest = nearest_rows([row for row in rows if row['image'] == name], level)
    if not nearest:
      continue
    pixels = {_key(row): (lambda row=row: decode(row)) for row in nearest.values()}
    original = f'original {name}'
    wanted = {original: originals[name], **pixels}
    new = {
      key: data_uri(sets.centre_crop(load(), CUT_TO))
      for key, load in wanted.items()
      if key not in out.pictures
    }
    if sum(map(len, (*out.pictures.values(), *new.values()))) > budget:
      out.left_out.extend(_missing(groups[i:], len(shown)))
      break
    out.pictures.update(new)
    out.originals[name] = original
    chosen = {codec: (_key(row), row) for codec, row in nearest.items()}
    out.choices.setdefault(name, {})[f'{level:g}'] = chosen
  return out


def nearest_rows(rows: Iterable[Row], bpp: float) -> dict[str, Row]:
  """Returns {codec: row} with the rate nearest to `bpp`, by ratio; the rows are of one image."""
  out: dict[str, Row] = {}
  for row in rows:
    best = out.get(row['codec'])
    if not curves.lossless(row) and (best is None or _apart(row, bpp) < _apart(best, bpp)):
      out[row['codec']] = row
  return out


def data_uri(image: Image, quality: int = QUALITY) -> str:
  """Returns a picture u8[H, W, 3] as a data URI of lossy WebP."""
  out = io.BytesIO()
  PILImage.fromarray(np.ascontiguousarray(image)).save(out, 'WEBP', quality=quality, method=6)
  return 'data:image/webp;base64,' + base64.b64encode(out.getvalue()).decode()


def _apart(row: Row, bpp: float) -> float:
  return abs(math.log(row['bpp'] / bpp))


def _key(row: Row) -> str:
  return f'{row["image"]} {row["sha256_pixels"]}'


def _missing(groups: Sequence[tuple[float, str]], total: int) -> list[str]:
  counts: dict[float, int] = {}
  for level, _ in groups:
    counts[level] = counts.get(level, 0) + 1
  return [f'{count} of {total} images at {level:g} bpp' for level, count in counts.items()]
