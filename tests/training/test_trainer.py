"""One step: the same on any number of devices, a function of its seed, safe from NaNs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from compress_jax.codec import CodecError
from compress_jax.images import crops
from compress_jax.training import objectives, trainer

OPTIMIZER = trainer.adam(1e-2)
WEIGHTS = {
  'w': np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
  'b': np.zeros(4, np.float32),
}


def loss(params, state, x, keys, step):
  """A regression with noise of its own for every example, and a state that counts."""
  noise = jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys)
  out = jnp.tanh(x.mean((1, 2)) @ params['w'] + params['b'] + 0.1 * noise)
  total = jnp.mean((out - x.std((1, 2, 3))[:, None]) ** 2)
  return total, ({'calls': state['calls'] + 1}, {'loss': total, 'mean': out.mean()})


def batches(steps, size=8):
  return np.random.default_rng(0).integers(0, 256, (steps, size, 4, 4, 3)).astype(np.uint8)


@functools.cache  # Compiling takes longest.
def made_step(loss, seed, inner, decay):
  return trainer.make_train_step(loss, OPTIMIZER, seed=seed, inner=inner, decay=decay)


def run(devices, steps, *, inner=1, loss=loss, seed=0, decay=0.9):
  """The state after some steps on the first of the host's devices."""
  step = made_step(loss, seed, inner, decay)
  state = trainer.start(WEIGHTS, {'calls': np.zeros((), np.int32)}, OPTIMIZER, 100)
  data = batches(steps)
  index = np.arange(8, dtype=np.int32).reshape(devices, -1)
  history = []
  for first in range(0, steps, inner):
    part = data[first : first + inner]
    shared = part.reshape(inner, devices, -1, *part.shape[2:]).swapaxes(0, 1)
    state, metrics = step(state, shared, index)
    history.append(jax.tree.map(float, metrics))
  return state, history


def leaves(tree):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def distance(one, other):
  return max(np.abs(a - b).max() for a, b in zip(leaves(one), leaves(other), strict=True))


@pytest.mark.parametrize('steps,limit', [(1, 1e-6), (20, 1e-4)])
def test_the_number_of_devices_changes_only_rounding(steps, limit):
  one, _ = run(1, steps)
  four, _ = run(4, steps)
  assert distance(one.params, four.params) < limit
  assert distance(one.params, WEIGHTS) > 100 * limit  # They have moved at all.


def test_all_devices_hold_equal_parameters():
  state, _ = run(4, 20)
  for leaf in jax.tree.leaves(state.params):
    shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
    assert len(shards) == 4
    for shard in shards[1:]:
      np.testing.assert_array_equal(shard, shards[0])


def test_several_steps_in_one_dispatch_are_the_same_steps():
  one, history = run(2, 6)
  scanned, sums = run(2, 6, inner=3)
  assert distance(one.params, scanned.params) < 1e-6
  for i in range(2):
    expected = sum(metrics['loss'] for metrics in history[3 * i : 3 * i + 3])
    assert sums[i]['loss'] == pytest.approx(expected, rel=1e-5)
    assert sums[i]['updates'] == 3


def test_a_seed_decides_the_run():
  one, same, other = (run(2, 3, seed=seed)[0] for seed in (5, 5, 6))
  assert distance(one, same) == 0 < distance(one.params, other.params)


def test_noise_belongs_to_the_example_and_the_step():
  index = jnp.arange(8)
  whole = jax.random.key_data(trainer.example_keys(3, jnp.asarray(7), index))
  part = jax.random.key_data(trainer.example_keys(3, jnp.asarray(7), index[4:]))
  np.testing.assert_array_equal(whole[4:], part)
  other = jax.random.key_data(trainer.example_keys(3, jnp.asarray(8), index))
  keys = {tuple(key) for key in np.concatenate([whole, other]).tolist()}
  assert len(keys) == 16


