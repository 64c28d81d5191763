"""Gains of several rates for networks that are trained: only the gains still learn.

L. Theis, W. Shi, A. Cunningham, F. Huszár, "Lossy image compression with compressive
autoencoders", ICLR 2017, on variable bit rates: one set of scales per lambda, all else
frozen, and geometric interpolation between neighbouring sets.
"""

import math

import optax

from compress_jax.codec import MIDDLE, CodecError, Params
from compress_jax.layers.quantization import initial_log_gains

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


def at_rate(params: Params, lmbda: float) -> Params:
  """Fresh parameters of one rate, with steps in proportion to lambda^-1/2.

  Those of a model of one rate begin in the middle of all lambdas.
  """
  return {**params, GAINS: params[GAINS] + 0.5 * math.log(lmbda / MIDDLE)}


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
