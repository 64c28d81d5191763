"""Shows where the bits of a learned method's files go, and how much it relies on hyper-latents.

  python -m experiments.bits --method=gmm --output=gmm.json

Real files are divided into the bits of the header (with the checksum, and what rounds a payload to
whole bytes), of the hyper-latents z and of the latents y. With gmm's channel context, y is divided
into the groups of channels and the two passes of each: the anchors of the checkerboard, and the
other positions. Means over the images are in bits per pixel.

The second measure is the rate with z zeroed: the code length of the same decoded latents under the
tables that the model's integer networks predict if all symbols of z are 0, so that z_hat is the
median of each channel everywhere. It counts neither the bits of z nor the header. The networks
are not trained anew, so the measure shows how much this model relies on z, and not what a model
without z would need. gan codes symbols relative to means predicted from z; with z zeroed, its
symbols are those nearest to the same latents.

--output=FILE.json keeps the rows, and beside them their tables in FILE.md and a figure.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from absl import flags
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from compress_jax import bitstream, coder, methods
from compress_jax.cli.command import command_line, guarded, parse
from compress_jax.cli.flag_types import define_path, numbers
from compress_jax.codec import CodecError, Image, Latents
from compress_jax.evaluation.evaluate import protocol_images
from compress_jax.exact import hyper, mixture, tables
from compress_jax.files.atomic import write_atomically
from compress_jax.images import sets
from compress_jax.methods.gan import coding as gan_coding
from compress_jax.methods.gmm import channels_coding
from compress_jax.model_zoo import load_model, pretrained
from compress_jax.report import figures
from compress_jax.report.palette import PARTS
from compress_jax.report.tables import results_json
from compress_jax.runtime.compilation_cache import enable_cache

Row = Mapping[str, Any]
Bits = dict[str, float]  # By part of a file, in the order of the stream.
PASSES = 'anchors', 'others'
_SMALL = 0.035  # Share of a bar below which a part has no text.


class Meter(coder.Writer):
  """A writer that adds up the code length of its symbols and codes nothing."""

  def __init__(self) -> None:
    super().__init__()
    self.bits = 0.0

  def put(self, symbols: coder.Ints, tables: coder.Tables) -> None:
    """Counts symbols as `coder.Writer.put` codes them."""
    self.bits += float(coder.ideal_bits(np.asarray(symbols, np.int64), tables).sum())


def latent_bits(module: Any, coding: Any, latents: Latents, level: int) -> Bits:
  """Returns the code length of the latents, given the hyper-latents, by part of y.

  Args:
    module: the module that writes the method's files.
    coding: the integers of the model.
    latents: the symbols of a file.
    level: 0..255.
  """
  if isinstance(coding, channels_coding.Coding):
    return _bits_of_passes(coding, latents, level)
  everything, side = Meter(), Meter()
  module.write(coding, everything, latents, level)
  if latents.z.size:
    hyper.write(side, coding.prior, latents.z)
  return {'y': everything.bits - side.bits}


def _bits_of_passes(coding: channels_coding.Coding, latents: Latents, level: int) -> Bits:
  height, width, channels = latents.q.shape
  q, bits = latents.q.reshape(-1, channels), Bits()
  groups = channels_coding.groups(coding)
  starts = [group.start for group in groups]

  def code(predicted: mixture.Mixture, at: np.ndarray, span: slice) -> np.ndarray:
    meter = Meter()
    layout = channels_coding.LAYOUTS[coding.layout]
    mixture.write(meter, predicted, q[at, span].ravel(), layout)
    index = starts.index(span.start)
    part = f'group {index + 1}'
    if groups[index].two_passes:
      part += f', {PASSES[sum(divmod(int(at[0]), width)) % 2]}'
    bits[part] = bits.get(part, 0.0) + meter.bits
    return q[at, span]

  channels_coding.walk(coding, latents.z, (height, width), level, code)
  return bits


def zeroed(coding: Any, latents: Latents, level: int) -> Latents:
  """Returns the symbols of the same decoded latents where all symbols of z are 0."""
  z = np.zeros_like(latents.z)
  if not isinstance(coding, gan_coding.Coding):
    return latents._replace(z=z)
  mean = gan_coding.means(coding, z, latents.q.shape[:2], level)
  q = np.rint(latents.q + (latents.mean - mean) * 2.0**-tables.FRACTION).astype(np.int64)
  return latents._replace(q=q, z=z, mean=mean)


def measured(method: str, model: str | None, lmbda: float, image: Image) -> Row:
  """Returns the bits of an image's file by part, and those of its latents with z zeroed.

  Raises:
    CodecError: the method is not learned, or there is no such model.
  """
  record = methods.method(method)
  if record.coding_of is None:
    raise CodecError(f'{method} has no latents: --method is that of a learned method')
  options, released = load_model(method, model)
  codec, _ = pretrained(method, lmbda=lmbda, model=model)
  file = codec.encode(released, image)
  level = bitstream.unpack(file)[0].level
  split, latents = codec.split(released, file), codec.latents(released, file)
  given = record.coding_of(options), released.coding
  before = {name: 8 * split[name] for name in ('header', 'z') if name in split}
  return {
    **{'codec': method, 'lambda': lmbda, 'bytes': len(file)},
    **{'height': image.shape[0], 'width': image.shape[1]},
    'bits': {**before, **latent_bits(*given, latents, level)},
    'zeroed': latent_bits(*given, zeroed(released.coding, latents, level), level)
    if latents.z.size
    else {},
  }


def means(rows: Sequence[Row], key: str) -> dict[float, Bits]:
  """Returns the mean bits per pixel of each part by lambda; `key` is 'bits' or 'zeroed'."""
  out = {}
  for lmbda in dict.fromkeys(row['lambda'] for row in rows):
    rates = [
      {name: value / (row['width'] * row['height']) for name, value in row[key].items()}
      for row in rows
      if row['lambda'] == lmbda
    ]
    names = dict.fromkeys(name for rate in rates for name in rate)
    out[lmbda] = {name: float(np.mean([rate.get(name, 0.0) for rate in rates])) for name in names}
  return out


def growth(rows: Sequence[Row]) -> dict[float, Bits]:
  """Returns, for each lambda, the relative increase of the bits of each part of y with z zeroed.

  The last part, 'y', is all of them together. Without hyper-latents there are no parts.
  """
  out, real = {}, means(rows, 'bits')
  for lmbda, without in means(rows, 'zeroed').items():
    both = {name: (value, real[lmbda][name]) for name, value in without.items()}
    if both:
      both['y'] = sum(without.values()), sum(real[lmbda][name] for name in without)
    out[lmbda] = {name: more / known - 1 for name, (more, known) in both.items()}
  return out


def table(rows: Sequence[Row]) -> str:
  """Returns the parts in bits per pixel with their shares, and their growth with z zeroed."""
  found, more = means(rows, 'bits'), growth(rows)
  lambdas = [f'lambda {lmbda:g}' for lmbda in found]
  lines = [['bits per pixel (share)', *lambdas], ['---', *['--:'] * len(found)]]
  for name in next(iter(found.values())):
    values = [(bits[name], bits[name] / sum(bits.values())) for bits in found.values()]
    lines.append([name, *(f'{rate:.4f} ({_percent(share, ".1%")})' for rate, share in values)])
  lines.append(['whole file', *(f'{sum(bits.values()):.4f}' for bits in found.values())])
  parts = list(next(iter(more.values())))
  if parts:
    lines += [[], ['more bits with z zeroed', *lambdas], lines[1]]
  for name in parts:
    lines.append([name, *(_percent(each[name], '+.1%') for each in more.values())])
  return ''.join(f'| {" | ".join(line)} |\n' if line else '\n' for line in lines)


def _percent(share: float, form: str) -> str:
  return f'{share:{form}}'.replace('%', ' %')


def figure(rows: Sequence[Row], subtitle: str) -> Figure:
  """Returns a figure of the shares of all parts, a bar per lambda, with the growth above it."""
  found, more = means(rows, 'bits'), growth(rows)
  with mpl.rc_context(figures.STYLE):
    drawn = Figure(figsize=(7.6, 4.9), layout=None)
    ax = drawn.add_axes((0.085, 0.12, 0.67, 0.7))
  for x, (lmbda, bits) in enumerate(found.items()):
    bottom = 0.0
    for (name, rate), (colour, ink) in zip(bits.items(), _colours(bits), strict=True):
      share = rate / sum(bits.values())
      label = name if x == 0 else None
      ax.bar(x, share, 0.72, bottom, color=colour, ec='white', lw=0.6, label=label)
      if share > _SMALL:
        at = x, bottom + share / 2
        ax.text(*at, _percent(share, '.0%'), ha='center', va='center', size=8, color=ink)
      bottom += share
    if more[lmbda]:
      ax.text(x, 1.015, _percent(more[lmbda]['y'], '+.0%'), ha='center', color=figures.INK, size=9)
  labels = [f'λ {lmbda:g}\n{sum(bits.values()):.3f} bpp' for lmbda, bits in found.items()]
  ax.set_xticks(range(len(found)), labels)
  ax.yaxis.set_major_formatter(lambda share, _: _percent(share, '.0%'))
  ax.set_ylim(0, 1.06)
  ax.grid(axis='x', visible=False)
  drawn.legend(
    loc='center left', bbox_to_anchor=(0.765, 0.47), reverse=True, frameon=False, fontsize=8.5,
    handlelength=0.9, handletextpad=0.5, labelcolor=figures.INK,
  )  # fmt: skip
  above = '; above the bars: more bits of y with z zeroed' if any(more.values()) else ''
  figures.headline(drawn, f'{rows[0]["codec"]}: where the bits go', subtitle + above)
  return drawn


def _colours(bits: Bits) -> list[tuple[Any, str]]:
  """Returns the colours of each part and of the text in it; second passes are lighter."""
  groups = list(dict.fromkeys(name.partition(',')[0] for name in bits))
  out: list[tuple[Any, str]] = []
  for name in bits:
    colour = to_rgb(PARTS[groups.index(name.partition(',')[0]) % len(PARTS)])
    lighter = PASSES[1] in name
    mixed = tuple(0.55 * part + 0.45 for part in colour)
    out.append((mixed if lighter else colour, figures.INK if lighter else 'white'))
  return out


def run(values: flags.FlagValues) -> int:
  """Measures, prints and keeps the rows; returns the exit status."""
  enable_cache()
  output = Path(values.output) if values.output else None
  if output and output.suffix != '.json':
    raise flags.Error(f'--output={output} must end in .json')
  description, found = sets.default_images(values.images)
  images = protocol_images(found, values.protocol, values.limit)
  rows = []
  for lmbda in numbers('lambdas', values.lambdas):
    for image in images:
      row = measured(values.method, values.model, lmbda, image.load())
      rows.append({'image': image.name, 'protocol': values.protocol, **row})
  print(f'{description}, {values.protocol}\n\n{table(rows)}', end='')
  if output:
    command = command_line('python -m experiments.bits', values)
    meta = {'command': command, 'images': description, 'protocol': values.protocol}
    write_atomically(output, results_json(meta, rows).encode(), overwrite=True)
    write_atomically(output.with_suffix('.md'), table(rows).encode(), overwrite=True)
    figures.write_figure(output.parent, output.stem, figure(rows, figures.describe(rows)))
  return 0


def define_flags() -> flags.FlagValues:
  """Returns the flags of this program."""
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  flags.DEFINE_enum('method', 'gmm', list(methods.METHODS), 'A learned method.', **here)
  define_path('model', None, 'A model file in place of the one that ships.', **here)
  flags.DEFINE_list('lambdas', '0.0009,0.0035,0.013,0.05', 'Operating points.', **here)
  define_path('images', None, 'A folder of images in place of the suite.', **here)
  flags.DEFINE_enum('protocol', 'crop', ('crop', 'full'), '256x256 crops, or all of it?', **here)
  flags.DEFINE_integer('limit', None, 'Only so many images.', lower_bound=1, **here)
  define_path('output', None, 'A JSON file of rows, with tables and a figure beside it.', **here)
  flags.DEFINE_bool('help', False, 'Show this help.', short_name='h', **here)
  return values


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit status."""
  return guarded('bits', lambda: run(parse(define_flags(), __doc__, argv)))


if __name__ == '__main__':
  sys.exit(main())
