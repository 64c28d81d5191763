"""Training: one pmapped step, in which everything random is a function of (seed, step, example).

The number of devices changes nothing but the order of sums, and a run that goes on from a
checkpoint is the run that was never broken.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from compress_jax.codec import Array, CodecError, Key, Metrics, Params
from compress_jax.training.objectives import LossFn, State, Weighted

Draw = Callable[[Any, Key], Array]  # Of data on the device and Key[B]: f32[B, H, W, 3].
AVERAGE = 0.999
# Far below the usual norms (1.4 to 2.3 for trained weights of gmm, 5 to 13 for fresh ones), so that
# every step counts alike: crops differ tenfold in error, and the hardest would rule Adam's average
# of squares.
CLIP = 0.05


class TrainState(NamedTuple):
  """Everything that a checkpoint holds."""

  step: Array  # i32[], updates tried so far,
  total: Array  # i32[], and those after which the run ends, with its learning rate.
  params: Params
  average: Params  # Exponential moving average of params: what is released.
  opt_state: Any
  state: State
  skipped: Array  # i32[], updates that were not finite and therefore not made,
  failing: Array  # i32[], and how many of these were the last ones.


class Step(NamedTuple):
  """A compiled step, (TrainState, data, index) to (TrainState, Metrics)."""

  compiled: Any  # Of jax.pmap, with the weights as its last argument.
  weights: Any  # Of the loss, on all devices.

  def __call__(self, state: TrainState, data: Any, index: Any) -> tuple[TrainState, Metrics]:
    """Makes the updates; `state` is donated."""
    found: tuple[TrainState, Metrics] = self.compiled(state, data, index, self.weights)
    return found

  def lower(self, state: TrainState, data: Any, index: Any) -> Any:
    """Returns what jax.jit's `lower` returns, for arguments of these shapes."""
    return self.compiled.lower(state, data, index, self.weights)


@contextmanager
def usual_settings() -> Iterator[None]:
  """JAX with the defaults that decide types and random numbers, whatever the environment says.

  Under JAX_ENABLE_X64 the same plan would have another state, which its checkpoints do not hold.
  """
  with (
    jax.enable_x64(False),
    jax.numpy_dtype_promotion('standard'),
    jax.default_prng_impl('threefry2x32'),
    jax.threefry_partitionable(True),
  ):
    yield


def start(
  params: Params, state: State, optimizer: optax.GradientTransformation, steps: int
) -> TrainState:
  """The state before the first of so many updates."""
  zero: Any = np.zeros((), np.int32)
  total: Any = np.asarray(steps, np.int32)
  return TrainState(zero, total, params, params, optimizer.init(params), state, zero, zero)


def finished(state: TrainState) -> bool:
  """Whether a run has made all of its updates."""
  return int(state.step) >= int(state.total)


def replicated(tree: Any) -> Any:
  """Copies on all local devices, laid out as by a pmapped step: else it would compile twice."""
  mesh = Mesh(np.array(jax.local_devices()), ('device',))
  place = lambda leaf: jax.device_put(np.array(leaf), NamedSharding(mesh, PartitionSpec()))  # noqa: E731
  return jax.tree.map(place, tree)  # Each a buffer of its own: those that are donated must be.


def schedule(lr: float, count: Array, total: Array) -> Array:
  """The learning rate of update `count` of `total`: a warm-up, then a cosine down to 2 % of `lr`.

  The warm-up takes a tenth of the updates, but at most 500. The total is an argument of the
  compiled step, so that a run whose end is found while it trains needs no second compilation.
  """
  warm = jnp.minimum(500.0, total / 10)
  rise = count / jnp.maximum(warm, 1e-6)
  place = jnp.clip((count - warm) / jnp.maximum(total - warm, 1e-6), 0, 1)
  fall = (1 + jnp.cos(jnp.pi * place)) / 2
  return lr * (0.02 + 0.98 * jnp.where(rise < 1, rise, fall))


class ScheduleState(NamedTuple):
  """How many updates `scheduled` has scaled."""

  made: Array  # i32[]


def scheduled(lr: float) -> optax.GradientTransformationExtraArgs:
  """Multiplies updates by minus the `schedule`; `update` takes the run's `total` as a keyword."""

  def init(params: Params) -> ScheduleState:
    del params
    return ScheduleState(jnp.zeros((), jnp.int32))

  def update(
    updates: Params, state: ScheduleState, params: Params | None = None, *, total: Array, **_: Any
  ) -> tuple[Params, ScheduleState]:
    del params
    rate = schedule(lr, state.made, total)
    return jax.tree.map(lambda u: -rate * u, updates), ScheduleState(state.made + 1)

  return optax.GradientTransformationExtraArgs(init, update)


