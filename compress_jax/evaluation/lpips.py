"""LPIPS: the visible difference of two images, by a network trained on human judgements.

R. Zhang, P. Isola, A. Efros, E. Shechtman, O. Wang, "The unreasonable effectiveness of deep
features as a perceptual metric", CVPR 2018, in version 0.1 on AlexNet ('alex', the usual choice
for comparisons of codecs) or on VGG16 ('vgg'), as in the authors' package `lpips` (lpips.py,
pretrained_networks.py). No weights come with this package: `lpips_weights` lists the files that
users may have, and `find` reads them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from compress_jax.codec import CodecError
from compress_jax.evaluation import lpips_weights
from compress_jax.files.digests import digest

Array = jax.Array

# Mean and deviation of the input in [-1, 1]: class ScalingLayer of lpips.py.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# Added under the square root, so that flat areas have a finite gradient; the authors add it after.
EPSILON = 1e-10


class _Stage(NamedTuple):
  """One convolution of a network, with a rectifier after it."""

  name: str  # Prefix of its tensors in torchvision's table.
  shape: tuple[int, int, int, int]  # torchvision's kernel: outputs, inputs, rows, columns.
  stride: int = 1
  padding: int = 1
  pool: int = 0  # Side in pixels of the max pooling by stride 2 before it; 0 is none.
  compared: bool = True  # Whether LPIPS has a head for its features.


class _Network(NamedTuple):
  """A network for which LPIPS has heads."""

  stages: tuple[_Stage, ...]
  min_side: int  # Smallest side in pixels for which the last pooling has an output.


def _vgg() -> tuple[_Stage, ...]:
  """Returns configuration D of torchvision's vgg.py; LPIPS compares each block's last features."""
  blocks = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
  stages: list[_Stage] = []
  places = iter(lpips_weights.NAMES['vgg'].places)
  inputs = 3
  for i, (outputs, count) in enumerate(blocks):
    for k in range(count):
      shape, pool = (outputs, inputs, 3, 3), 2 if i and not k else 0
      stages.append(_Stage(f'features.{next(places)}', shape, pool=pool, compared=k == count - 1))
      inputs = outputs
  return tuple(stages)


NETWORKS = {
  # torchvision's alexnet.py.
  'alex': _Network(
    (
      _Stage('features.0', (64, 3, 11, 11), stride=4, padding=2),
      _Stage('features.3', (192, 64, 5, 5), padding=2, pool=3),
      _Stage('features.6', (384, 192, 3, 3), pool=3),
      _Stage('features.8', (256, 384, 3, 3)),
      _Stage('features.10', (256, 256, 3, 3)),
    ),
    31,
  ),
  'vgg': _Network(_vgg(), 16),
}
MIN_SIDE = NETWORKS['alex'].min_side


class Layer(NamedTuple):
  """The weights of one stage and of the head that compares its features."""

  kernel: Array  # f32[k, k, Cin, C].
  bias: Array  # f32[C].
  head: Array | None  # f32[C], not negative; None where the features are not compared.


Params = tuple[Layer, ...]


def find(path: Path | str, net: str = 'alex') -> Params:
  """Returns the weights of a network from the user's files, see `lpips_weights`.

  Args:
    path: a folder or a file.
    net: 'alex' or 'vgg'.

  Raises:
    CodecError: not such files, tensors that are missing or of another network, or numbers
      that version 0.1 does not have.
  """
  return load(*lpips_weights.files(path, net), net=net)


def load(trunk: Path | str, heads: Path | str | None = None, *, net: str = 'alex') -> Params:
  """Returns the weights in the file of a network and in that of the heads, or in one with both.

  Raises:
    CodecError: as `find`.
  """
  tensors: dict[str, np.ndarray] = {}
  paths = [Path(path) for path in (trunk, heads) if path is not None]
  for path in paths:
    tensors |= lpips_weights.read(path, net)
  origin = ' and '.join(path.name for path in paths)
  head, layers = 0, []
  for stage in NETWORKS[net].stages:
    layers.append(_layer(tensors, head if stage.compared else None, stage, origin))
    head += stage.compared
  return tuple(layers)


def name_of(params: Params) -> str:
  """Returns the name of the network that weights belong to: 'alex' or 'vgg'."""
  return next(name for name, net in NETWORKS.items() if len(net.stages) == len(params))


def about(params: Params) -> str:
  """Returns a description of the metric for the log: its network, its version and its weights."""
  return f'LPIPS ({name_of(params)}, v0.1), weights {fingerprint(params)}'


def fingerprint(params: Params) -> str:
  """Returns eight hexadecimal digits that identify weights."""
  arrays = {f'{i}.{name}': value for i, x in enumerate(params) for name, value in _named(x)}
  return digest(arrays).hex()[:8]


def distance(params: Params, x: Array, x_hat: Array) -> Array:
  """Returns the LPIPS f32[B] of f32[B, H, W, 3] in [0, 1].

  At each layer that is compared, features are divided by their norm at each position, their squared
  differences are weighted by the head and averaged over positions. Layers are summed.

  Raises:
    CodecError: a side is below 31 pixels (AlexNet) or 16 (VGG16).
  """
  net = name_of(params)
  side, least = min(x.shape[1:3]), NETWORKS[net].min_side
  if side < least:
    raise CodecError(f'LPIPS ({net}) needs sides of {least} pixels, not {side}')
  total = jnp.zeros(len(x))
  heads = [layer.head for layer in params if layer.head is not None]
  for head, both in zip(heads, features(params, jnp.concatenate([x, x_hat])), strict=True):
    a, b = jnp.split(both * lax.rsqrt(jnp.sum(both**2, -1, keepdims=True) + EPSILON), 2)
    total += jnp.mean(jnp.sum((a - b) ** 2 * head, -1), (1, 2))
  return total


def features(params: Params, x: Array) -> list[Array]:
  """Returns the rectified features f32[B, h, w, C] that LPIPS compares.

  They are all five of AlexNet, and relu1_2, 2_2, 3_3, 4_3 and 5_3 of VGG16.

  Args:
    params: weights of a network.
    x: f32[B, H, W, 3] in [0, 1].
  """
  return features_of_normalised(params, normalised(x))


def normalised(x: Array) -> Array:
  """Returns images in [0, 1] normalised by the mean and deviation of ImageNet."""
  return (2 * x - 1 - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)


def features_of_normalised(params: Params, x: Array, *, average: bool = False) -> list[Array]:
  """Returns the `features` of normalised images; with `average`, pooling takes means."""
  outputs = []
  for stage, layer in zip(NETWORKS[name_of(params)].stages, params, strict=True):
    if stage.pool:
      window, strides = (1, stage.pool, stage.pool, 1), (1, 2, 2, 1)
      if average:
        x = lax.reduce_window(x, 0.0, lax.add, window, strides, 'VALID') / stage.pool**2
      else:
        x = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, 'VALID')
    pads = (stage.padding, stage.padding)
    x = lax.conv_general_dilated(
      x,
      layer.kernel,
      (stage.stride, stage.stride),
      [pads, pads],
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    x = jax.nn.relu(x + layer.bias)
    if stage.compared:
      outputs.append(x)
  return outputs


def _layer(
  tensors: Mapping[str, np.ndarray], number: int | None, stage: _Stage, origin: str
) -> Layer:
  """Returns the weights of a stage, with its head if it has a number."""
  channels = stage.shape[0]
  kernel = _tensor(tensors, f'{stage.name}.weight', stage.shape, origin)
  bias = _tensor(tensors, f'{stage.name}.bias', (channels,), origin)
  layer = Layer(jnp.asarray(kernel.transpose(2, 3, 1, 0)), jnp.asarray(bias), None)
  if number is None:
    return layer
  head = _tensor(tensors, f'lin{number}.model.1.weight', (1, channels, 1, 1), origin)
  if head.min() < 0:
    raise CodecError(f'{origin}: lin{number}.model.1.weight has negative weights, LPIPS has none')
  return layer._replace(head=jnp.asarray(head[0, :, 0, 0]))


def _tensor(
  tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], origin: str
) -> np.ndarray:
  if name not in tensors:
    raise CodecError(f'{origin}: {name} is missing, which LPIPS on this network needs')
  if tensors[name].shape != shape:
    raise CodecError(f'{origin}: {name} is of shape {tensors[name].shape}, not {shape}')
  value = tensors[name].astype(np.float32)
  if not np.isfinite(value).all():
    raise CodecError(f'{origin}: {name} holds numbers that are not finite')
  return value


def _named(layer: Layer) -> list[tuple[str, np.ndarray]]:
  fields = layer._asdict().items()
  return [(name, np.asarray(value)) for name, value in fields if value is not None]
