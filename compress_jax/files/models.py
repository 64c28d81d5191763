"""Model files in safetensors format: arrays by name, and a JSON object that describes them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from compress_jax.codec import CodecError
from compress_jax.files import deflated
from compress_jax.files.atomic import write_atomically

# Errors that a damaged file can raise; AttributeError is for data types that NumPy lacks.
UNREADABLE: tuple[type[Exception], ...] = (OSError, SafetensorError, AttributeError, LookupError)
UNREADABLE += (RecursionError, TypeError, ValueError)


def write(
  path: str | Path,
  arrays: Mapping[str, np.ndarray],
  config: Mapping[str, Any],
  *,
  overwrite: bool = False,
  deflate: bool = False,
) -> None:
  """Writes a model; `config` names its method and the options of its factory.

  With `deflate` the file is smaller, see `deflated`; readers without that module refuse it.
  """
  if deflate:
    arrays, forms = deflated.pack(arrays)
    config = {**config, deflated.FIELD: forms}
  # One key of metadata: the order of several keys would differ from run to run.
  # `save` writes raw memory: arrays that are not in C order would be read back scrambled.
  ordered = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
  data = save(ordered, {'config': json.dumps(config)})
  write_atomically(Path(path), data, overwrite=overwrite)


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads the arrays and the config of a model file.

  Raises:
    CodecError: the file is no model file.
  """
  try:
    with safe_open(path, 'numpy') as file:
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
      config = json.loads(file.metadata()['config'])
    if not isinstance(config, dict):
      raise ValueError('its config is no object')
    arrays = deflated.unpack(arrays, config.pop(deflated.FIELD, {}))
  except UNREADABLE as error:
    reason = 'no such file' if isinstance(error, FileNotFoundError) else error
    raise CodecError(f'{path} is not a model file: {reason}') from error
  return arrays, config
