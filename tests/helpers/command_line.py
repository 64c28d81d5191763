"""Calls of the command line on files, with a codec that is quick."""

import numpy as np
from PIL import Image as PILImage

from compress_jax import baselines, bitstream
from compress_jax.cli import main
from compress_jax.codec import Codec, CodecError

SIZE = (40, 24)


def fake_codec(*, lmbda=0.013, seed=0, steps=4):
  """JPEG in our container, its quality rising with lambda; refuses images of one colour."""
  del seed
  quality = int(np.clip(40 + 15 * np.log10(lmbda), 1, 95)) - steps
  jpeg = baselines.jpeg(quality=max(1, quality))

  def encode(released, image):
    if image.min() == image.max():
      raise CodecError('one colour')
    return bitstream.pack(bitstream.Header(0, *image.shape[:2]), jpeg.encode((), image))

  def decode(released, data):
    return jpeg.decode((), bitstream.unpack(data)[1])

  return Codec(encode, decode)


def image(seed=0):
  return np.random.default_rng(seed).integers(0, 256, (*SIZE[::-1], 3), np.uint8)


def write(path, pixels=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  PILImage.fromarray(image() if pixels is None else pixels).save(path)
  return path


def run(mode, source, target, *flags):
  return main.main(
    ['compress-jax', f'--mode={mode}', f'--input={source}', f'--output={target}', *flags]
  )


def failure(capsys):
  """The one line that an error is."""
  out, err = capsys.readouterr()
  assert out == '' and err.startswith('compress-jax: error: ') and err.count('\n') == 1, err
  return err.removeprefix('compress-jax: error: ')


def files(folder):
  return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())
