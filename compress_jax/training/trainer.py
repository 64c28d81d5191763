"""The training step, pmapped; everything random is a function of (seed, step, example).

The number of devices changes only the order of sums, and a run that continues from a
checkpoint equals the unbroken run.
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

Draw = Callable[[Any, Key], Array]  # Returns f32[B, H, W, 3] from data on the device and Key[B].
AVERAGE = 0.999
AXIS = 'device'  # Name of the mapped axis of a step.
# Far below the usual norms (1.4 to 2.3 for trained weights of gmm, 5 to 13 for fresh ones), so that
# all steps have the same weight: crops differ tenfold in error, and the hardest would dominate
# Adam's average of squares.
CLIP = 0.05


class TrainState(NamedTuple):
  """The complete state of training, which checkpoints hold."""

  step: Array  # i32[], number of updates tried so far.
  total: Array  # i32[], number of updates of the run; the learning rate depends on it.
  params: Params
  average: Params  # Exponential moving average of params, which is released.
  opt_state: Any
  state: State
  skipped: Array  # i32[], number of updates that were skipped because they were not finite.
  failing: Array  # i32[], number of consecutive skipped updates up to the last one.


class Step(NamedTuple):
  """A compiled training step: (TrainState, data, index) to (TrainState, Metrics)."""

  compiled: Any  # The pmapped function, with the weights as its last argument.
  weights: Any  # Weights of the loss, on all devices.

  def __call__(self, state: TrainState, data: Any, index: Any) -> tuple[TrainState, Metrics]:
    """Makes the updates; `state` is donated."""
    result: tuple[TrainState, Metrics] = self.compiled(state, data, index, self.weights)
    return result

  def lower(self, state: TrainState, data: Any, index: Any) -> Any:
    """Returns the lowered program for arguments of these shapes, as `lower` of jax.jit."""
    return self.compiled.lower(state, data, index, self.weights)


@contextmanager
def usual_settings() -> Iterator[None]:
  """Sets JAX's defaults for types and random numbers, whatever the environment says.

  Under JAX_ENABLE_X64 the same plan would have another state, which does not fit its checkpoints.
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
  """Returns the state before the first of `steps` updates."""
  zero: Any = np.zeros((), np.int32)
  total: Any = np.asarray(steps, np.int32)
  return TrainState(zero, total, params, params, optimizer.init(params), state, zero, zero)


def finished(state: TrainState) -> bool:
  """Returns whether a run has made all of its updates."""
  return int(state.step) >= int(state.total)


def replicated(tree: Any) -> Any:
  """Returns copies on all local devices, with the layout of a pmapped step's results.

  Another layout would compile the step a second time.
  """
  mesh = Mesh(np.array(jax.local_devices()), ('device',))
  place = lambda leaf: jax.device_put(np.array(leaf), NamedSharding(mesh, PartitionSpec()))  # noqa: E731
  return jax.tree.map(place, tree)  # Separate buffers, because steps donate them.


def schedule(lr: float, count: Array, total: Array) -> Array:
  """Returns the learning rate of update `count` of `total`: a warm-up, then a cosine decay.

  The warm-up takes a tenth of the updates, but at most 500; the cosine ends at 2 % of `lr`. The
  total is an argument of the compiled step, so that a run whose end is decided during training
  needs no second compilation.
  """
  warm = jnp.minimum(500.0, total / 10)
  rise = count / jnp.maximum(warm, 1e-6)
  progress = jnp.clip((count - warm) / jnp.maximum(total - warm, 1e-6), 0, 1)
  fall = (1 + jnp.cos(jnp.pi * progress)) / 2
  return lr * (0.02 + 0.98 * jnp.where(rise < 1, rise, fall))


class ScheduleState(NamedTuple):
  """The number of updates that `scheduled` has scaled."""

  made: Array  # i32[]


