"""Decodes a file by the integers of its model and an exported program, without flax.

python run.py --mode=export --format=stablehlo --input=gmm --output=programs
python -m examples.decode_stablehlo programs photo.cjx photo.png
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from compress_jax import bitstream, coder
from compress_jax.exact import rates
from compress_jax.files import models
from compress_jax.images import sets
from compress_jax.learned.released import coding_of
from compress_jax.methods.cae import coding as cae
from compress_jax.methods.gan import coding as gan
from compress_jax.methods.gmm import channels_coding, serial_coding

CODINGS = {'cae': cae, 'gan': gan, 'gmm': serial_coding, 'channels': channels_coding}


def decode(folder: Path, data: bytes) -> np.ndarray:
  """Returns the image u8[H, W, 3] of a file, by a folder of --format=stablehlo."""
  arrays, config = models.read(folder / 'model.safetensors')
  cell = json.loads((folder / 'programs.json').read_text())['cell']
  module = CODINGS.get(config['options'].get('context'), CODINGS[config['method']])
  coding = coding_of(arrays, module.Coding)
  header, payload = bitstream.unpack(data)
  # Flag 1: coded transposed.
  sides = (header.height, header.width)[:: -1 if header.flags & 1 else 1]
  grid = [-(-side // cell) for side in sides]
  latents, _ = module.read(coding, coder.Reader(payload), *grid, header.level)
  y_hat = rates.dequantise(latents.q, coding.rates, header.level, latents.mean)
  program = jax.export.deserialize(bytearray((folder / 'synthesis.stablehlo').read_bytes()))
  x_hat = np.asarray(program.call(y_hat[None]))[0, : sides[0], : sides[1]]
  if header.flags & bitstream.GREY:
    x_hat = np.repeat(x_hat.mean(-1, keepdims=True), 3, -1)
  image = np.rint(x_hat.clip(0, 1) * 255).astype(np.uint8)
  return image.swapaxes(0, 1) if header.flags & 1 else image


def main(folder: Path, file: Path, output: Path) -> None:
  """Decodes a file into an image, and compares it with that of `Codec.decode`."""
  image = decode(folder, data := file.read_bytes())
  assert 'flax' not in sys.modules
  sets.save_image(output, image)
  from compress_jax import methods, model_zoo

  decoder = model_zoo.decoder(methods.of_file(data), model=str(folder / 'model.safetensors'))
  difference = np.abs(image.astype(int) - decoder(data)).max()
  assert difference <= 1
  print(f'{output}: {image.shape[1]}x{image.shape[0]}, {difference} grey levels apart at most')


if __name__ == '__main__':
  main(*map(Path, sys.argv[1:]))
