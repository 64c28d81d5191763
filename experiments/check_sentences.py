"""Checks that sentences which compare two codecs say what the committed rows say.

A sentence such as "gmm needs 11 % fewer bits than AVIF" is read as a BD-rate of -11 % against AVIF.
It has to be that of a codec which its paragraph names, or of the method whose page it stands on,
on whole images or on crops, by PSNR or by another quality that the paragraph names.
`python -m experiments.check_numbers` runs this beside the checks of tables.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from compress_jax.methods import METHODS
from compress_jax.report import curves, qualities
from compress_jax.report.published import read_published

Rows = Sequence[dict[str, Any]]
Rates = Mapping[tuple[str, str, str], Sequence[float]]  # By codec, anchor and metric, in per cent.
# Words for classical codecs in documents, and the names of their rows.
CLASSICAL = {'AVIF': 'avif', 'WebP': 'webp', 'JPEG 2000': 'jpeg2000', 'JPEG XL': 'jxl'}
# Words of a sentence, and the codec or the published curve that they name.
NAMES = {
  **CLASSICAL,
  **{'optimised JPEG': 'jpeg', 'avif-slow': 'avif-slow', 'slow AVIF': 'avif-slow'},
  'avif-444': 'avif-444',
  **{'Theis': 'Theis 2017 (CAE)', 'Ballé 2018': 'Ballé 2018', 'Minnen 2018': 'Minnen 2018'},
  **{'Cheng': 'Cheng 2020 (GMM)', 'VTM': 'VTM (VVC intra)', 'CompressAI': 'cheng2020-attn'},
  **{name: name for name in METHODS},
  'gmm-refined': 'gmm-refined',
  **{'kmeans': 'kmeans-universal', 'K-means': 'kmeans-universal'},
}
# CompressAI's own measurements of its models, which are not among the committed rows.
NO_ROWS = ('5.8 % more bits than VTM with all four',)
_SIGNS = {'fewer': -1, 'less': -1, 'ahead of': -1, 'more': 1, 'against': 0}
_PHRASE = re.compile(
  r'(?P<number>[-+]?\d+(?:\.\d+)?)\s?% (?P<word>fewer|less|ahead of|more|against)'
  r'(?=(?P<rest>[^%;:]{0,90}))'
)


class Claim(NamedTuple):
  """A comparison of two codecs in a sentence."""

  text: str
  percent: str  # With its sign.
  anchor: str
  subjects: tuple[str, ...]  # The codecs that the sentence may speak of.
  metrics: tuple[str, ...]  # PSNR, and the keys of other qualities that the paragraph names.


def claims(document: Path, text: str) -> Iterator[Claim]:
  """Yields the comparisons in the prose of a document in Markdown."""
  for paragraph in re.split(r'\n\s*\n|\n(?=[-|#] ?)', text):
    if paragraph.startswith('|') or '```' in paragraph:
      continue
    plain = ' '.join(paragraph.replace('*', '').replace('`', '').replace('−', '-').split())
    subjects = tuple(code for name, code in NAMES.items() if _place(name, plain) >= 0)
    subjects += (NAMES[document.stem],) if document.stem in METHODS else ()
    for phrase in _PHRASE.finditer(plain):
      anchor = _first(phrase['rest'])
      sentence = phrase.group() + phrase['rest']
      metrics = tuple(
        each.key
        for each in qualities.ALL
        if each is qualities.PSNR or _place(each.name, plain) >= 0
      )
      if anchor and not sentence.startswith(NO_ROWS):
        sign = '-' if _SIGNS[phrase['word']] < 0 else '+'
        number = phrase['number']
        percent = number if number[0] in '+-' else sign + number
        others = tuple(name for name in dict.fromkeys(subjects) if name != anchor)
        yield Claim(sentence, percent, anchor, others, metrics)


def wrong(claim: Claim, known: Rates) -> bool:
  """Returns whether no codec that the claim may speak of has this BD-rate in `known`."""
  digits = len(claim.percent.partition('.')[2])
  values = [
    f'{value:+.{digits}f}'
    for subject in claim.subjects
    for metric in claim.metrics
    for value in known.get((subject, claim.anchor, metric), ())
  ]
  return claim.percent not in values


def known_rates(full: Rows, crop: Rows, published: Path, *others: Rows) -> Rates:
  """Returns BD-rates in per cent by codec, anchor and metric.

  The rates are for whole Kodak images and for their crops; for other images they are by PSNR only.
  """
  literature = [entry.curve for entry in read_published(published)]
  known: dict[tuple[str, str, str], list[float]] = {}
  for rows, more in ((full, literature), (crop, [])):
    for quality in qualities.ALL:
      anchors = [*curves.mean_curves(rows), *(more if quality is qualities.PSNR else [])]
      for cell in itertools.chain(*curves.bd_matrix(rows, anchors, quality)):
        if cell.mean:
          known.setdefault((cell.codec, cell.anchor, quality.key), []).append(cell.mean.percent)
  for cell in itertools.chain(*itertools.chain(*map(curves.bd_matrix, others))):
    if cell.mean:
      known.setdefault((cell.codec, cell.anchor, 'psnr'), []).append(cell.mean.percent)
  return known


def _place(name: str, text: str) -> int:
  found = re.search(rf'(?<!\w){re.escape(name)}(?!\w)', text)
  return found.start() if found else -1


def _first(text: str) -> str | None:
  """Returns the codec that a text names first."""
  places = {_place(name, text): code for name, code in NAMES.items()}
  places.pop(-1, None)
  return places[min(places)] if places else None
