"""Training of some parts of a codec while the rest stays bit for bit as it is."""

from collections.abc import Collection
from typing import Any

import jax
import optax
from jax import lax

from compress_jax.codec import Array, Coded, Key, Params
from compress_jax.training.objectives import Apply
from compress_jax.training.trainer import CLIP


def learning_only(apply: Apply, parts: Collection[str]) -> Apply:
  """Returns `apply` with gradients that reach only these parts of the parameters."""

  def applied(params: Params, x: Array, level: Array, keys: Key | None) -> Coded:
    stopped = {
      name: part if name in parts else lax.stop_gradient(part) for name, part in params.items()
    }
    return apply(stopped, x, level, keys)

  return applied


def optimizer(
  tx: optax.GradientTransformation, params: Params, parts: Collection[str], *, clip: float = CLIP
) -> optax.GradientTransformation:
  """Returns `tx` for these parts; the rest stays as it is and has no optimizer state.

  Args:
    tx: receives the gradients of the parts only.
    params: parameters of which only the structure counts.
    parts: names at the top of `params`.
    clip: largest norm of the gradients of the parts.
  """
  groups = {
    'learning': optax.chain(optax.clip_by_global_norm(clip), tx),
    'frozen': optax.set_to_zero(),
  }
  return optax.partition(groups, {name: _labels(name, params, parts) for name in params})


def _labels(name: str, params: Params, parts: Collection[str]) -> Any:
  return jax.tree.map(lambda _: 'learning' if name in parts else 'frozen', params[name])
