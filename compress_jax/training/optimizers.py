"""Optimizers of the adversarial stage, in which two groups learn at once or in turn."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from compress_jax.codec import Params

Array = jax.Array


def two_stage_optimizer(
  generator_tx: optax.GradientTransformation,
  discriminator_tx: optax.GradientTransformation,
  params: Params,
  *,
  clip: float = 1.0,
  whole: bool = False,
  alternate: bool = False,
) -> optax.GradientTransformation:
  """Returns the optimizer of `adversarial`: the codec's synthesis and the discriminator learn.

  The rest of the codec stays bit for bit as it is: latents and rates are those of the first
  stage. It has no optimizer state.

  Args:
    generator_tx, discriminator_tx: each sees the gradients of its group only.
    params: {'codec': ..., 'discriminator': ...}; only their structure counts.
    clip: largest norm of the gradients of each group.
    whole: whether all of the codec learns.
    alternate: whether the discriminator is updated at even steps only and the codec at odd ones;
      `update` then takes the step as a keyword.
  """
  clipped = optax.clip_by_global_norm(clip)
  groups = {
    'generator': optax.chain(clipped, generator_tx),
    'discriminator': optax.chain(clipped, discriminator_tx),
    'frozen': optax.set_to_zero(),
  }
  if alternate:
    groups['discriminator'] = in_turn(groups['discriminator'], 0)
    groups['generator'] = in_turn(groups['generator'], 1)
  return optax.partition(groups, groups_of(params, whole=whole))


def in_turn(tx: optax.GradientTransformation, turn: int) -> optax.GradientTransformationExtraArgs:
  """Returns an optimizer that is `tx` at every second step and changes nothing at the others.

  `update` takes as keywords the `step` of the run, counted from 0, and its `total`; `tx` is called
  with half of that total.

  Args:
    tx: an optimizer.
    turn: 0 for the even steps, 1 for the odd ones.
  """
  every = optax.with_extra_args_support(tx)

  def update(
    updates: Params,
    state: Any,
    params: Params | None = None,
    *,
    step: Array,
    total: Array,
    **_: Any,
  ) -> tuple[Params, Any]:
    def mine() -> tuple[Params, Any]:
      return every.update(updates, state, params, step=step, total=total // 2)

    def others() -> tuple[Params, Any]:
      return jax.tree.map(jnp.zeros_like, updates), state

    found: tuple[Params, Any] = lax.cond(step % 2 == turn, mine, others)
    return found

  return optax.GradientTransformationExtraArgs(tx.init, update)


def groups_of(params: Params, *, whole: bool = False) -> Params:
  """Returns the group of each parameter: 'generator', 'discriminator' or 'frozen'."""

  def labelled(tree: Params, group: str) -> Params:
    return jax.tree.map(lambda _: group, tree)

  codec = {
    name: labelled(part, 'generator' if whole or name == 'synthesis' else 'frozen')
    for name, part in params['codec'].items()
  }
  return {'codec': codec, 'discriminator': labelled(params['discriminator'], 'discriminator')}
