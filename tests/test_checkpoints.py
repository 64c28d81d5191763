"""Checkpoints come back bit for bit; damaged ones are named and left out."""

import os
import shutil

import jax
import numpy as np
import pytest

from compress_jax import checkpoints
from compress_jax.checkpoints import Checkpoints
from compress_jax.codec import CodecError


def tree(step):
  rng = np.random.default_rng(step)
  weights = {'kernel': rng.normal(0, 1, (40, 50)).astype(np.float32), 'bias': np.zeros(3)}
  return {'step': np.array(step, np.int32), 'params': weights, 'state': {}}


@pytest.fixture
def lines():
  return []


@pytest.fixture
def opened(tmp_path, lines):
  made = []

  def make():
    made.append(Checkpoints(tmp_path / 'c', lines.append))
    return made[-1]

  yield make
  for saves in made:
    saves.close()


def save(saves, *steps, scores=None):
  for step in steps:
    saves.save(step, tree(step), (scores or {}).get(step))


def equal(one, other):
  flat = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in flat)


def damage(folder, step):
  """Cuts the largest file of a step in half."""
  files = [path for path in (folder / str(step)).rglob('*') if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  os.truncate(largest, largest.stat().st_size // 2)


def test_the_newest_comes_back_in_another_process(opened):
  saves = opened()
  assert saves.restore(tree(0)) is None
  save(saves, 5, 10)
  found = opened().restore(tree(0))
  assert equal(found, tree(10)) and not equal(found, tree(5))


def test_the_last_three_and_the_best_are_kept(opened, tmp_path):
  save(opened(), 1, 2, 3, 4, 5, 6, scores={1: 0.9, 2: 0.3, 6: 0.5})
  kept = sorted(int(path.name) for path in (tmp_path / 'c').iterdir() if path.name.isdigit())
  assert kept == [2, 4, 5, 6]
  assert opened().best() == (2, 0.3)


def test_a_truncated_checkpoint_is_named_and_the_one_before_is_taken(opened, tmp_path, lines):
  save(opened(), 5, 10)
  damage(tmp_path / 'c', 10)
  saves = opened()
  assert equal(saves.restore(tree(0)), tree(5))
  assert len(lines) == 1 and lines[0].startswith('warning: checkpoint 10 is damaged')
  save(saves, 10)  # The run comes to that step again.
  assert equal(opened().restore(tree(0)), tree(10))


def test_a_checkpoint_that_lost_a_file_is_left_out(opened, tmp_path, lines):
  save(opened(), 5, 10)
  files = [path for path in (tmp_path / 'c' / '10').rglob('*') if path.is_file()]
  max(files, key=lambda path: path.stat().st_size).unlink()
  assert equal(opened().restore(tree(0)), tree(5)) and len(lines) == 1


def test_values_that_changed_on_disk_are_noticed(opened, monkeypatch, lines):
  saves = opened()
  save(saves, 5)
  monkeypatch.setattr(checkpoints, 'digest', lambda arrays: b'other')
  save(saves, 10)
  monkeypatch.undo()
  assert equal(saves.restore(tree(0)), tree(5)) and 'not those that were saved' in lines[0]


def test_a_run_without_any_sound_checkpoint_does_not_begin_anew(opened, tmp_path):
  save(opened(), 5)
  damage(tmp_path / 'c', 5)
  with pytest.raises(CodecError, match='none of the checkpoints can be read'):
    opened().restore(tree(0))


def test_a_failing_write_is_one_line(opened, monkeypatch):
  saves = opened()

  def fail(step, **kwargs):
    raise ValueError('FAILED_PRECONDITION: no permission\nand a second line')

  monkeypatch.setattr(saves._manager, 'save', fail)
  with pytest.raises(
    CodecError, match=r'checkpoint 10 could not be written \(.*permission'
  ) as info:
    saves.save(10, tree(10))
  assert '\n' not in str(info.value)


def test_a_half_written_step_is_no_step(opened, tmp_path):
  save(opened(), 5)
  shutil.copytree(tmp_path / 'c' / '5', tmp_path / 'c' / '9.orbax-checkpoint-tmp')
  assert equal(opened().restore(tree(0)), tree(5))


def test_a_full_disk_is_one_error_and_leaves_what_was_there(opened, monkeypatch, tmp_path):
  saves = opened()
  save(saves, 5)

  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=2**20 + 8000))
  with pytest.raises(CodecError, match='checkpoint 10 needs 1 MiB of disk, 1 are free'):
    saves.save(10, tree(10))  # 40 x 50 float32, three float64 and a step.
  assert [path.name for path in (tmp_path / 'c').iterdir()] == ['5']
  assert equal(opened().restore(tree(0)), tree(5))
