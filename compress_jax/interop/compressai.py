"""CompressAI's cheng2020-anchor and cheng2020-attn as parameters of gmm with one Gaussian.

Names and shapes of its modules are from CompressAI 1.2.8 (models/waseda.py, models/google.py,
entropy_models.py, layers/gdn.py). Its tensors are NCHW: kernels [out, in, row, column] become
[row, column, in, out]. The four channels that a pixel shuffle distributes are innermost there
(channel, row, column) and outermost here. Its gamma of GDN is [to, from] and becomes [from, to].
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from compress_jax.codec import CodecError, Params
from compress_jax.interop import torch_files

Array = np.ndarray

SLOPE = 0.01  # Negative slope of PyTorch's LeakyReLU.
_FILTERS = (1, 3, 3, 3, 3, 1)  # Widths of the factorised prior.
_PEDESTAL = 2.0**-36
# Buffers that change the meaning of the weights; this package has these values built in.
_CONSTANTS = {
  r'.*\.i?gdn\.(beta|gamma)_reparam\.pedestal': _PEDESTAL,
  r'.*\.i?gdn\.beta_reparam\.lower_bound\.bound': (1e-6 + _PEDESTAL) ** 0.5,
  r'.*\.i?gdn\.gamma_reparam\.lower_bound\.bound': _PEDESTAL**0.5,
  r'gaussian_conditional\.(scale_bound|lower_bound_scale\.bound)': 0.11,
  r'.*\.likelihood_lower_bound\.bound': 1e-9,
}
# Buffers that CompressAI's update() derives from the weights for its coder.
_DERIVED = r'.*\._(offset|quantized_cdf|cdf_length)|gaussian_conditional\.scale_table'
_DERIVED += r'|entropy_bottleneck\.target|context_prediction\.mask'
# Names in earlier versions of CompressAI, and the current ones.
_RENAMED = (
  (r'\.downsample\.', '.skip.'),
  (r'^entropy_bottleneck\._(?:matrix|matrices\.)(\d)$', r'entropy_bottleneck.matrices.\1'),
  (r'^entropy_bottleneck\._bias(?:es\.)?(\d)$', r'entropy_bottleneck.biases.\1'),
  (r'^entropy_bottleneck\._factor(?:s\.)?(\d)$', r'entropy_bottleneck.factors.\1'),
)


class Checkpoint(NamedTuple):
  """An imported model: its parameters, and the options with which `gmm` runs it."""

  params: Params
  options: Mapping[str, Any]  # Keyword arguments of the factory: channels, mixtures, ...


class _Tensor(NamedTuple):
  """The conversion of one tensor: both names, its shape, and the function that converts it."""

  source: str  # Name in CompressAI's table of weights.
  target: str  # Path in the parameters of gmm, joined by dots.
  shape: tuple[int, ...]  # Shape of CompressAI's tensor.
  convert: Callable[[Array], Array]


_Part = Iterator[_Tensor]


def read(path: Path | str) -> Checkpoint:
  """Reads the model in a checkpoint file of CompressAI.

  Raises:
    CodecError: not a file of weights, or not of one of the two models.
  """
  try:
    return convert(torch_files.read(path))
  except CodecError as error:
    name = Path(path).name
    raise CodecError(str(error) if name in str(error) else f'{name}: {error}') from error


def convert(weights: Mapping[str, Array]) -> Checkpoint:
  """Returns the model in a table of weights, as CompressAI's `state_dict()` returns it.

  Raises:
    CodecError: a tensor is missing, of another shape, not finite, or unknown.
  """
  remaining = _with_current_names(weights)
  attention = any(name.startswith('g_a.3.conv_a.') for name in remaining)
  channels = _rows(remaining, 'g_a.0.conv1.weight')
  widths = (
    _rows(remaining, 'entropy_parameters.0.weight'),
    _rows(remaining, 'entropy_parameters.2.weight'),
  )
  flat = {'log_gains': np.zeros((1, channels), np.float32)}
  for tensor in _model(channels, attention, widths):
    value = _pop(remaining, tensor.source, tensor.shape)
    flat[tensor.target] = np.ascontiguousarray(tensor.convert(value), np.float32)
  _check_remaining(remaining)
  options = {'channels': channels, 'mixtures': 1, 'attention': attention, 'levels': 1}
  return Checkpoint(_nested(flat), {**options, 'slope': SLOPE, 'widths': widths})


def _with_current_names(weights: Mapping[str, Array]) -> dict[str, Array]:
  renamed = {}
  for name, array in weights.items():
    for old, new in _RENAMED:
      name = re.sub(old, new, name)
    renamed[name] = array
  if len(renamed) != len(weights):
    raise CodecError('a tensor appears under its old and its new name')
  return renamed


def _rows(weights: Mapping[str, Array], name: str) -> int:
  if name not in weights or weights[name].ndim != 4:
    raise CodecError(f'not a cheng2020 model of CompressAI: it has no {name}')
  return weights[name].shape[0]


def _pop(remaining: dict[str, Array], name: str, shape: tuple[int, ...]) -> Array:
  if name not in remaining:
    raise CodecError(f'{name} is missing')
  value = remaining.pop(name)
  if value.shape != shape:
    raise CodecError(f'{name} has shape {value.shape}, not {shape}')
  if not (np.issubdtype(value.dtype, np.floating) and np.isfinite(value).all()):
    raise CodecError(f'{name} has values that are not finite numbers')
  return value


def _check_remaining(remaining: Mapping[str, Array]) -> None:
  """Raises CodecError unless every tensor that became no parameter is known and needs none."""
  for name, value in remaining.items():
    expected = next((v for key, v in _CONSTANTS.items() if re.fullmatch(key, name)), None)
    if expected is None and not re.fullmatch(_DERIVED, name):
      raise CodecError(f'unknown tensor {name[:100]!r}')
    if expected is not None and not np.allclose(value, expected, rtol=1e-3, atol=0):
      raise CodecError(f'{name} is not {expected:g}')


def _nested(flat: Mapping[str, Array]) -> Params:
  tree: dict[str, Any] = {}
  for path, value in flat.items():
    *folders, name = path.split('.')
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[name] = value
  return tree


def _model(channels: int, attention: bool, widths: tuple[int, int]) -> _Part:
  n = channels
  yield from _analysis(n, attention)
  yield from _synthesis(n, attention)
  for i in range(5):
    yield from _conv(f'h_a.{2 * i}', f'hyper_analysis.conv{i}', n, n)
  yield from _conv('h_s.0', 'hyper_synthesis.conv0', n, n)
  yield from _subpixel('h_s.2', 'hyper_synthesis.up0', n, n)
  yield from _conv('h_s.4', 'hyper_synthesis.conv1', n, n * 3 // 2)
  yield from _subpixel('h_s.6', 'hyper_synthesis.up1', n * 3 // 2, n * 3 // 2)
  yield from _conv('h_s.8', 'hyper_synthesis.conv2', n * 3 // 2, 2 * n)
  shape = (2 * n, n, 5, 5)
  yield _Tensor('context_prediction.weight', 'context.kernel', shape, _masked)
  yield _Tensor('context_prediction.bias', 'context.bias', (2 * n,), _same)
  for i, (into, out) in enumerate(itertools.pairwise((4 * n, *widths, 2 * n))):
    yield from _conv(f'entropy_parameters.{2 * i}', f'parameters.conv{i}', into, out, 1)
  yield from _prior(n)


def _analysis(n: int, attention: bool) -> _Part:
  names = ['down0', 'block0', 'down1', 'attention0', 'block1', 'down2', 'block2', 'last']
  names.append('attention1')
  for i, name in enumerate(name for name in names if attention or 'attention' not in name):
    source, target = f'g_a.{i}', f'analysis.{name}'
    if name.startswith('down'):
      yield from _down(source, target, 3 if i == 0 else n, n)
    elif name.startswith('block'):
      yield from _block(source, target, n)
    elif name == 'last':
      yield from _conv(source, target, n, n)
    else:
      yield from _attention(source, target, n)


def _synthesis(n: int, attention: bool) -> _Part:
  names = ['attention0', 'block0', 'up0', 'block1', 'up1', 'attention1', 'block2', 'up2', 'block3']
  names.append('last')
  for i, name in enumerate(name for name in names if attention or 'attention' not in name):
    source, target = f'g_s.{i}', f'synthesis.{name}'
    if name.startswith('up'):
      yield from _up(source, target, n)
    elif name.startswith('block'):
      yield from _block(source, target, n)
    elif name == 'last':
      yield from _subpixel(source, target, n, 3)
    else:
      yield from _attention(source, target, n)


def _conv(source: str, target: str, into: int, out: int, kernel: int = 3) -> _Part:
  yield _Tensor(f'{source}.weight', f'{target}.kernel', (out, into, kernel, kernel), _hwio)
  yield _Tensor(f'{source}.bias', f'{target}.bias', (out,), _same)


def _subpixel(source: str, target: str, into: int, out: int) -> _Part:
  shape = (4 * out, into, 3, 3)
  yield _Tensor(f'{source}.0.weight', f'{target}.conv.kernel', shape, lambda w: _hwio(_shuffled(w)))
  yield _Tensor(f'{source}.0.bias', f'{target}.conv.bias', (4 * out,), _shuffled)


def _gdn(source: str, target: str, n: int) -> _Part:
  yield _Tensor(f'{source}.beta', f'{target}.beta', (n,), _same)
  yield _Tensor(f'{source}.gamma', f'{target}.gamma', (n, n), np.transpose)


def _block(source: str, target: str, n: int) -> _Part:
  yield from _conv(f'{source}.conv1', f'{target}.conv1', n, n)
  yield from _conv(f'{source}.conv2', f'{target}.conv2', n, n)


def _down(source: str, target: str, into: int, n: int) -> _Part:
  yield from _conv(f'{source}.conv1', f'{target}.conv1', into, n)
  yield from _conv(f'{source}.conv2', f'{target}.conv2', n, n)
  yield from _gdn(f'{source}.gdn', f'{target}.gdn', n)
  yield from _conv(f'{source}.skip', f'{target}.skip', into, n, 1)


def _up(source: str, target: str, n: int) -> _Part:
  yield from _subpixel(f'{source}.subpel_conv', f'{target}.subpixel', n, n)
  yield from _conv(f'{source}.conv', f'{target}.conv', n, n)
  yield from _gdn(f'{source}.igdn', f'{target}.igdn', n)
  yield from _subpixel(f'{source}.upsample', f'{target}.skip', n, n)


def _attention(source: str, target: str, n: int) -> _Part:
  for branch, name in (('conv_a', 'trunk'), ('conv_b', 'gate')):
    for i in range(3):
      unit, target_unit = f'{source}.{branch}.{i}.conv', f'{target}.{name}{i}'
      yield from _conv(f'{unit}.0', f'{target_unit}.conv1', n, n // 2, 1)
      yield from _conv(f'{unit}.2', f'{target_unit}.conv2', n // 2, n // 2)
      yield from _conv(f'{unit}.4', f'{target_unit}.conv3', n // 2, n, 1)
  yield from _conv(f'{source}.conv_b.3', f'{target}.gate', n, n, 1)


def _prior(n: int) -> _Part:
  source = 'entropy_bottleneck'
  for i, (into, out) in enumerate(itertools.pairwise(_FILTERS)):
    yield _Tensor(f'{source}.matrices.{i}', f'prior.matrix{i}', (n, out, into), _same)
    yield _Tensor(f'{source}.biases.{i}', f'prior.bias{i}', (n, out, 1), _same)
    if i < len(_FILTERS) - 2:
      yield _Tensor(f'{source}.factors.{i}', f'prior.factor{i}', (n, out, 1), _same)
  yield _Tensor(f'{source}.quantiles', 'prior.quantiles', (n, 1, 3), lambda q: q[:, 0])


def _same(value: Array) -> Array:
  return value


def _hwio(kernel: Array) -> Array:
  return kernel.transpose(2, 3, 1, 0)


def _shuffled(value: Array) -> Array:
  """Returns output channels (channel, row, column) in the order (row, column, channel)."""
  return np.moveaxis(value.reshape(-1, 4, *value.shape[1:]), 1, 0).reshape(value.shape)


def _masked(kernel: Array) -> Array:
  """Returns the kernel, zero where latents are not coded yet, as CompressAI's module applies it."""
  coded = np.arange(25).reshape(5, 5) < 12
  return _hwio(kernel * coded)
