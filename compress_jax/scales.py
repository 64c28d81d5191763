"""Gains of several rates for networks that are trained: only the gains still learn.

L. Theis, W. Shi, A. Cunningham, F. Huszár, "Lossy image compression with compressive
autoencoders", ICLR 2017, on variable bit rates: one set of scales per lambda, all else
frozen, and geometric interpolation between neighbouring sets.
"""

from collections.abc import Collection
from typing import Any

import jax
import optax
from jax import lax

from compress_jax.codec import Array, CodecError, Coded, Key, Level, Params
from compress_jax.objectives import Apply
from compress_jax.quantization import initial_log_gains

GAINS, PRIOR = 'log_gains', 'prior'  # Parts of the parameters.
LR, STEPS = 1e-3, 10_000  # Of the paper.
TAU, KAPPA = 1000, 0.8
_LAST = 255  # Level byte.


def schedule(lr: float, *, tau: float = TAU, kappa: float = KAPPA) -> optax.Schedule:
  """lr * tau^kappa / (tau + t)^kappa at step t."""
  return lambda count: lr * (tau / (tau + count)) ** kappa


def trained_levels(levels: int) -> tuple[int, ...]:
  """The level bytes at which a model of so many levels has gains of its own."""
  return tuple(round(_LAST * i / max(levels - 1, 1)) for i in range(levels))


def with_levels(params: Params, levels: int) -> Params:
  """Parameters with so many sets of gains: as they are, or made of the only one.

  The only one is taken for that of the middle of all lambdas; the others differ from it by
  steps in proportion to lambda^-1/2.

  Raises:
    CodecError: there are several, but not so many.
  """
  had, channels = params[GAINS].shape
  if had == levels:
    return params
  if had > 1:
    raise CodecError(f'the weights have gains of {had} levels, not of {levels} or of one')
  return {**params, GAINS: params[GAINS] + initial_log_gains(levels, channels)}


def learning_only(apply: Apply, parts: Collection[str]) -> Apply:
  """`apply` whose gradient reaches these parts of the parameters alone."""

  def applied(params: Params, x: Array, level: Level, keys: Key) -> Coded:
    held = {
      name: part if name in parts else lax.stop_gradient(part) for name, part in params.items()
    }
    return apply(held, x, level, keys)

  return applied


def optimizer(
  tx: optax.GradientTransformation, params: Params, parts: Collection[str], *, clip: float = 1.0
) -> optax.GradientTransformation:
  """`tx` for these parts; the rest stays bit for bit as it is and has no optimizer state.

  Args:
    tx: sees the gradients of the parts only.
    params: only their structure counts.
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
