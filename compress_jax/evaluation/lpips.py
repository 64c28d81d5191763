"""LPIPS: how different two images look, by a network that learned from people's answers.

R. Zhang, P. Isola, A. Efros, E. Shechtman, O. Wang, "The unreasonable effectiveness of deep
features as a perceptual metric", CVPR 2018, in version 0.1 on AlexNet as the authors'
package `lpips` has it (lpips.py, pretrained_networks.py). No weights come with this
package. The option `lpips=PATH` names what the user has:

    a folder with torchvision's AlexNet, alexnet*.pth (features.0.weight, ...), and the
      authors' heads of version 0.1, alex.pth (lin0.model.1.weight, ...)
    or one file, .safetensors or .pth, with the tensors of both under those names
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from compress_jax.codec import CodecError
from compress_jax.files.digests import digest
from compress_jax.interop import torch_files

Array = jax.Array

# Of the input in [-1, 1]: class ScalingLayer of lpips.py.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# Inside of the root, or flat areas have no finite gradient; the authors add theirs outside.
EPSILON = 1e-10
MIN_SIDE = 31  # Below, the second pooling has nothing to see.
TRUNK, HEADS = 'alexnet*.pth', 'alex.pth'  # The names that the authors of both gave them.


class _Stage(NamedTuple):
  """One convolution of AlexNet (torchvision, alexnet.py), with a rectifier after it."""

  name: str  # Of its tensors in torchvision's table.
  shape: tuple[int, int, int, int]  # Of its kernel there: outputs, inputs, rows, columns.
  stride: int = 1
  padding: int = 1
  pooled: bool = False  # 3x3 maxima by stride 2 come before it.


_STAGES = (
  _Stage('features.0', (64, 3, 11, 11), stride=4, padding=2),
  _Stage('features.3', (192, 64, 5, 5), padding=2, pooled=True),
  _Stage('features.6', (384, 192, 3, 3), pooled=True),
  _Stage('features.8', (256, 384, 3, 3)),
  _Stage('features.10', (256, 256, 3, 3)),
)


class Layer(NamedTuple):
  """The weights of one stage and of the head that compares its features."""

  kernel: Array  # f32[k, k, Cin, C].
  bias: Array  # f32[C].
  head: Array  # f32[C], not negative.


Params = tuple[Layer, ...]


def load(trunk: Path | str, heads: Path | str | None = None) -> Params:
  """Weights from the file of AlexNet and that of the heads, or from one with both.

  Raises:
    CodecError: not such files, tensors that are missing or of another network, or numbers
      that version 0.1 does not have.
  """
  tensors = torch_files.read(trunk)
  tensors |= {} if heads is None else torch_files.read(heads)
  origin = ' and '.join(Path(path).name for path in (trunk, heads) if path is not None)
  return tuple(_layer(tensors, i, stage, origin) for i, stage in enumerate(_STAGES))


def find(path: Path | str) -> Params:
  """Weights from what the option `lpips` names: a folder of the two files, or one file."""
  return load(*files(path))


def files(path: Path | str) -> list[Path]:
  """The file of AlexNet and that of the heads, or the one with both.

  Raises:
    CodecError: a folder without them.
  """
  path = Path(path)
  if not path.is_dir():
    return [path]
  trunks = sorted(path.glob(TRUNK))
  if len(trunks) != 1 or not (path / HEADS).is_file():
    raise CodecError(f'{path} does not hold one {TRUNK} and {HEADS}, as LPIPS needs')
  return [trunks[0], path / HEADS]


def fingerprint(params: Params) -> str:
  """Eight hexadecimal digits that tell weights apart."""
  arrays = {f'{i}.{name}': value for i, x in enumerate(params) for name, value in _named(x)}
  return digest(arrays).hex()[:8]


def distance(params: Params, x: Array, x_hat: Array) -> Array:
  """LPIPS f32[B] of f32[B, H, W, 3] in [0, 1], with sides of 31 pixels or more.

  At each stage: features divided by their norm at each position, their squared difference
  weighted by the head, averaged over positions; the sum over stages.
  """
  side = min(x.shape[1:3])
  if side < MIN_SIDE:
    raise CodecError(f'LPIPS needs sides of {MIN_SIDE} pixels, not {side}')
  total = jnp.zeros(len(x))
  for layer, both in zip(params, features(params, jnp.concatenate([x, x_hat])), strict=True):
    a, b = jnp.split(both * lax.rsqrt(jnp.sum(both**2, -1, keepdims=True) + EPSILON), 2)
    total += jnp.mean(jnp.sum((a - b) ** 2 * layer.head, -1), (1, 2))
  return total


def features(params: Params, x: Array) -> list[Array]:
  """What AlexNet's five rectifiers give for f32[B, H, W, 3] in [0, 1]: f32[B, h, w, C] each."""
  x = (2 * x - 1 - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
  found = []
  for stage, layer in zip(_STAGES, params, strict=True):
    if stage.pooled:
      x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), 'VALID')
    around = (stage.padding, stage.padding)
    x = lax.conv_general_dilated(
      x,
      layer.kernel,
      (stage.stride, stage.stride),
      [around, around],
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    x = jax.nn.relu(x + layer.bias)
    found.append(x)
  return found


def _layer(tensors: Mapping[str, np.ndarray], i: int, stage: _Stage, origin: str) -> Layer:
  channels = stage.shape[0]
  kernel = _tensor(tensors, f'{stage.name}.weight', stage.shape, origin)
  bias = _tensor(tensors, f'{stage.name}.bias', (channels,), origin)
  head = _tensor(tensors, f'lin{i}.model.1.weight', (1, channels, 1, 1), origin)
  if head.min() < 0:
    raise CodecError(f'{origin}: lin{i}.model.1.weight has negative weights, LPIPS has none')
  return Layer(*map(jnp.asarray, (kernel.transpose(2, 3, 1, 0), bias, head[0, :, 0, 0])))


def _tensor(
  tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], origin: str
) -> np.ndarray:
  if name not in tensors:
    raise CodecError(f'{origin}: {name} is missing, which LPIPS on AlexNet needs')
  if tensors[name].shape != shape:
    raise CodecError(f'{origin}: {name} is of shape {tensors[name].shape}, not {shape}')
  found = tensors[name].astype(np.float32)
  if not np.isfinite(found).all():
    raise CodecError(f'{origin}: {name} holds numbers that are not finite')
  return found


def _named(layer: Layer) -> list[tuple[str, np.ndarray]]:
  return [(name, np.asarray(value)) for name, value in layer._asdict().items()]
