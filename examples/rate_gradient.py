"""A pretrained codec taken apart: which pixels cost most bits, and how to save them.

  python -m examples.rate_gradient --method=gmm --lambda=0.013

Every part is a pure function of the model's float parameters: `analysis` gives latents, `rate`
their symbols and bits, `synthesis` the image. So the gradient of the rate by the image is one call
of `jax.grad`.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import compress_jax
from compress_jax.codec import Array, level_of
from compress_jax.images import sets


def main() -> None:
  """Prints the latents, the bits, and the bits saved by a step against the gradient."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--method', default='gmm')
  parser.add_argument('--lambda', type=float, default=0.013, dest='lmbda')
  args = parser.parse_args()
  codec, released = compress_jax.pretrained(args.method, lmbda=args.lmbda)
  params, level = codec.thaw(released), level_of(args.lmbda)
  name, photograph = sets.sample_photographs()[0]
  x = jnp.asarray(sets.centre_crop(photograph, 128)[None] / np.float32(255))

  def bits(x: Array, key: Array | None) -> Array:
    rated = codec.rate(params, codec.analysis(params, x), level, key)
    return jnp.stack(list(rated.bits.values())).sum()

  y = codec.analysis(params, x)
  rated = codec.rate(params, y, level, None)
  x_hat = codec.synthesis(params, rated.y_hat, (128, 128))
  mse = float(jnp.mean((x - jnp.clip(x_hat, 0, 1)) ** 2))
  zeros = 100 * float(jnp.mean(rated.q == 0))
  print(f'{name}: latents {y.shape[1:]}, {zeros:.1f} % of the symbols are 0')
  print(f'{float(bits(x, None)) / 128**2:.3f} bpp  {-10 * np.log10(mse):.2f} dB')
  slope = jax.jit(jax.grad(bits))(x, jax.random.key(0))  # Noise in place of rounding.
  busiest = np.unravel_index(int(jnp.argmax(jnp.abs(slope).sum(-1))), x.shape[:3])[1:]
  print(f'the rate depends most on the pixel at {tuple(map(int, busiest))}')
  changed = x - 0.02 * slope / jnp.abs(slope).max()
  print(f'{float(bits(changed, None)) / 128**2:.3f} bpp after a step of at most 5 grey levels')


if __name__ == '__main__':
  main()
