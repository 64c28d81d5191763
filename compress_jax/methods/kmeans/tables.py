"""The model file of kmeans: universal codebooks, and initial counts for both modes."""

import functools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from compress_jax.codec import CodecError
from compress_jax.files.digests import digest
from compress_jax.methods.kmeans import universal

PATH = Path(__file__).parents[2] / 'zoo' / 'kmeans.safetensors'
PRIOR = 'codebook.prior'


class Tables(NamedTuple):
  """The tables that kmeans ships, and the ids of those that decide how a file decodes."""

  prior: np.ndarray  # f64[codebook.CONTEXTS]
  lambdas: tuple[float, ...]  # Ascending: the lambda that each model was trained for.
  models: tuple[universal.Model, ...]
  image_id: bytes  # 4 B, the model id of files that carry their codebook.
  universal_id: bytes  # 4 B, the model id of files that use the shipped codebooks.


@functools.cache
def load(path: Path = PATH) -> Tables:
  """Reads a model file; its tables are cached.

  Raises:
    CodecError: the file does not exist, or is not a model file of kmeans.
  """
  try:
    with safe_open(path, 'numpy') as file:
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
      lambdas = tuple(json.loads(file.metadata()['config'])['lambdas'])
    prior = {PRIOR: arrays.pop(PRIOR)}
    models = tuple(universal.from_arrays(arrays, f'point{i}') for i in range(len(lambdas)))
    if len(models) > 1 << universal.POINT_BITS or not all(m.is_sound() for m in models):
      raise ValueError('its tables do not fit together')
  except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
    raise CodecError(f'{path} is not a model file of kmeans: {error}') from error
  return Tables(
    prior[PRIOR].astype(np.float64), lambdas, models, digest(prior)[:4], digest(arrays)[:4]
  )
