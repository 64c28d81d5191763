"""Models so small that tests are quick; each is kept in tests/golden with files that it wrote.

  python -m experiments.train --method=gmm --set=channels=8 --data=DIR --steps=3000 \
      --lr=5e-3 --batch=4 --output=weights.safetensors
  python -m tests.small_models weights.safetensors
  python -m tests.test_golden

writes one anew, with `--set=widths=(8,16,12)` for cae, and for gan base=3, blocks=1, latents=12
and hyper=8.
"""

import functools
import hashlib
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from compress_jax import cli_export, data, methods, model_files, tiles
from compress_jax.exact import rates
from compress_jax.models import cae, gan, gmm
from compress_jax.pretrained import pretrained
from compress_jax.released import flatten, halve, to_arrays, unflatten

FOLDER = Path(__file__).parent / 'golden'
MODELS = {
  'cae': cae.Model((8, 16, 12), 6, 6),
  'gmm': gmm.Model(8, 3, True, 6, 0.01, None),
  'gan': gan.Model(3, 1, 12, 8, 6),
}
NETWORKS = {'cae': cae, 'gmm': gmm, 'gan': gan}


def path(method):
  """Where a model is, as the option `model` of `pretrained`."""
  return str(FOLDER / f'{method}.safetensors')


def load(method, lmbda=0.013):
  return pretrained(method, lmbda=lmbda, model=path(method))


@functools.cache
def params(method):
  """The float parameters that a model was exported from, for `Codec.apply`."""
  released = load(method)[1]
  rest = unflatten(model_files.read(FOLDER / f'{method}-floats.safetensors')[0], 'params')
  return {**released.encoder, **released.decoder, **rest}


def picture(height, width, seed=0):
  """Smooth shading with edges and a little noise, u8[H, W, 3]."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width] / 7.0
  base = 128 + 60 * np.sin(x + rng.random()) * np.cos(y) + 50 * (x + y > rng.random() * 9)
  colours = base[..., None] * rng.uniform(0.5, 1, 3) + rng.normal(0, 4, (height, width, 3))
  return np.clip(colours, 0, 255).astype(np.uint8)


@functools.cache
def photographs():
  return dict(data.sample_photographs())


def apply_whole(network, weights, x):
  """A network on f32[H, W, C], in one run on just that array, without a frame."""
  return np.asarray(_compiled(network)(weights, jnp.asarray(x, jnp.float32)[None]))[0]


@functools.cache
def _compiled(network):
  def run(weights, x):
    with jax.default_matmul_precision('highest'):
      return network.apply({'params': weights}, x)

  return jax.jit(run)


@functools.cache
def _apply(method):
  return jax.jit(lambda params, x, level: load(method)[0].apply(params, x, level, None))


def apply(method, images, level):
  """The `Coded` of u8[B, H, W, 3] at a level, by the float model."""
  x = jnp.asarray(images, jnp.float32) / 255
  with jax.default_matmul_precision('highest'):
    return _apply(method)(params(method), x, jnp.full(len(images), level))


def analyse_whole(method, released, image):
  """Latents f32[h, w, C] and hyper-latents, None for cae, of an image on its own."""
  networks = NETWORKS[method]
  nets = networks.transforms(MODELS[method])
  x = extended(image / 255.0, networks.CELL)
  if method == 'cae':
    x = np.pad(x, [(networks.MARGIN, networks.MARGIN)] * 2 + [(0, 0)], 'reflect')
  y = apply_whole(nets['analysis'], released.encoder['analysis'], x)
  if method == 'cae':
    return y, None
  z = extended(y, networks.HYPER_CELL)
  return y, apply_whole(nets['hyper_analysis'], released.encoder['hyper_analysis'], z)


def extended(x, cell):
  """To whole cells, by repeating the edge."""
  return np.pad(x, ((0, -x.shape[0] % cell), (0, -x.shape[1] % cell), (0, 0)), 'edge')


def digest(latents):
  """SHA-256 of the symbols that a file holds."""
  sha = hashlib.sha256()
  for symbols in (latents.q, latents.z):
    sha.update(f'{symbols.shape}'.encode() + symbols.astype('<i4').tobytes())
  return sha.hexdigest()


def synthesise_whole(method, released, latents, level):
  """The decoded f32[H, W, 3] on the 0..255 scale, of latents in one run, not cropped."""
  y_hat = rates.dequantise(latents.q, released.coding.rates, level, latents.mean)
  network: nn.Module = NETWORKS[method].transforms(MODELS[method])['synthesis']
  x_hat = apply_whole(network, released.decoder['synthesis'], y_hat)
  return 255 * np.clip(x_hat, 0, 1)


def force_tiles(monkeypatch, buckets=(), smallest=6):
  """Cuts every image into the smallest tiles, except those that fit one of `buckets` (cells)."""
  run_many = tiles.run_many

  def run_small(transform, params, xs, *, largest):
    del largest
    return run_many(transform, params, xs, largest=max(smallest, 2 * transform.halo + 2))

  monkeypatch.setattr(tiles, 'run_many', run_small)
  monkeypatch.setattr(tiles, 'BUCKETS', buckets)


def write(weights_file):
  """Exports trained weights, and keeps those float parameters that the model does not hold."""
  weights, config = cli_export.weights(Path(weights_file))
  weights, method = halve(weights), config['method']
  codec = methods.method(method).codec(**config['options'])
  released = codec.export(weights, cli_export.calibration(None))
  model_files.write(path(method), to_arrays(released), config, overwrite=True)
  kept = released.encoder.keys() | released.decoder.keys()
  rest = {name: value for name, value in weights.items() if name not in kept}
  arrays = {k: v.astype(np.float16) for k, v in flatten(rest, 'params').items()}
  model_files.write(FOLDER / f'{method}-floats.safetensors', arrays, config, overwrite=True)


if __name__ == '__main__':
  for name in sys.argv[1:]:
    write(name)
