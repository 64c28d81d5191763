"""Measures what grey images cost: each image in colour and its luma alone, by every method.

  python -m experiments.grey

Codes the images in colour and as grey, at two lambdas, and prints the mean of their bits per pixel,
the PSNR of the decoded grey images, and how many of them need no more bytes than in colour.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from PIL import Image as PILImage

from compress_jax.cli.command import guarded, parse
from compress_jax.cli.flag_types import define_path, numbers
from compress_jax.codec import Image
from compress_jax.evaluation import metrics
from compress_jax.evaluation.evaluate import protocol_images
from compress_jax.images import sets
from compress_jax.methods import METHODS
from compress_jax.model_zoo import pretrained
from compress_jax.runtime.compilation_cache import enable_cache

HEAD = (
  '| method | lambda | bpp in colour | bpp in grey | PSNR of grey '
  '| images whose grey file is no larger |\n| --- | --: | --: | --: | --: | --: |'
)


def luma(image: Image) -> Image:
  """Returns u8[H, W, 3] with the luma of ITU-R BT.601 in all three channels."""
  return np.repeat(np.asarray(PILImage.fromarray(image).convert('L'))[..., None], 3, -1)


def row(method: str, lmbda: float, images: Sequence[Image]) -> str:
  """Returns a line of the table."""
  codec, released = pretrained(method, lmbda=lmbda)
  rates, qualities, smaller = [], [], 0
  for image in images:
    grey = luma(image)
    colour_file, grey_file = codec.encode(released, image), codec.encode(released, grey)
    size = image.shape[:2]
    rates.append([metrics.bpp(len(file), *size) for file in (colour_file, grey_file)])
    qualities.append(metrics.psnr(grey, codec.decode(released, grey_file)))
    smaller += len(grey_file) <= len(colour_file)
  colour, grey_rate = np.mean(rates, 0)
  psnr = f'{np.mean(qualities):.2f} dB'
  cells = (method, f'{lmbda:g}', f'{colour:.3f}', f'{grey_rate:.3f}', psnr)
  return f'| {" | ".join(cells)} | {smaller} of {len(images)} |'


def run(values: flags.FlagValues) -> int:
  """Prints the table of all methods; returns the exit status."""
  enable_cache()
  description, found = sets.default_images(values.images)
  images = [image.load() for image in protocol_images(found, 'crop', values.limit)]
  print(f'{description}, 256x256 crops', HEAD, sep='\n')
  for method in METHODS:
    for lmbda in numbers('lambdas', values.lambdas):
      print(row(method, lmbda, images), flush=True)
  return 0


def define_flags() -> flags.FlagValues:
  """Returns the flags of this program."""
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  define_path('images', None, 'A folder of images in place of the suite.', **here)
  flags.DEFINE_list('lambdas', '0.0035,0.025', 'Operating points.', **here)
  flags.DEFINE_integer('limit', None, 'Only so many images.', lower_bound=1, **here)
  flags.DEFINE_bool('help', False, 'Show this help.', short_name='h', **here)
  return values


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit status."""
  return guarded('grey', lambda: run(parse(define_flags(), __doc__, argv)))


if __name__ == '__main__':
  sys.exit(main())