def test_an_update_that_is_not_finite_is_counted_and_left_out():
  def poisoned(params, state, x, keys, step):
    total, aux = loss(params, state, x, keys, step)
    bad = jnp.where((step == 2) | (step == 3), jnp.nan, 0.0)
    return total + bad * params['b'].sum(), aux

  before, _ = run(2, 2, loss=poisoned)
  after, history = run(2, 4, loss=poisoned)
  for name in ('params', 'average', 'opt_state', 'state'):
    assert distance(getattr(before, name), getattr(after, name)) == 0
  assert (int(after.step), int(after.skipped), int(after.failing)) == (4, 2, 2)
  assert history[2] == dict.fromkeys(history[2], 0.0)  # No NaN in the averages either.
  later, _ = run(2, 5, loss=poisoned)
  assert (int(later.skipped), int(later.failing)) == (2, 0)
  assert distance(before.params, later.params) > 0


def test_an_infinite_gradient_of_a_finite_loss_is_left_out():
  def steep(params, state, x, keys, step):
    total, aux = loss(params, state, x, keys, step)
    return total + jnp.sqrt(jnp.abs(params['b']) + 0.0).sum(), aux  # Infinite slope at 0.

  after, _ = run(1, 1, loss=steep)
  assert int(after.skipped) == 1 and distance(after.params, WEIGHTS) == 0


def test_the_average_follows_the_definition():
  state, _ = run(1, 3, decay=0.9)
  average = WEIGHTS['w']
  for made in range(3):
    kept = min(0.9, (1 + made) / (10 + made))
    average = kept * average + (1 - kept) * np.asarray(run(1, made + 1)[0].params['w'])
  np.testing.assert_allclose(state.average['w'], average, atol=1e-6)


def test_gradients_are_clipped():
  optimizer = trainer.adam(1e-2, clip=1.0)
  clipped, _ = optax.clip_by_global_norm(1.0).update({'w': jnp.full(4, 50.0)}, optax.EmptyState())
  params = {'w': jnp.zeros(4)}
  states = [
    optimizer.update({'w': jnp.asarray(g)}, optimizer.init(params), params, total=100)[1]
    for g in (jnp.full(4, 50.0), clipped['w'])
  ]
  assert distance(*states) < 1e-6


def test_draw_makes_batches_of_data_on_the_device():
  images = [np.full((9, 9, 3), value, np.uint8) for value in (10, 200)]
  seen = []

  def watching(params, state, x, keys, step):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
    return loss(params, state, x, keys, step)

  optimizer = trainer.adam(1e-2)
  draw = lambda held, keys: crops.crops(held, keys, 8)  # noqa: E731
  step = trainer.make_train_step(watching, optimizer, seed=0, draw=draw)
  state = trainer.start(WEIGHTS, {'calls': np.zeros((), np.int32)}, optimizer, 100)
  data = trainer.replicated(crops.store(images))
  for _ in range(2):
    state, _ = step(state, data, np.arange(8, dtype=np.int32).reshape(2, 4))
  jax.effects_barrier()
  values = np.concatenate(seen).mean((1, 2, 3)) * 255
  assert set(np.rint(values).tolist()) == {10.0, 200.0}


@pytest.mark.parametrize('batch', [0, 6, 9])
def test_a_batch_that_does_not_divide_is_refused(batch):
  with pytest.raises(CodecError, match=f'a batch of {batch} does not divide among 8 devices'):
    trainer.shares(batch, 2, 4)
  assert trainer.shares(16, 2, 4) == 2


def test_a_step_of_a_hard_batch_counts_no_more_than_another():
  rng = np.random.default_rng(0)
  params = {'a': jnp.zeros(50), 'b': jnp.zeros((2, 3))}
  draw = lambda v: rng.normal(size=v.shape).astype(np.float32)  # noqa: E731
  first, second = (jax.tree.map(draw, params) for _ in range(2))
  optimizer = trainer.adam(1e-2)

  def after(scale):
    state, moved = optimizer.init(params), params
    for grads in (first, jax.tree.map(lambda g: scale * g, second), first):
      updates, state = optimizer.update(grads, state, total=100)
      moved = optax.apply_updates(moved, updates)
    return moved

  for one, other in zip(*map(jax.tree.leaves, (after(1.0), after(100.0))), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4)
    assert np.abs(one).min() > 0


