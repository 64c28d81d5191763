"""A fifth method in one file: it gets a command line, a place in the comparison and a colour.

  python -m examples.fifth_method --output=/tmp/fifth

It sends the mean of each 8x8 block, rounded in steps that follow from lambda, compressed by zlib.
The entry in METHODS is all that other parts of the project need.
"""

import sys
import zlib

import jax.numpy as jnp
import numpy as np

from compress_jax import bitstream
from compress_jax.codec import Codec, CodecError, Image, Method, level_of
from compress_jax.layers.quantization import lambda_of
from compress_jax.methods import METHODS, Entry

NUMBER, SIDE = 7, 8
LABEL = NUMBER, 'examples.fifth_method', 'Means of blocks', '#8c5a00', '#e0b050'
METHODS['blocks'] = Entry(*LABEL, (18.0, 24.0), (18.0, 24.0))


def codec(*, lmbda: float = 0.013) -> Codec:
  """Returns a codec whose steps follow from the target of bits per pixel + lmbda * MSE."""
  step_of = lambda level: float(lambda_of(jnp.int32(level))) ** -0.5  # noqa: E731

  def encode(released: tuple, image: Image) -> bytes:
    (height, width), level = bitstream.check_image(image), level_of(lmbda)
    padded = np.pad(image, ((0, -height % SIDE), (0, -width % SIDE), (0, 0)), 'edge')
    means = padded.reshape(len(padded) // SIDE, SIDE, -1, SIDE, 3).mean((1, 3))
    q = np.rint(means / step_of(level)).astype(np.uint8)
    payload = zlib.compress(np.diff(q, axis=1, prepend=np.uint8(0)).tobytes(), 9)
    return bitstream.pack(bitstream.Header(NUMBER, height, width, level), payload)

  def decode(released: tuple, data: bytes) -> Image:
    header, payload = bitstream.unpack(data)
    if header.method != NUMBER or header.flags or any(header.model_id):
      raise CodecError('the file was not written by this method')
    rows, columns = -(-header.height // SIDE), -(-header.width // SIDE)
    try:
      symbols = np.frombuffer(zlib.decompress(payload), np.uint8).reshape(rows, columns, 3)
    except (zlib.error, ValueError) as error:
      raise CodecError('the payload is damaged') from error
    means = np.cumsum(symbols, axis=1, dtype=np.uint8) * step_of(header.level)
    blocks = np.clip(np.rint(means), 0, 255).astype(np.uint8)
    return blocks.repeat(SIDE, 0).repeat(SIDE, 1)[: header.height, : header.width]

  return Codec(encode, decode)


METHOD = Method(codec)

if __name__ == '__main__':
  from experiments import kodak

  flags = ['--methods=blocks,jpeg', '--lambdas=0.0009,0.0018,0.0067,0.025,0.1', '--workers=1']
  sys.exit(kodak.main([sys.argv[0], *flags, *sys.argv[1:]]))