def unclipped_adam(lr: float, *, b1: float = 0.9) -> optax.GradientTransformationExtraArgs:
  """Adam at the rate of `schedule`."""
  return optax.chain(optax.scale_by_adam(b1=b1), scheduled(lr))


def adam(lr: float, *, clip: float = CLIP) -> optax.GradientTransformationExtraArgs:
  """Adam on clipped gradients (Ballé et al. and HiFiC do not clip; Muckley et al. 2023 do)."""
  return optax.chain(optax.clip_by_global_norm(clip), unclipped_adam(lr))


def example_keys(seed: int, step: Array, index: Array) -> Key:
  """Key[B] of the examples i32[B] of a step's global batch."""
  key = jax.random.fold_in(jax.random.key(seed), step)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def shares(batch: int, processes: int, devices: int) -> int:
  """Examples of a global batch that each device gets.

  Raises:
    CodecError: it does not divide.
  """
  each, rest = divmod(batch, processes * devices)
  if rest or not each:
    raise CodecError(
      f'a batch of {batch} does not divide among {processes * devices} devices '
      f'({processes} x {devices})'
    )
  return each


def make_train_step(
  loss: LossFn,
  optimizer: optax.GradientTransformation,
  *,
  seed: int,
  draw: Draw | None = None,
  inner: int = 1,
  decay: float = AVERAGE,
) -> Step:
  """Returns a pmapped `train_step(state, data, index) -> (state, metrics)` of `inner` updates.

  `state` is donated and has no device axis. `index` is i32[N, B], over N local devices: which
  examples of the global batch each computes. `data` is replicated if there is a `draw`, which
  makes crops of it; else it is u8[N, inner, B, H, W, 3]. Metrics are sums over the updates that
  were made, and `updates` counts these. The weights of a `Weighted` loss are an argument of
  the program, not constants in it.
  """

  def update(state: TrainState, x: Array, keys: Key, weights: Any) -> tuple[TrainState, Metrics]:
    of = functools.partial(loss.of, weights) if isinstance(loss, Weighted) else loss
    grads, (extra, metrics) = jax.grad(of, has_aux=True)(
      state.params, state.state, x, keys, state.step
    )
    grads, metrics = lax.pmean((grads, dict(metrics)), 'device')
    norm = optax.tree.norm(grads)
    good = jnp.isfinite(norm) & jnp.isfinite(metrics['loss'])

    def made() -> TrainState:
      with jax.numpy_dtype_promotion('standard'):  # optax mixes integers and floats.
        changes, opt_state = optimizer.update(
          grads, state.opt_state, state.params, total=state.total
        )
      params = optax.apply_updates(state.params, changes)
      count = state.step - state.skipped
      kept = jnp.minimum(decay, (1 + count) / (10 + count))  # Forgets the start sooner.
      average = jax.tree.map(lambda a, p: kept * a + (1 - kept) * p, state.average, params)
      return state._replace(
        params=params, average=average, opt_state=opt_state, state=extra, failing=zero
      )

    def left_out() -> TrainState:
      return state._replace(skipped=state.skipped + 1, failing=state.failing + 1)

    zero = jnp.zeros_like(state.failing)
    new = lax.cond(good, made, left_out)._replace(step=state.step + 1)
    metrics = {**metrics, 'gradient': norm, 'updates': jnp.ones(())}
    return new, jax.tree.map(lambda value: jnp.where(good, value, 0.0), metrics)

  def train_step(
    state: TrainState, data: Any, index: Array, weights: Any
  ) -> tuple[TrainState, Metrics]:
    def one(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
      keys = jax.vmap(jax.random.split, out_axes=1)(example_keys(seed, state.step, index))
      x: Array = jnp.float32(batch) / 255 if draw is None else draw(data, keys[0])
      return update(state, x, keys[1], weights)

    if inner == 1:  # XLA's CPU code is slower inside of loops.
      return one(state, None if draw else data[0])
    state, metrics = lax.scan(one, state, None if draw else data, inner)
    return state, jax.tree.map(lambda values: values.sum(0), metrics)

  optimizer = optax.with_extra_args_support(optimizer)
  axes = (None, None if draw else 0, 0, None)
  compiled = jax.pmap(train_step, 'device', in_axes=axes, out_axes=None, donate_argnums=0)
  return Step(compiled, replicated(loss.weights) if isinstance(loss, Weighted) else ())


def compile_ahead(train_step: Step, state: TrainState, data: Any, index: np.ndarray) -> None:
  """Compiles a step of `make_train_step`, so that its first call with such arguments need not.

  Where the first call compiles, the other processes wait for it inside of their step.
  """
  train_step.lower(state, data, index).compile()
