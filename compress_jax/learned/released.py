"""Models that code the files of learned methods: float transforms, integer entropy path and id.

A `coding` is a NamedTuple of integers, integer arrays, NamedTuples of these, integer networks and
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
  """A learned model that codes files; `export` makes it once, and it is then saved and loaded."""

  encoder: Params  # Parameters of the analysis transforms.
  decoder: Params  # Parameters of the synthesis transform.
  coding: Any  # The method's integers: networks and tables.
  model_id: bytes  # 4 B, a digest of all that determines how a file is decoded.
  ratios: tuple[float, ...] = ()  # Ratios that choose the steps of each lambda: see `lambdas`.
  prior: Params | None = None  # The float density of hyper-latents, for further training.


def compact(array: np.ndarray) -> np.ndarray:
  """Returns integers i64 in the smallest type that holds them.

  The type depends on the values alone, so that all machines agree.
  """
  peak = np.abs(array).max(initial=0)
  kind = next(k for k in (np.int8, np.int16, np.int32, np.int64) if peak <= np.iinfo(k).max)
  return array.astype(kind)


def flatten(params: Params, prefix: str) -> dict[str, np.ndarray]:
  """Returns arrays by their paths, whose parts are joined by dots after `prefix`."""
  from flax.traverse_util import flatten_dict  # Integers are read without flax.

  flat = flatten_dict(params, sep='.')
  return {f'{prefix}.{name}': np.asarray(value) for name, value in flat.items()}


def unflatten(arrays: Arrays, prefix: str) -> Params:
  """Returns the parameters that `flatten` flattened, as float32 on the device.

  Raises:
    CodecError: the path of an array is also the beginning of another's.
  """
  from flax.traverse_util import unflatten_dict

  start = prefix + '.'
  flat = {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
  parents = {name[:at] for name in flat for at, letter in enumerate(name) if letter == '.'}
  for name in parents & flat.keys():
    raise CodecError(f'the model has an array {start}{name}, and arrays within it')
  return jax.tree.map(lambda v: jax.device_put(v.astype(np.float32)), unflatten_dict(flat, sep='.'))


def misfit(released: Released, params: Params) -> str | None:
  """Returns a description of float weights that do not fit the method; None if all fit.

  Args:
    released: the model.
    params: the parameters of the method, as shapes or values.
  """
  wanted = {
    **_shapes({name: params[name] for name in params if name.endswith('analysis')}, 'encoder'),
    **_shapes({'synthesis': params['synthesis']}, 'decoder'),
  }
  given = {**_shapes(released.encoder, 'encoder'), **_shapes(released.decoder, 'decoder')}
  for name, shape in wanted.items():
    if name not in given:
      return f'it lacks the weights {name}'
    if given[name] != shape:
      return f'{name} has the shape {given[name]} in place of {shape}'
  channels = params['log_gains'].shape[-1], released.coding.rates.gain.shape[-1]
  return None if channels[0] == channels[1] else f'{channels[1]} channels in place of {channels[0]}'


def _shapes(params: Params, prefix: str) -> dict[str, tuple[int, ...]]:
  from flax.traverse_util import flatten_dict

  return {f'{prefix}.{k}': v.shape for k, v in flatten_dict(params, sep='.').items()}


def release(encoder: Params, decoder: Params, coding: Any) -> Released:
  """Returns a model with its id, a digest of all that determines how a file is decoded."""
  shared = np.frombuffer(bytes.fromhex(tables.digest()), np.uint8)
  arrays = {**flatten(decoder, 'decoder'), **coding_arrays(coding), 'tables': shared}
  return Released(encoder, decoder, coding, digest(arrays)[:4])


def to_arrays(released: Released) -> dict[str, np.ndarray]:
  """Returns all arrays of a model by name, for a file."""
  floats = {**flatten(released.encoder, 'encoder'), **flatten(released.decoder, 'decoder')}
  prior = {} if released.prior is None else flatten(released.prior, 'prior')
  return {**{k: _halved(v) for k, v in floats.items()}, **prior, **coding_arrays(released.coding)}


def halve(params: Params) -> Params:
  """Rounds weights to 16 bits; returns them as float32.

  Raises:
    CodecError: a weight is too large for float16.
  """
  largest = max(float(np.abs(v).max(initial=0)) for v in jax.tree.leaves(params))
  if largest > np.finfo(np.float16).max:
    raise CodecError(f'a weight of {largest:g} does not fit 16 bits')
  return jax.tree.map(lambda v: np.asarray(v, np.float16).astype(np.float32), params)


def _halved(array: np.ndarray) -> np.ndarray:
  """Returns an array in float16 if that is exact, else as it is."""
  with np.errstate(over='ignore'):
    half = array.astype(np.float16)
  return half if np.array_equal(half.astype(array.dtype), array) else array


def from_arrays(arrays: Arrays, kind: type, check: Callable[[Any], None]) -> Released:
  """Returns the model whose arrays `to_arrays` returned.

  Args:
    arrays: the arrays by name.
    kind: the class of the coding.
    check: raises CodecError if the parts of a coding do not fit together.

  Raises:
    CodecError: an array is missing, or the arrays do not fit together.
  """
  encoder, decoder = unflatten(arrays, 'encoder'), unflatten(arrays, 'decoder')
  coding = coding_of(arrays, kind)
  check(coding)
  prior = unflatten(arrays, 'prior') or None
  return release(encoder, decoder, coding)._replace(prior=prior)


def coding_arrays(coding: Any, prefix: str = 'coding') -> dict[str, np.ndarray]:
  """Returns the integer arrays of a coding by name, without integers that have their default."""
  arrays: dict[str, np.ndarray] = {}
  defaults = type(coding)._field_defaults
  for name, value in coding._asdict().items():
    path = f'{prefix}.{name}'
    if name in defaults and value == defaults[name]:
      continue
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
  """Returns the coding whose arrays `coding_arrays` returned; whether its parts fit is unchecked.

  Args:
    arrays: the arrays by name; those with other prefixes are ignored.
    kind: the class of the coding.
    prefix: the prefix of the names.

  Raises:
    CodecError: an integer array is missing.
  """
  fields: dict[str, Any] = {}
  defaults = getattr(kind, '_field_defaults', {})
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
    elif path not in arrays and name in defaults:
      continue
    elif path not in arrays or arrays[path].dtype.kind != 'i':
      raise CodecError(f'the model lacks integers named {path}')
    else:
      fields[name] = int(arrays[path].sum()) if hint is int else arrays[path].astype(np.int64)
  return kind(**fields)
