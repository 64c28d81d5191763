"""The colour and the marker of each codec, the same in the figures and on the page.

Colours differ in hue and lightness, so that they can be distinguished with any colour vision, and
each codec has a different marker. Text in them has a contrast of at least 4.5:1.
"""

from typing import NamedTuple

from compress_jax.baselines import CODECS
from compress_jax.methods import METHODS

# Light background, dark background.
_HUES = {
  'jpeg': ('#4a4a4a', '#c9c9c9'),
  'jpeg-444': ('#4c5a70', '#a9b7cf'),
  'jpeg-default': ('#767676', '#949494'),
  'jpeg2000': ('#7d6400', '#d3b84a'),
  'webp': ('#2f7488', '#8cc6d8'),
  'webp-default': ('#4b7560', '#93c2a8'),
  'avif': ('#6a55a3', '#b6a4e6'),
  'avif-slow': ('#3f2f8f', '#d4caff'),
  'avif-444': ('#85509b', '#cf9ee3'),
  'jxl': ('#8a3b2a', '#e5a08f'),
}
_OTHER = ('#5c5c66', '#a9a9b5')
_SYMBOLS = ('circle', 'diamond', 'square', 'triangle-up', 'star')  # Plotly's names.
_SHADES = (0.0, 0.45, 0.22)  # Share of black or white in the colour of a method's n-th codec.
_CLASSICAL = {
  'jpeg': 'square-open',
  'jpeg-444': 'cross-open',
  'jpeg-default': 'circle-open',
  'jpeg2000': 'triangle-up-open',
  'webp': 'diamond-open',
  'webp-default': 'x-open',
  'avif': 'triangle-down-open',
  'avif-slow': 'star-open',
  'avif-444': 'hexagon-open',
  'jxl': 'pentagon-open',
}
# Parts of a file: as many as all methods have.
PARTS = ('#5f6b7a', '#c24e00', '#0067a5', '#8a6d00', '#a8397a', '#007a5a', '#6a55a3')


class Look(NamedTuple):
  """The colours and the marker of a codec."""

  light: str  # Colour on a light background.
  dark: str
  symbol: str


def display(codec: str) -> str:
  """Returns the label of a codec for tables and figures."""
  return CODECS[codec].label if codec in CODECS else codec


def look(method: str, variant: int = 0) -> Look:
  """Returns the look of the `variant`-th codec of a method."""
  if method not in METHODS:
    light, dark = _HUES.get(method, _OTHER)
    return Look(light, dark, _CLASSICAL.get(method, 'circle-open'))
  light, dark = METHODS[method].light, METHODS[method].dark
  shade = _SHADES[variant % len(_SHADES)]
  return Look(
    _mix(light, '#000000', shade),
    _mix(dark, '#ffffff', shade),
    _SYMBOLS[variant % len(_SYMBOLS)],
  )


def looks(codecs: list[tuple[str, str]]) -> dict[str, Look]:
  """Returns the look of each codec; `codecs` are (method, codec) pairs in display order."""
  seen: dict[str, int] = {}
  out = {}
  for method, codec in codecs:
    out[codec] = look(method, seen.setdefault(method, 0))
    seen[method] += 1
  return out


def _mix(colour: str, other: str, share: float) -> str:
  pairs = zip(bytes.fromhex(colour[1:]), bytes.fromhex(other[1:]), strict=True)
  return '#' + ''.join(f'{round(a + share * (b - a)):02x}' for a, b in pairs)
