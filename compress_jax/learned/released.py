"""What codes the files of a learned method: float transforms, an integer entropy path, an id.

A `coding` is a NamedTuple of integers, integer arrays, NamedTuples of them, integer networks and
tuples of networks.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_type_hints

import jax
import numpy as np

from compress_jax.codec import CodecError, Params
from compress_jax.exact import layers, tables
from compress_jax.files.digests import digest

Arrays = Mapping[str, np.ndarray]


class Released(NamedTuple):
  """A learned model as it is shipped. Made once by `export`, then only saved and loaded."""

  encoder: Params  # Of the analysis transforms.
  decoder: Params  # Of the synthesis transform.
  coding: Any  # The method's integers: networks and tables.
  model_id: bytes  # 4 B, covers all that decides how a file decodes.
  ratios: tuple[float, ...] = ()  # What the encoder makes of a lambda: see `lambdas`.
  prior: Params | None = None  # The float density of hyper-latents, for training that goes on.


def compact(array: np.ndarray) -> np.ndarray:
  """Integers i64 in the smallest type that holds them; the values decide, so all machines agree."""
  peak = np.abs(array).max(initial=0)
  kind = next(k for k in (np.int8, np.int16, np.int32, np.int64) if peak <= np.iinfo(k).max)
  return array.astype(kind)


def flatten(params: Params, prefix: str) -> dict[str, np.ndarray]:
  """Arrays by their paths, joined by dots after `prefix`."""
  from flax.traverse_util import flatten_dict  # Integers are read without flax.

  flat = flatten_dict(params, sep='.')
  return {f'{prefix}.{name}': np.asarray(value) for name, value in flat.items()}


def unflatten(arrays: Arrays, prefix: str) -> Params:
  """What `flatten` took apart, as float32 on the device.

  Raises:
    CodecError: an array has the path of one that others are part of.
  """
  from flax.traverse_util import unflatten_dict

  start = prefix + '.'
  flat = {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
  parents = {name[:at] for name in flat for at, letter in enumerate(name) if letter == '.'}
  for name in parents & flat.keys():
    raise CodecError(f'the model has an array {start}{name}, and arrays within it')
  return jax.tree.map(lambda v: jax.device_put(v.astype(np.float32)), unflatten_dict(flat, sep='.'))


def misfit(released: Released, params: Params) -> str | None:
  """Which float weights of a model are not those of the method; None where they are.

  Args:
    released: the model.
    params: of the method, as shapes or values.
  """
  wanted = {
    **_shapes({name: params[name] for name in params if name.endswith('analysis')}, 'encoder'),
    **_shapes({'synthesis': params['synthesis']}, 'decoder'),
  }
  found = {**_shapes(released.encoder, 'encoder'), **_shapes(released.decoder, 'decoder')}
  for name, shape in wanted.items():
    if name not in found:
      return f'it lacks the weights {name}'
    if found[name] != shape:
      return f'{name} has the shape {found[name]} in place of {shape}'
  channels = params['log_gains'].shape[-1], released.coding.rates.gain.shape[-1]
  return None if channels[0] == channels[1] else f'{channels[1]} channels in place of {channels[0]}'


def _shapes(params: Params, prefix: str) -> dict[str, tuple[int, ...]]:
  from flax.traverse_util import flatten_dict

  return {f'{prefix}.{k}': v.shape for k, v in flatten_dict(params, sep='.').items()}


def release(encoder: Params, decoder: Params, coding: Any) -> Released:
  """With the id: the first bytes of a digest of all that decides how a file decodes."""
  shared = np.frombuffer(bytes.fromhex(tables.digest()), np.uint8)
  arrays = {**flatten(decoder, 'decoder'), **coding_arrays(coding), 'tables': shared}
  return Released(encoder, decoder, coding, digest(arrays)[:4])


def to_arrays(released: Released) -> dict[str, np.ndarray]:
  """All of a model by name, for a file."""
  floats = {**flatten(released.encoder, 'encoder'), **flatten(released.decoder, 'decoder')}
  prior = {} if released.prior is None else flatten(released.prior, 'prior')
  return {**{k: _halved(v) for k, v in floats.items()}, **prior, **coding_arrays(released.coding)}


def halve(params: Params) -> Params:
  """Weights that fit 16 bits, as float32.

  Raises:
    CodecError: one is too large for that.
  """
  largest = max(float(np.abs(v).max(initial=0)) for v in jax.tree.leaves(params))
  if largest > np.finfo(np.float16).max:
    raise CodecError(f'a weight of {largest:g} does not fit 16 bits')
  return jax.tree.map(lambda v: np.asarray(v, np.float16).astype(np.float32), params)


def _halved(array: np.ndarray) -> np.ndarray:
  """In 16 bits where they lose nothing."""
  with np.errstate(over='ignore'):
    half = array.astype(np.float16)
  return half if np.array_equal(half.astype(array.dtype), array) else array


def from_arrays(arrays: Arrays, kind: type, check: Callable[[Any], None]) -> Released:
  """The model that `to_arrays` took apart.

  Args:
    arrays: by name.
    kind: the class of its coding.
    check: raises CodecError where the parts of a coding do not fit together.

  Raises:
    CodecError: an array is missing, or they do not fit together.
  """
  encoder, decoder = unflatten(arrays, 'encoder'), unflatten(arrays, 'decoder')
  coding = coding_of(arrays, kind)
  check(coding)
  prior = unflatten(arrays, 'prior') or None
  return release(encoder, decoder, coding)._replace(prior=prior)


def coding_arrays(coding: Any, prefix: str = 'coding') -> dict[str, np.ndarray]:
  """The integers of a coding by name."""
  arrays: dict[str, np.ndarray] = {}
  for name, value in coding._asdict().items():
    path = f'{prefix}.{name}'
    if isinstance(value, int):
      arrays[path] = np.array([value], np.int64)
    elif isinstance(value, np.ndarray):
      arrays[path] = compact(value)
    elif hasattr(value, '_asdict'):
      arrays |= coding_arrays(value, path)
    elif value and isinstance(value[0], layers.Layer):
      arrays |= layers.to_arrays(value, path)
    else:
      for i, network in enumerate(value):
        arrays |= layers.to_arrays(network, f'{path}.{i}')
  return arrays


def coding_of(arrays: Arrays, kind: type, prefix: str = 'coding') -> Any:
  """Returns the coding that `coding_arrays` took apart, without checking that its parts fit.

  Args:
    arrays: by name; those with other prefixes are not looked at.
    kind: the class of the coding.
    prefix: of the names.

  Raises:
    CodecError: an integer array is missing.
  """
  fields: dict[str, Any] = {}
  for name, hint in get_type_hints(kind).items():
    path = f'{prefix}.{name}'
    if hint == layers.Network:
      fields[name] = layers.from_arrays(arrays, path)
    elif hint == layers.Networks:
      starts = itertools.takewhile(
        lambda start: f'{start}.0.weight' in arrays, (f'{path}.{i}' for i in itertools.count())
      )
      fields[name] = tuple(layers.from_arrays(arrays, start) for start in starts)
    elif hasattr(hint, '_fields'):
      fields[name] = coding_of(arrays, hint, path)
    elif path not in arrays or arrays[path].dtype.kind != 'i':
      raise CodecError(f'the model lacks integers named {path}')
    else:
      fields[name] = int(arrays[path].sum()) if hint is int else arrays[path].astype(np.int64)
  return kind(**fields)
