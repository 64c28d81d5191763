"""Gains for several rates: in networks that are trained already, only the gains learn.

L. Theis, W. Shi, A. Cunningham, F. Huszár, "Lossy image compression with compressive
autoencoders", ICLR 2017, on variable bit rates: one set of scales per lambda, everything else
frozen, and geometric interpolation between neighbouring sets.
"""

import math

import optax

from compress_jax.codec import MIDDLE, CodecError, Params
from compress_jax.layers.quantization import initial_log_gains

GAINS, PRIOR = 'log_gains', 'prior'  # Parts of the parameters.
LR, STEPS = 1e-3, 10_000  # These and the next line are from the paper.
TAU, KAPPA = 1000, 0.8
_LAST = 255  # The largest level byte.


def schedule(lr: float, *, tau: float = TAU, kappa: float = KAPPA) -> optax.Schedule:
  """Returns the schedule lr * tau^kappa / (tau + t)^kappa at step t."""
  return lambda count: lr * (tau / (tau + count)) ** kappa


def trained_levels(levels: int) -> tuple[int, ...]:
  """Returns the level bytes at which a model of `levels` levels has its own gains."""
  return tuple(round(_LAST * i / max(levels - 1, 1)) for i in range(levels))


def at_rate(params: Params, lmbda: float) -> Params:
  """Returns fresh parameters with the gains of one lambda: steps are in proportion to lambda^-1/2.

  The gains of fresh parameters are those of the middle of all lambdas.
  """
  return {**params, GAINS: params[GAINS] + 0.5 * math.log(lmbda / MIDDLE)}


def with_levels(params: Params, levels: int) -> Params:
  """Returns parameters with `levels` sets of gains, made of the only set where there is one.

  The only set is taken for that of the middle of all lambdas; the others differ from it by
  steps in proportion to lambda^-1/2.

  Raises:
    CodecError: there are several sets, but not `levels` of them.
  """
  count, channels = params[GAINS].shape
  if count == levels:
    return params
  if count > 1:
    raise CodecError(f'the weights have gains of {count} levels, not of {levels} or of one')
  return {**params, GAINS: params[GAINS] + initial_log_gains(levels, channels)}
