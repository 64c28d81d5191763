"""Balanced rate-distortion optimisation: rate and distortion are weighted anew in each step.

Y. Zhang, Z. Duan, Y. Huang, F. Zhu, "Balanced rate-distortion optimization in learned image
compression", CVPR 2025 (arXiv 2502.20161): the first of its two strategies, for training from
nothing, with the constants of the authors' train_balanced.py. The step follows the gradient of
sum_i z_i log(1 + L_i), where L are rate and distortion, divided so that the weights of the
gradients of L sum up to 1. z is a softmax of logits that learn by Adam: of the two terms the one
that the step improved less gets more weight (FAMO: B. Liu, Y. Feng, P. Stone, Q. Liu, NeurIPS
2023). The authors' change of Adam, which leaves out components against the gradient, is not part
of it here.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from compress_jax.codec import Metrics

Array = jax.Array
STATE = 'balance'  # Key of this state in the state of the loss.
RATE, DISTORTION = 'rate_term', 'distortion_term'  # Metrics of the loss.
DECAY = 0.003  # Pulls the logits towards 0.
_ADAM = optax.adam(0.025)


def start() -> dict[str, Any]:
  """Returns the state before the first step, with equal weights of both terms."""
  logits = jnp.zeros(2)
  return {'logits': logits, 'adam': _ADAM.init(logits)}


def weights(logits: Array, terms: Array) -> Array:
  """Returns f32[2], weights of the gradients of rate and distortion that sum up to 1.

  Args:
    logits: f32[2].
    terms: f32[2], rate and distortion of the batch, weighted as in the loss.
  """
  pulls = jax.nn.softmax(logits) / (1 + terms)
  return pulls / pulls.sum()


def balanced(state: dict[str, Any], terms: Array, axis: str | None) -> tuple[Array, Metrics]:
  """Returns a loss f32[] with balanced gradients, and the metrics that `learned` needs.

  Args:
    state: the state of `start`.
    terms: f32[2], rate and distortion of the examples on this device.
    axis: name of the mapped axis of devices, which share the weights; None for a single device.
  """
  known = lax.stop_gradient(terms)
  shared = known if axis is None else lax.pmean(known, axis)
  chosen = weights(state['logits'], shared)
  return chosen @ terms, {RATE: known[0], DISTORTION: known[1], 'rate_weight': chosen[0]}


def learned(state: dict[str, Any], before: Metrics, after: Metrics) -> dict[str, Any]:
  """Returns the state after a step, from the metrics of its batch before and after the update."""
  improved = [jnp.log((1 + before[name]) / (1 + after[name])) for name in (RATE, DISTORTION)]
  slope = jax.vjp(jax.nn.softmax, state['logits'])[1](jnp.stack(improved))[0]
  changes, adam = _ADAM.update(slope + DECAY * state['logits'], state['adam'])
  return {'logits': optax.apply_updates(state['logits'], changes), 'adam': adam}


def after_update(state: dict[str, Any], before: Metrics, after: Metrics) -> dict[str, Any]:
  """Returns the state of the loss with its balance updated by `learned`."""
  return {**state, STATE: learned(state[STATE], before, after)}
