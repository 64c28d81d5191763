"""The project's trainer with a new codec and a new loss.

  python -m examples.own_codec --steps=400 --folder=/tmp/own

A codec is a NamedTuple of functions. This one maps blocks of 8x8 pixels linearly to 16 numbers,
rounds them, and counts their bits by a logistic density; its files are the numbers, compressed
by zlib. The loss is a function as well: here the rate plus absolute differences. `fit`
saves checkpoints: a run that was killed continues from the last one in its --folder.
"""

import argparse
import tempfile
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compress_jax.codec import Array, Codec, Coded, Image, Key, Level, Params
from compress_jax.evaluation import metrics
from compress_jax.images import crops, sets
from compress_jax.layers.blocks import from_cells, to_cells
from compress_jax.layers.entropy import bits_of
from compress_jax.layers.quantization import noise, straight_through
from compress_jax.training import fit, trainer
from compress_jax.training.checkpoints import Checkpoints

CELL, LATENTS, CROP, BATCH = 8, 16, 64, 8
WEIGHT = 0.3  # Weight of a grey level relative to a bit per pixel.


def init(key: Key) -> Params:
  """Returns two matrices, and the logarithm of each channel's scale."""
  forward = jax.random.normal(key, (CELL * CELL * 3, LATENTS))
  return {'analysis': forward, 'synthesis': forward.T / len(forward), 'scale': jnp.ones(LATENTS)}


def apply(params: Params, x: Array, level: Level, key: Key | None, **options: Any) -> Coded:
  """Returns images f32[B, 8h, 8w, 3] in [0, 1] coded; with keys, noise is added in the bits."""
  del level, options  # There is one rate only.
  y = to_cells(x - 0.5, CELL) @ params['analysis']
  q = straight_through(y)
  magnitude, scale = jnp.abs(q if key is None else noise(key, y)), jnp.exp(params['scale'])
  low, high = ((edge - magnitude) / scale for edge in (-0.5, 0.5))
  bits = bits_of(jax.nn.sigmoid(high) - jax.nn.sigmoid(low)).sum((1, 2, 3))
  return Coded(from_cells(q @ params['synthesis'], CELL) + 0.5, q, {'y': bits})


def encode(params: Params, image: Image) -> bytes:
  """Returns the file of an image: its sides as two bytes each, then all symbols by channel."""
  x = jnp.asarray(image[None] / 255, jnp.float32)
  q = np.asarray(apply(params, x, jnp.zeros(1), None).y_hat[0], np.int16)
  sides = np.array(q.shape[:2], '<u2').tobytes()
  return sides + zlib.compress(q.transpose(2, 0, 1).tobytes(), 9)


def decode(params: Params, file: bytes) -> Image:
  """Returns the image u8[H, W, 3] of a file."""
  height, width = np.frombuffer(file[:4], '<u2')
  symbols = np.frombuffer(zlib.decompress(file[4:]), np.int16)
  q = symbols.reshape(LATENTS, height, width).transpose(1, 2, 0).astype(np.float32)
  x_hat = from_cells(jnp.asarray(q)[None] @ params['synthesis'], CELL)[0] + 0.5
  return np.rint(255 * np.clip(x_hat, 0, 1)).astype(np.uint8)


CODEC = Codec(encode, decode, init=init, apply=apply)


def loss(params: Params, state: Any, x: Array, keys: Key, step: Array) -> Any:
  """Returns bpp + 0.3 * mean absolute difference, as (loss, (state, metrics)) for the trainer."""
  del step
  coded = apply(params, x, jnp.zeros(len(x)), keys)
  bpp = coded.bits['y'].mean() / (x.shape[1] * x.shape[2])
  difference = 255 * jnp.abs(coded.x_hat - x).mean()
  total = bpp + WEIGHT * difference
  return total, (state, {'loss': total, 'bpp': bpp, 'difference': difference})


def report(step: int, means: fit.Means, seconds: float) -> None:
  """Prints averages of the metrics; `fit` calls it regularly."""
  line = fit.metrics_line(means, ['loss', 'bpp', 'difference'])
  print(f'step {step}  {line}  {1 / seconds:.0f} steps/s')


def train(images: list[Image], folder: Path, steps: int) -> Params:
  """Returns the averaged parameters after `steps` updates, from the newest checkpoint on."""
  optimizer = trainer.adam(1e-2)
  state = trainer.start(CODEC.init(jax.random.key(0)), {}, optimizer, steps)
  saves = Checkpoints(folder, print)
  restored = saves.restore(state)
  draw = lambda stored, keys: crops.crops(stored, keys, CROP)  # noqa: E731
  trained = fit.fit(
    trainer.replicated(state if restored is None else restored),
    trainer.make_train_step(loss, optimizer, seed=0, draw=draw),
    trainer.replicated(crops.store(images)),
    np.arange(BATCH * jax.local_device_count(), dtype=np.int32).reshape(-1, BATCH),
    rhythm=fit.Rhythm(steps, log=max(steps // 4, 1), save=100),
    saves=saves,
    watch=fit.Watch(report),
  )
  saves.close()
  return jax.tree.map(np.asarray, trained.average)


def main() -> None:
  """Trains the codec and measures its files."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--steps', type=int, default=200, help='updates')
  parser.add_argument('--folder', type=Path, help='where checkpoints stay')
  args = parser.parse_args()
  named = sets.sample_photographs()
  with tempfile.TemporaryDirectory() as temporary:
    params = train([image for _, image in named], args.folder or Path(temporary), args.steps)
  for name, image in named:
    crop = sets.centre_crop(image)
    file = CODEC.encode(params, crop)
    bpp, psnr = 8 * len(file) / crop[..., 0].size, metrics.psnr(crop, CODEC.decode(params, file))
    print(f'{name:18s} {len(file):6d} bytes  {bpp:.3f} bpp  {psnr:.2f} dB')


if __name__ == '__main__':
  main()
