"""Parameters of Flax modules, found without a trace of the functions that initialise them."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.errors import ScopeParamShapeError

Array = jax.Array


def parameter(
  module: nn.Module, name: str, init: Callable[..., Any], shape: tuple[int, ...]
) -> Array:
  """Returns a module's parameter; `init(key, shape)` makes it where the module has none yet.

  `Module.param` traces `init` for the shape of every parameter whenever a module is applied. That
  is two fifths of the time in which JAX traces a network, before the first file is decoded.

  Raises:
    ScopeParamShapeError: the module has a parameter of another shape.
  """
  if not module.has_variable('params', name):
    return module.param(name, init, shape)
  value: Array = module.get_variable('params', name)
  if np.shape(value) != shape:
    raise ScopeParamShapeError(name, '/'.join(module.path), np.shape(value), shape)
  return value
