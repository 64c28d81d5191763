"""The loop: what is told, saved and validated when, and how a run stops."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from compress_jax.codec import CodecError
from compress_jax.training import fit


class Saves:
  """Remembers what is saved: step, the step of the state, and the score once there is one."""

  def __init__(self):
    self.steps = []

  def save(self, step, tree):
    self.steps.append((step, int(tree.step), None))

  def score(self, step, value):
    assert self.steps[-1][0] == step
    self.steps[-1] = (*self.steps[-1][:2], value)


def state(step=0, failing=0):
  return SimpleNamespace(step=step, average='average', skipped=0, failing=failing)


def run(rhythm, *, first=0, stop_at=None, validate=None, failing=lambda step: 0, data='data'):
  """Dispatches whose loss is the number of their last step."""
  told, saves, given = [], Saves(), []

  def train_step(held, data, index):
    given.append(data)
    step = held.step + rhythm.inner
    sums = {'loss': np.float32(rhythm.inner * step), 'updates': np.float32(rhythm.inner)}
    return state(step, failing(step)), sums

  watch = fit.Watch(
    lambda step, means, seconds: told.append((step, means['loss'], seconds)),
    validate,
    lambda step: step == stop_at,
  )
  end = fit.fit(state(first), train_step, data, None, rhythm=rhythm, saves=saves, watch=watch)
  return end, told, saves, given


def test_metrics_are_averages_since_the_last_line():
  _, told, _, _ = run(fit.Rhythm(10, log=4, save=100))
  assert [(step, loss) for step, loss, _ in told] == [(4, 2.5), (8, 6.5), (10, 9.5)]
  assert all(seconds > 0 for _, _, seconds in told)


def test_checkpoints_come_when_they_are_due_and_at_the_end():
  _, _, saves, _ = run(fit.Rhythm(10, log=100, save=4))
  assert saves.steps == [(4, 4, None), (8, 8, None), (10, 10, None)]


def test_several_steps_per_dispatch_pass_what_is_due():
  _, told, saves, given = run(fit.Rhythm(12, inner=3, log=5, save=4))
  assert [step for step, _, _ in told] == [6, 12]
  assert [step for step, _, _ in saves.steps] == [6, 9, 12]
  assert len(given) == 4
  with pytest.raises(CodecError, match='10 steps are no multiple of 3'):
    run(fit.Rhythm(10, inner=3))


def test_validation_gets_the_state_and_gives_the_score_that_is_saved():
  seen = []

  def validate(step, state):
    seen.append((step, state.average))
    return step / 10

  _, _, saves, _ = run(fit.Rhythm(9, log=100, save=100, validate=4), validate=validate)
  assert seen == [(4, 'average'), (8, 'average'), (9, 'average')]
  assert saves.steps == [(4, 4, 0.4), (8, 8, 0.8), (9, 9, 0.9)]


@pytest.mark.parametrize('end', [CodecError('no export'), KeyboardInterrupt(), SystemExit()])
def test_a_validation_that_does_not_end_costs_no_training(end):
  def broken(step, state):
    assert saves.steps == [(4, 4, None)]  # A kill at this point cannot be told from one later.
    raise end

  saves = Saves()
  watch = fit.Watch(lambda step, means, seconds: None, broken, lambda step: False)
  train_step = lambda held, data, index: (state(held.step + 1), {'updates': np.float32(1)})  # noqa: E731
  with pytest.raises(type(end)):
    rhythm = fit.Rhythm(9, log=100, save=100, validate=4)
    fit.fit(state(), train_step, 'data', None, rhythm=rhythm, saves=saves, watch=watch)
  assert saves.steps == [(4, 4, None)]


def test_a_process_that_does_not_validate_saves_with_the_one_that_does():
  rhythm = fit.Rhythm(9, log=100, save=6, validate=4)
  _, _, both, _ = run(rhythm, validate=lambda step, state: 0.5)
  _, _, alone, _ = run(rhythm)
  assert [step for step, *_ in both.steps] == [step for step, *_ in alone.steps] == [4, 6, 8, 9]


def test_processes_meet_after_what_only_one_of_them_may_have_to_do(monkeypatch):
  seen = []

  class Told(Saves):
    def save(self, step, tree):
      seen.append(f'save {step}')
      super().save(step, tree)

  def train_step(held, data, index):
    seen.append(f'step from {held.step} on {data}')
    return state(held.step + 1), {'updates': np.float32(1)}

  def validate(step, state):
    seen.append(f'validate {step}')
    return 0.5

  monkeypatch.setattr(fit.jax, 'process_count', lambda: 2)
  monkeypatch.setattr(fit.processes, 'meet', lambda: seen.append('meet'))
  ahead = lambda step, held, data, index: seen.append(f'compile for {data}')  # noqa: E731
  monkeypatch.setattr(fit, 'compile_ahead', ahead)
  watch = fit.Watch(lambda step, means, seconds: None, validate)
  told = {'rhythm': fit.Rhythm(3, save=100, validate=2), 'saves': Told(), 'watch': watch}
  fit.fit(state(), train_step, iter('abc'), None, **told)
  assert seen == [
    *('compile for a', 'meet', 'step from 0 on a', 'step from 1 on b'),
    *('save 2', 'validate 2', 'meet', 'step from 2 on c', 'save 3', 'validate 3', 'meet'),
  ]


def test_a_run_that_is_stopped_is_saved_at_once_without_validation():
  def never(step, params):
    raise AssertionError

  end, told, saves, _ = run(fit.Rhythm(10, log=100, save=100), stop_at=3, validate=never)
  assert end.step == 3 and saves.steps == [(3, 3, None)]
  assert told[-1][0] == 3


def test_a_run_goes_on_where_it_was():
  end, told, saves, _ = run(fit.Rhythm(10, log=4, save=4), first=6)
  assert end.step == 10 and [step for step, _, _ in saves.steps] == [8, 10]
  assert told[0][:2] == (8, 7.5)


def test_a_run_that_was_complete_does_nothing():
  end, told, saves, given = run(fit.Rhythm(10), first=10)
  assert end.step == 10 and not told and not saves.steps and not given


def test_an_iterator_gives_each_dispatch_its_data():
  assert run(fit.Rhythm(3), data=iter('abc'))[3] == ['a', 'b', 'c']
  assert run(fit.Rhythm(3), data='abc')[3] == ['abc'] * 3


def test_a_run_whose_updates_all_fail_is_given_up():
  with pytest.raises(CodecError, match='the last 20 updates before step 24 were not finite'):
    run(fit.Rhythm(100, log=4, save=100), failing=lambda step: max(step - 4, 0))


def test_psnr_is_that_of_the_mean_squared_error():
  sums = [{'mse': np.float32(2 * 100), 'updates': np.float32(2)}]
  sums += [{'mse': np.float32(0), 'updates': np.float32(0)}]  # A dispatch of skipped updates.
  means = fit._means(sums)
  assert means == {'mse': 100, 'psnr': pytest.approx(28.1308, abs=1e-4)}


def test_a_run_ends_with_its_time(monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(fit.time, 'monotonic', lambda: clock[0])
  pace = fit.Pace(100.0, 1000)
  clock[0] = 40.0  # It compiles.
  assert pace(2) == 1000  # Nothing is known of the time of a step yet.
  clock[0] = 50.0
  assert pace(12) == 12 + 50  # A step takes a second.
  clock[0] = 80.0
  assert pace(22) == 22 + 10  # They take two now.
  clock[0] = 101.0
  assert pace(32) == 32


def test_the_loop_asks_for_its_end_and_keeps_whole_dispatches():
  asked = []

  def ending(step):
    asked.append(step)
    return 100 if step < 10 else 15

  def train_step(held, data, index):
    return held._replace(step=held.step + 2), {'loss': np.float32(0), 'updates': np.float32(2)}

  class State(NamedTuple):
    step: int
    total: int = 100
    average: str = 'average'
    skipped: int = 0
    failing: int = 0

  watch = fit.Watch(lambda step, means, seconds: None, None, ending=ending)
  rhythm, saves = fit.Rhythm(100, 2, log=12, save=1000), Saves()
  end = fit.fit(State(0), train_step, 'data', None, rhythm=rhythm, saves=saves, watch=watch)
  assert asked == [2, 10, 12] and end.step == 14 and int(end.total) == 14
