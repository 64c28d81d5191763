"""An entropy model of your own on this project's transforms: a Laplace density per channel.

  python -m examples.own_entropy_model --steps=600

The transforms are the linear ones of blocks that start as a cosine transform; any network of
`compress_jax.models` goes in their place. New are `Laplace` and the forward pass that asks it
for bits. The photographs are those that scikit-image carries.
"""

import argparse
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from compress_jax.codec import Array, Coded, Key, Level, Params, level_of
from compress_jax.images import crops, sets
from compress_jax.layers import quantization
from compress_jax.layers.entropy import bits_of
from compress_jax.layers.linear import BlockAnalysis, BlockSynthesis
from compress_jax.training import objectives, trainer

CELL, CHANNELS, LEVELS = 8, 48, 2
CROP, BATCH = 64, 8


class Laplace(nn.Module):
  """The probability of a symbol under a zero-mean Laplace density of its channel."""

  channels: int

  @nn.compact
  def __call__(self, q: Array, gain: Array) -> Array:
    """Symbols f32[B, h, w, C], which are latents times f32[B, 1, 1, C]: the mass of q -+ 1/2."""
    scale = jnp.exp(self.param('log_scale', nn.initializers.zeros, (self.channels,))) * gain
    away = jnp.abs(q)
    tail = 0.5 * jnp.exp(-jnp.abs(away - 0.5) / scale)  # Of the density beyond the nearer edge.
    beyond = 0.5 * jnp.exp(-(away + 0.5) / scale)
    return jnp.where(away < 0.5, 1 - tail, tail) - beyond


class Model(nn.Module):
  """Transforms, gains of every rate, and the entropy model."""

  @nn.compact
  def __call__(self, x: Array, level: Level, key: Key | None) -> Coded:
    """f32[B, H, W, 3] at level bytes i32[B], sides of 8 * n; Key[B] adds noise to the rate."""
    start = quantization.initial_log_gains(LEVELS, CHANNELS, CELL)
    log_gains = self.param('log_gains', lambda _: start)
    gain = quantization.gains(log_gains, level)[:, None, None]
    y = BlockAnalysis(CHANNELS, CELL, name='analysis')(x) * gain
    q = quantization.straight_through(y)
    noisy = q if key is None else quantization.noise(key, y)
    bits = bits_of(Laplace(CHANNELS, name='prior')(noisy, gain)).sum((1, 2, 3))
    y_hat = q / gain
    return Coded(BlockSynthesis(CELL, name='synthesis')(y_hat), y_hat, {'y': bits})


def apply(params: Params, x: Array, level: Level, key: Key | None) -> Coded:
  """The forward pass, as `objectives.rate_distortion` wants it."""
  coded: Any = Model().apply({'params': params}, x, level, key)
  return coded


def init() -> Params:
  """Fresh parameters."""
  example = jnp.zeros((1, CROP, CROP, 3)), jnp.zeros(1, jnp.int32), None
  return jax.jit(Model().init)(jax.random.key(0), *example)['params']


def train(params: Params, images: list[np.ndarray], steps: int) -> Params:
  """Minimises bpp + lambda * MSE on random crops, every one at a lambda of its own."""
  optimizer = trainer.adam(1e-2)
  draw = lambda held, keys: crops.crops(held, keys, CROP)  # noqa: E731
  step = trainer.make_train_step(objectives.rate_distortion(apply), optimizer, seed=0, draw=draw)
  state = trainer.replicated(trainer.start(params, {}, optimizer, steps))
  held = trainer.replicated(crops.store(images))
  index = np.arange(BATCH * jax.local_device_count(), dtype=np.int32).reshape(-1, BATCH)
  for _ in range(steps):
    state, _ = step(state, held, index)
  return state.params


@jax.jit
def rounded(params: Params, x: Array, level: Level) -> Coded:
  """As in a file."""
  return apply(params, x, level, None)


def measure(params: Params, images: list[np.ndarray], lmbda: float) -> tuple[float, float]:
  """Estimated bits per pixel, and PSNR, of the centres of images."""
  x = np.stack([sets.centre_crop(image, 128) for image in images]).astype(np.float32) / 255
  coded = rounded(params, jnp.asarray(x), jnp.full(len(x), level_of(lmbda), jnp.int32))
  mse = np.mean((np.clip(coded.x_hat, 0, 1) - x) ** 2)
  return float(coded.bits['y'].mean()) / 128**2, -10 * math.log10(mse)


def main() -> None:
  """Prints rate and quality before training, and after it."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--steps', type=int, default=200, help='updates')
  steps = parser.parse_args().steps
  images = [image for _, image in sets.sample_photographs()]
  before = init()
  for name, params in (('before', before), ('after', train(before, images, steps))):
    for lmbda in (0.0035, 0.025):
      bpp, psnr = measure(params, images, lmbda)
      print(f'{name:6s} lambda {lmbda:<6}  {bpp:.3f} bpp  {psnr:.2f} dB')


if __name__ == '__main__':
  main()
