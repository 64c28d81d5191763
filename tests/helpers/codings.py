"""Random integer parts of models of every method."""

import numpy as np

from compress_jax.exact import rates
from compress_jax.exact.export import FloatLayer
from compress_jax.methods.cae import coding as cae
from compress_jax.methods.gan import coding as gan
from compress_jax.methods.gmm import channels_coding, channels_export, serial_coding, serial_export
from tests.helpers.priors import prior_of

GMMS = ('gmm', 'gmm of one Gaussian', 'gmm in slices')
CHANNELS = (
  'gmm by channels',
  'gmm by channels of one Gaussian',
  'gmm by channels with one pass',
)
MODULES = {
  'cae': cae,
  'gan': gan,
  **dict.fromkeys(GMMS, serial_coding),
  **dict.fromkeys(CHANNELS, channels_coding),
}
C, HYPER = 4, 3  # Channels of latents and of hyper-latents.
K = 3


def gains(rng):
  """f64[256, C]: rising with the level, unlike from channel to channel."""
  return 2.0 ** (np.linspace(-2, 2, 256)[:, None] + rng.normal(0, 0.5, C))


def layer(rng, kernel, inputs, outputs, slope=1.0, *, shuffle=False, bias=0.3):
  weight = rng.normal(size=(kernel, kernel, inputs, outputs)) / np.sqrt(kernel**2 * inputs)
  offsets = rng.normal(0, 0.3, outputs) + bias
  return FloatLayer(weight.astype(np.float32), offsets.astype(np.float32), slope, shuffle)


def upsampling(rng, outputs, slope, bias):
  """Hyper-latents to four times their grid."""
  return [
    layer(rng, 3, HYPER, 16, slope, shuffle=True),
    layer(rng, 5, 4, 24, slope, shuffle=True),
    layer(rng, 3, 6, outputs, bias=bias),
  ]


def gmm_networks(rng, mixtures, sizes=(C,), views=1):
  """Random ones, with scales mostly above 0 and means apart."""
  parts = 3 if mixtures > 1 else 2
  context = layer(rng, 5, views * C, 2 * C)
  parameters = []
  for i, size in enumerate(sizes):
    last = layer(rng, 1, 7, parts * mixtures * size)
    last.bias[: mixtures * size] += 1.5
    first = layer(rng, 1, 4 * C + views * sum(sizes[:i]), 9, 0.01)
    parameters.append([first, layer(rng, 1, 9, 7, 0.01), last])
  return serial_export.FloatNetworks(upsampling(rng, 2 * C, 0.01, 0.3), context, parameters)


def channels_networks(rng, mixtures, sizes, views, two_passes=3):
  """Random ones for groups of these sizes, of which the first have two passes."""
  parts, groups, before = 3 if mixtures > 1 else 2, [], 0
  for i, size in enumerate(sizes):
    last = layer(rng, 1, 7, parts * mixtures * size)
    last.bias[: mixtures * size] += 1.5
    seen = sum(channels_coding.inputs(2 * C, views, before, size if i < two_passes else 0))
    groups.append([layer(rng, 1, seen, 9, 0.01), layer(rng, 1, 9, 7, 0.01), last])
    before += size
  return channels_export.FloatNetworks(upsampling(rng, 2 * C, 0.01, 0.3), groups)


def cae_prior(rng):
  """Logits and log-scales f64[6, C]."""
  return rng.normal(size=(6, C)), rng.uniform(-2, 3, (6, C))


def tiny(name, seed=0):
  """A random coding of a method, and the float layers that it was made of."""
  rng = np.random.default_rng(seed)
  table = rates.rates_of(gains(rng))
  prior = prior_of(1.0, 3.0, 0.4, medians=np.array([0.0, 0.5, -1.0]))
  zs = [rng.normal(0, 3, (3, 4, HYPER)).astype(np.float32) for _ in range(2)]
  if name == 'cae':
    floats = cae_prior(rng)
    return cae.make(table, *floats), floats
  if name == 'gan':
    floats = upsampling(rng, C, 0.0, 0.0), upsampling(rng, C, 0.0, 2.0)
    return gan.make(*floats, table, prior, zs), floats
  mixtures = 1 if 'one Gaussian' in name else K
  calibration = [(rng.normal(0, 4, (12, 15, C)).astype(np.float32), z) for z in zs]
  if name in CHANNELS:
    views = 1 if 'one Gaussian' in name else 2
    networks = channels_networks(rng, mixtures, (1, 2, 1), views, 1 if 'pass' in name else 3)
    made = channels_export.make(networks, table, prior, mixtures, views, calibration)
    return made, networks
  networks = gmm_networks(rng, mixtures, *(((1, 2, 1), 2) if 'slices' in name else ()))
  return serial_export.make(networks, table, prior, mixtures, calibration), networks
