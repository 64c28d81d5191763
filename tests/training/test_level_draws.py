"""Levels that a batch draws have the distribution and the distances that their names promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax.cli import fit, main
from compress_jax.cli.command import parse
from compress_jax.codec import CodecError
from compress_jax.methods.cae import codec as cae
from compress_jax.training import level_draws, stages, trainer
from tests.helpers.small_plans import OPTIONS, PLAN

STEP = jnp.asarray(3)


def keys_of(n):
  return jax.random.split(jax.random.key(5), n)


def test_the_ends_get_a_third_of_the_examples_for_a_quarter_of_the_levels_each():
  found = np.asarray(level_draws.ends(keys_of(9000), STEP))
  assert found.min() == 0 and found.max() == 255
  shares = np.histogram(found, [0, 64, 128, 192, 256])[0] / 9000
  # sin^2 of a sixth, a quarter and a third of a half turn is 1/4, 1/2 and 3/4.
  np.testing.assert_allclose(shares, [1 / 3, 1 / 6, 1 / 6, 1 / 3], atol=0.025)


def stratified(steps, batch, devices=1):
  """Levels i32[steps, batch] of batches that are shared by the first of the host's devices."""
  draw = level_draws.draw_of('stratified', seed=7, axis=trainer.AXIS)
  keys = keys_of(batch).reshape(devices, -1)
  run = jax.pmap(draw, trainer.AXIS, in_axes=(0, None))
  return np.array([np.asarray(run(keys, step)).ravel() for step in range(steps)])


@pytest.mark.parametrize('batch', [4, 8])
def test_levels_of_a_batch_have_equal_distances_around_the_range(batch):
  found = stratified(20, batch)
  expected = found[:, :1] + 256 // batch * np.arange(batch)
  np.testing.assert_array_equal(found, expected % 256)
  assert len(set(found[:, 0])) > 10  # The first is drawn anew in each step.


def test_a_batch_of_a_number_that_does_not_divide_the_levels_is_as_even_as_can_be():
  ordered = np.sort(stratified(20, 3), 1)
  gaps = np.diff(np.concatenate([ordered, ordered[:, :1] + 256], 1))
  assert set(gaps.ravel()) <= {85, 86}


def test_each_example_sees_all_levels_evenly():
  draw = jax.jit(functools.partial(level_draws.stratified, seed=0, axis=None))
  found = np.asarray(jax.vmap(lambda step: draw(keys_of(4), step))(jnp.arange(3000)))
  for levels in found.T:
    # Standard errors: 1.35 of the mean, 0.6 of the deviation.
    assert abs(levels.mean() - 127.5) < 6 and abs(levels.std() - 73.9) < 3


def test_the_number_of_devices_changes_no_level():
  one = stratified(5, 8)
  np.testing.assert_array_equal(stratified(5, 8, 2), one)
  np.testing.assert_array_equal(stratified(5, 8, 4), one)


def test_a_run_trains_with_the_draw_of_its_plan():
  told = '--mode=train', '--method=cae', '--set=level_draw=ends'
  assert fit.plan_of(parse(main.define_flags(), None, ['run.py', *told])).level_draw == 'ends'
  with pytest.raises(CodecError, match='level_draw=most is not one of even, stratified, ends'):
    fit.plan_of(parse(main.define_flags(), None, ['run.py', *told[:-1], '--set=level_draw=most']))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'lmbda': 0.013}, 'level_draw=ends is for a model of every rate'),
    ({'stage': 'scales', 'start': 'x'}, 'level_draw=ends is not of the stage scales'),
  ],
)
def test_a_draw_without_levels_to_draw_is_refused(change, message):
  plan = PLAN._replace(level_draw='ends', **change)
  with pytest.raises(CodecError, match=message):
    stages.setup_of(plan, cae.codec(**OPTIONS))
