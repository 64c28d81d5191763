"""Models so small that tests are quick; each is kept in tests/golden with files that it wrote.

  python -m tests.helpers.small_models weights.safetensors
  python -m tests.methods.test_golden gmm

keeps one anew, from weights of `run.py --mode=train` with the options of MODELS. gan saw 2,000
batches of 4 crops of 128 pixels, from its linear path on. The others began from nothing and saw
4,000 to 15,000, first with a hundredth of the rate in the loss, so that their few channels do
not fall silent, and gmm with a fiftieth of the hyper-latents'. `sliced` is a gmm of preset tiny
with 8 channels, 12 latents in slices of 4 and 8, 8 hyper-latents and widths of 16, from its linear
path on: 2,000 batches of 4 crops of 64 pixels at a learning rate of 2e-3. `channels` is the same
with the channel context and a restoration of 8 channels, after 1,500 batches. `passes` is
`channels` exported anew with one pass for its second slice, and so with tables of bins, by
`write_passes`.
"""

import functools
import hashlib
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from compress_jax import methods
from compress_jax.exact import rates
from compress_jax.files import models as model_files
from compress_jax.images import sets as data
from compress_jax.learned import tiles
from compress_jax.learned.released import flatten, halve, to_arrays, unflatten
from compress_jax.methods.cae import networks as cae
from compress_jax.methods.gan import networks as gan
from compress_jax.methods.gmm import networks as gmm
from compress_jax.methods.gmm.channels import with_passes
from compress_jax.model_zoo import pretrained
from compress_jax.training import float_weights

FOLDER = Path(__file__).parents[1] / 'golden'
MODELS = {
  'cae': cae.Model((8, 16, 12), 6, 6),
  'gmm': gmm.Model(8, 3, True, 6, 0.01, None),
  'gan': gan.Model(3, 1, 12, 8, 6, True),
}
# Other kinds of gmm, for golden files and tests of their own.
SLICED, CHANNELS, PASSES = KINDS = 'sliced', 'channels', 'passes'
NETWORKS = {'cae': cae, 'gmm': gmm, 'gan': gan}


def path(method):
  """Where a model is, as the option `model` of `pretrained`."""
  return str(FOLDER / f'{method}.safetensors')


def load(name, lmbda=0.013):
  method = 'gmm' if name in KINDS else name
  return pretrained(method, lmbda=lmbda, model=path(name))


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


def strips():
  """Of each photograph u8[90, 440, 3]: 6 x 28 latents of gmm and gan, 12 x 55 of cae."""
  tops = {name: (len(image) - 90) // 2 for name, image in photographs().items()}
  return [image[tops[name] :][:90, 5:445] for name, image in photographs().items()]


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
  def run(params, x, level):
    with jax.default_matmul_precision('highest'):
      return load(method)[0].apply(params, x, level, None)

  return jax.jit(run)


def apply(method, image, level):
  """The `Coded` of u8[H, W, 3] at a level, by the float model."""
  return _apply(method)(params(method), image[None] / 255, jnp.full(1, level, jnp.int32))


def analyse_whole(method, image):
  """Latents f32[h, w, C] and hyper-latents, None for cae, of an image on its own."""
  fine = {**params(method), 'log_gains': jnp.full_like(params(method)['log_gains'], np.log(2**16))}
  y = np.asarray(
    _apply(method)(fine, image[None] / 255, jnp.zeros(1, jnp.int32)).y_hat[0]
  )  # Hardly rounded.
  if method == 'cae':
    return y, None
  cell = NETWORKS[method].HYPER_CELL
  extended = np.pad(y, ((0, -y.shape[0] % cell), (0, -y.shape[1] % cell), (0, 0)), 'edge')
  network = NETWORKS[method].transforms(MODELS[method])['hyper_analysis']
  return y, apply_whole(network, params(method)['hyper_analysis'], extended)


def digest(latents):
  """SHA-256 of the symbols of a file, and of the means that gan adds to them."""
  sha = hashlib.sha256()
  for symbols in map(np.asarray, (latents.q, latents.z, latents.mean)):
    sha.update(f'{symbols.shape}'.encode() + symbols.astype('<i4').tobytes())
  return sha.hexdigest()


def synthesise_whole(method, released, latents, level):
  """The decoded f32[H, W, 3] on the 0..255 scale, of latents in one run, not cropped."""
  y_hat = rates.dequantise(latents.q, released.coding.rates, level, latents.mean)
  network: nn.Module = NETWORKS[method].transforms(MODELS[method])['synthesis']
  x_hat = apply_whole(network, released.decoder['synthesis'], y_hat)
  return 255 * np.clip(x_hat, 0, 1)


# Two sides of arrays for all images of the tests: XLA compiles for every shape anew.
FEW_SHAPES = {'buckets': (8,), 'smallest': 28}


def force_tiles(monkeypatch, *, buckets=(), smallest=6):
  """Cuts every image into the smallest tiles, except those that fit one of `buckets` (cells)."""
  run_many = tiles.run_many

  def run_small(transform, params, xs, *, largest, progress=None):
    del largest
    smallest_here = max(smallest, 2 * transform.halo + 2)
    return run_many(transform, params, xs, largest=smallest_here, progress=progress)

  monkeypatch.setattr(tiles, 'run_many', run_small)
  monkeypatch.setattr(tiles, 'BUCKETS', buckets)


def write(weights_file):
  """Exports trained weights, and keeps those float parameters that the model does not hold.

  Those of the other kinds of gmm are not kept.
  """
  weights, config = float_weights.weights(Path(weights_file))
  weights, method = halve(weights), config['method']
  codec = methods.method(method).codec(**config['options'])
  released = codec.export(weights, float_weights.calibration(None))
  if config['options'].get('slices'):
    name = CHANNELS if config['options'].get('context') == 'channels' else SLICED
    model_files.write(path(name), to_arrays(released), config, overwrite=True)
    return
  model_files.write(path(method), to_arrays(released), config, overwrite=True)
  kept = released.encoder.keys() | released.decoder.keys()
  rest = {name: value for name, value in weights.items() if name not in kept}
  arrays = {k: v.astype(np.float16) for k, v in flatten(rest, 'params').items()}
  model_files.write(FOLDER / f'{method}-floats.safetensors', arrays, config, overwrite=True)


def write_passes():
  """Exports `channels` with one pass for its second slice."""
  weights, config = float_weights.weights(Path(path(CHANNELS)))
  options = {**config['options'], 'two_passes': 1}
  weights = {**weights, 'groups': with_passes(weights['groups'], 1)}
  codec = float_weights.fitting('gmm', options, weights)
  released = codec.export(halve(weights), float_weights.calibration(None))
  config = {**config, 'options': options}
  model_files.write(path(PASSES), to_arrays(released), config, overwrite=True)


if __name__ == '__main__':
  for name in sys.argv[1:]:
    write(name)