@pytest.mark.parametrize('total', [40, 20_000])
def test_the_learning_rate_is_that_of_optax_where_the_total_is_known(total):
  warm = min(500, total // 10)
  expected = optax.warmup_cosine_decay_schedule(0.02, 1.0, warm, total, 0.02)
  for step in (0, 1, warm // 2, warm, total // 2, total - 1, total, total + 5):
    found = jax.jit(trainer.schedule, static_argnums=0)(1.0, step, total)
    assert float(found) == pytest.approx(float(expected(step)), abs=1e-5)


def test_the_end_of_a_run_may_change_without_another_compilation():
  traces = []

  def watched(*given):
    traces.append(0)
    return loss(*given)

  step = trainer.make_train_step(watched, OPTIMIZER, seed=0)
  state = trainer.replicated(
    trainer.start(WEIGHTS, {'calls': np.zeros((), np.int32)}, OPTIMIZER, 10**9)
  )
  data, index = batches(3), np.arange(8, dtype=np.int32).reshape(len(jax.local_devices()), -1)
  for i in range(3):
    state, _ = step(state, data[i].reshape(len(index), 1, -1, 4, 4, 3), index)
    state = state._replace(total=trainer.replicated(np.int32(100 - i)))
  assert int(state.step) == 3 and int(state.total) == 98 and len(traces) == 1


def test_a_step_that_was_compiled_ahead_is_not_compiled_again():
  compiled = []
  state = trainer.replicated(
    trainer.start(WEIGHTS, {'calls': np.zeros((), np.int32)}, OPTIMIZER, 100)
  )
  step = trainer.make_train_step(loss, OPTIMIZER, seed=11)
  arguments = batches(1).reshape(4, 1, 2, 4, 4, 3), np.arange(8, dtype=np.int32).reshape(4, 2)

  def listen(event, seconds, **more):
    if event.endswith('backend_compile_duration'):
      compiled.append(more.get('fun_name', 'unnamed'))

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    trainer.compile_ahead(step, state, *arguments)
    assert compiled and int(state.step) == 0  # Nothing was computed.
    compiled.clear()
    assert int(step(state, *arguments)[0].step) == 1
    assert not compiled
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def test_the_weights_of_a_loss_are_an_argument_of_the_program_and_not_constants_in_it():
  """The same program takes others, and none of its tensors is written out."""
  fixed = np.random.default_rng(0).normal(size=999).astype(np.float32)

  def weighted(weights, params, state, x, keys, step):
    total, (state, metrics) = loss(params, state, x, keys, step)
    return total, (state, {**metrics, 'seen': weights.sum()})

  bound = objectives.Weighted(weighted, fixed)
  step = trainer.make_train_step(bound, OPTIMIZER, seed=0)
  state = lambda: trainer.start(WEIGHTS, {'calls': np.zeros((), np.int32)}, OPTIMIZER, 100)  # noqa: E731
  data, index = batches(1)[None], np.arange(8, dtype=np.int32)[None]
  text = step.lower(state(), data, index).as_text()
  assert 'tensor<999xf32>' in text and 'dense<"0x' not in text
  others = step._replace(weights=fixed + 1)
  for made, weights in ((step, fixed), (others, fixed + 1)):
    np.testing.assert_allclose(made(state(), data, index)[1]['seen'], weights.sum(), rtol=1e-5)
  plain = trainer.make_train_step(loss, OPTIMIZER, seed=0)(state(), data, index)[0]
  assert distance(step(state(), data, index)[0].params, plain.params) < 1e-7
