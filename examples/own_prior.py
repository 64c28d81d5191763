"""A new entropy model on a pretrained autoencoder, up to a file that decodes.

  python -m examples.own_prior

The analysis and synthesis are those of cae. The new part is the prior: one Laplace density per
channel, fitted to a few photographs by its closed form. Its integer tables code a photograph that
was not used for the fit.
"""

import jax.numpy as jnp
import numpy as np

import compress_jax
from compress_jax import bitstream, coder
from compress_jax.exact import static
from compress_jax.images import sets

LAMBDA, REACH = 0.013, 200  # Symbols -REACH..REACH have an entry in a table; others are escaped.


def laplace_tables(symbols: np.ndarray) -> static.Static:
  """Returns integer tables of the Laplace density of each channel of symbols f32[n, C]."""
  scale = np.abs(symbols).mean(0) + 0.05  # The maximum likelihood estimate.
  edges = np.arange(-REACH, REACH + 2)[:, None] - 0.5
  tail = 0.5 * np.exp(-np.abs(edges) / scale)
  below = np.where(edges < 0, tail, 1 - tail)
  counts = np.round(np.diff(below, axis=0).T * 2**22) + 1
  escape = np.ones((len(counts), 1))
  low = np.full(len(counts), -REACH)
  return static.Static(low, np.concatenate([counts, escape], 1))


def main() -> None:
  """Fits the prior, writes a file, reads it again and prints rate and quality."""
  codec, released = compress_jax.pretrained('cae', lmbda=LAMBDA)
  images = [sets.centre_crop(image, 128) for _, image in sets.sample_photographs()]
  reference = codec.encode(released, images[0])
  params, level = codec.thaw(released), bitstream.unpack(reference)[0].level
  x = jnp.asarray(np.stack(images) / np.float32(255))
  rated = codec.rate(params, codec.analysis(params, x), level, None)
  symbols = np.asarray(rated.q)
  channels = symbols.shape[-1]
  prior = laplace_tables(symbols[1:].reshape(-1, channels))
  writer = coder.Writer()
  static.write_static(writer, prior, symbols[0].reshape(-1, channels).astype(np.int64))
  file = writer.finish()
  read = static.read_static(coder.Reader(file), prior, symbols[0, ..., 0].size)
  assert np.array_equal(read.reshape(symbols[0].shape), symbols[0])
  x_hat = codec.synthesis(params, rated.y_hat[:1], (128, 128))[0]
  psnr = -10 * float(jnp.log10(jnp.mean((jnp.clip(x_hat, 0, 1) - x[0]) ** 2)))
  print(f'Laplace: {8 * len(file) / 128**2:.3f} bpp  {psnr:.2f} dB')
  print(f"cae's own mixtures: {8 * len(reference) / 128**2:.3f} bpp")


if __name__ == '__main__':
  main()