def scheduled(lr: float) -> optax.GradientTransformationExtraArgs:
  """Returns a transformation that multiplies updates by minus the `schedule`.

  Its `update` takes the run's `total` as a keyword.
  """

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
  """Returns Adam at the rate of `schedule`."""
  return optax.chain(optax.scale_by_adam(b1=b1), scheduled(lr))


def adam(lr: float, *, clip: float = CLIP) -> optax.GradientTransformationExtraArgs:
  """Returns Adam on clipped gradients.

  Ballé et al. and HiFiC do not clip; Muckley et al. 2023 do.
  """
  return optax.chain(optax.clip_by_global_norm(clip), unclipped_adam(lr))


def example_keys(seed: int, step: Array, index: Array) -> Key:
  """Returns Key[B], the keys of the examples i32[B] of a step's global batch."""
  key = jax.random.fold_in(jax.random.key(seed), step)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def shares(batch: int, processes: int, devices: int) -> int:
  """Returns the number of examples of a global batch that each device gets.

  Raises:
    CodecError: the batch does not divide evenly.
  """
  each, remainder = divmod(batch, processes * devices)
  if remainder or not each:
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

  `state` is donated and has no device axis. `index` is i32[N, B], over N local devices: the
  examples of the global batch that each computes. `data` is replicated if there is a `draw`, which
  makes crops of it; else it is u8[N, inner, B, H, W, 3]. Metrics are sums over the updates that
  were made, and `updates` counts these. The weights of a `Weighted` loss are an argument of
  the program, not constants in it.
  """

  def update(state: TrainState, x: Array, keys: Key, weights: Any) -> tuple[TrainState, Metrics]:
    of = functools.partial(loss.of, weights) if isinstance(loss, Weighted) else loss
    grads, (extra, metrics) = jax.grad(of, has_aux=True)(
      state.params, state.state, x, keys, state.step
    )
    grads, metrics = lax.pmean((grads, dict(metrics)), AXIS)
    norm = optax.tree.norm(grads)
    good = jnp.isfinite(norm) & jnp.isfinite(metrics['loss'])

    def made() -> TrainState:
      with jax.numpy_dtype_promotion('standard'):  # optax mixes integers and floats.
        changes, opt_state = optimizer.update(
          grads, state.opt_state, state.params, step=state.step, total=state.total
        )
      params = optax.apply_updates(state.params, changes)
      count = state.step - state.skipped
      # A faster decay at first forgets the initial weights.
      kept = jnp.minimum(decay, (1 + count) / (10 + count))
      average = jax.tree.map(lambda a, p: kept * a + (1 - kept) * p, state.average, params)
      return state._replace(
        params=params, average=average, opt_state=opt_state, state=extra, failing=zero
      )

    def left_out() -> TrainState:
      return state._replace(skipped=state.skipped + 1, failing=state.failing + 1)

    zero = jnp.zeros_like(state.failing)
    new = lax.cond(good, made, left_out)._replace(step=state.step + 1)
    if after_update is not None:
      _, (_, later) = of(new.params, new.state, x, keys, state.step)
      taught = after_update(new.state, metrics, lax.pmean(dict(later), AXIS))
      sound = good & jnp.isfinite(optax.tree.norm(taught))
      new = new._replace(state=jax.tree.map(lambda a, b: jnp.where(sound, a, b), taught, new.state))
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

  after_update = loss.after_update if isinstance(loss, Weighted) else None
  optimizer = optax.with_extra_args_support(optimizer)
  axes = (None, None if draw else 0, 0, None)
  compiled = jax.pmap(train_step, AXIS, in_axes=axes, out_axes=None, donate_argnums=0)
  return Step(compiled, replicated(loss.weights) if isinstance(loss, Weighted) else ())


def compile_ahead(train_step: Step, state: TrainState, data: Any, index: np.ndarray) -> None:
  """Compiles a step of `make_train_step` before its first call with such arguments.

  If the first call compiled, the other processes would wait for it inside their step.
  """
  train_step.lower(state, data, index).compile()
