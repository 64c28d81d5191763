"""Draws of levels for the examples of a batch, where a model of every rate is trained."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from compress_jax.codec import Key

Array = jax.Array
LEVELS = 256  # Number of level bytes.
# A function of the keys Key[B] of examples and the step i32[], to level bytes i32[B].
LevelDraw = Callable[[Key, Array], Array]
EVEN, STRATIFIED, ENDS = 'even', 'stratified', 'ends'
KINDS = EVEN, STRATIFIED, ENDS


def draw_of(kind: str, *, seed: int, axis: str | None = None) -> LevelDraw | None:
  """Returns the function that draws levels under a name in `KINDS`; None for 'even'.

  With 'even' levels are drawn uniformly.

  Args:
    kind: 'even', or the name of the function that draws.
    seed: seed of the run.
    axis: name of the mapped axis of devices; None for a single device.
  """
  if kind == STRATIFIED:
    return functools.partial(stratified, seed=seed, axis=axis)
  return ends if kind == ENDS else None


def ends(keys: Key, step: Array) -> Array:
  """Returns levels of the arcsine distribution, which favours both ends of the range.

  The lowest and the highest quarter of the levels are drawn in a third of the examples each. The
  levels at an end learn from one side alone: no rate beyond shares their gains.
  """
  del step
  shares = jax.vmap(jax.random.uniform)(keys)
  places = LEVELS * jnp.sin(0.5 * jnp.pi * shares) ** 2
  return jnp.minimum(places.astype(jnp.int32), LEVELS - 1)


def stratified(keys: Key, step: Array, *, seed: int, axis: str | None) -> Array:
  """Returns levels with equal distances between those of the examples of the global batch.

  The first level is drawn uniformly, so every level is equally likely for each example, yet no
  batch consists of high or of low rates alone. The random key is the run's seed folded with the
  step and the batch size, an index that no example of the batch uses.
  """
  device, devices = (0, 1) if axis is None else (lax.axis_index(axis), lax.psum(1, axis))
  batch = len(keys) * devices
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), batch)
  first = jax.random.randint(key, (), 0, LEVELS * batch)
  places = first + LEVELS * (device * len(keys) + jnp.arange(len(keys)))
  return (places // batch) % LEVELS
