"""Checkpoints come back bit for bit; those that cannot be read are named, and never touched."""

import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from compress_jax.codec import CodecError
from compress_jax.training import checkpoints
from compress_jax.training.checkpoints import Checkpoints
from tests.helpers.run_folders import contents, damage


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
    saves.save(step, tree(step))
    if scores and step in scores:
      saves.score(step, scores[step])


def equal(one, other):
  flat = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in flat)


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


def test_a_score_is_written_with_a_step_that_stays_as_it_is(opened, tmp_path):
  saves = opened()
  save(saves, 5)
  before = contents(tmp_path / 'c')
  assert saves.best() is None
  saves.score(5, 0.25)
  assert opened().best() == (5, 0.25) and equal(opened().restore(tree(0)), tree(5))
  about, after = '5/about/metadata', contents(tmp_path / 'c')
  assert json.loads(after.pop(about)) == {**json.loads(before.pop(about)), 'score': 0.25}
  assert after == before


def test_a_score_that_cannot_be_written_leaves_the_step(opened, tmp_path, monkeypatch):
  saves = opened()
  save(saves, 5)
  before = contents(tmp_path / 'c')

  def full(*given):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(CodecError, match='No space left'):
    saves.score(5, 0.25)
  assert contents(tmp_path / 'c') == before and opened().best() is None


def test_the_score_of_an_older_program_came_with_the_step(opened, tmp_path):
  save(opened(), 5, 10, scores={10: 0.5})
  path = tmp_path / 'c' / '5' / 'about' / 'metadata'
  path.write_text(json.dumps({**json.loads(path.read_text()), 'score': 0.3}))  # As orbax wrote it.
  assert opened().best() == (5, 0.3)
  save(opened(), 15, 20, 25)
  kept = sorted(int(path.name) for path in (tmp_path / 'c').iterdir())
  assert kept == [5, 15, 20, 25]


def mend(folder, step, before):
  """Writes the files of a step as they were."""
  for name, data in before.items():
    (folder / str(step) / name).write_bytes(data)


def test_a_truncated_checkpoint_is_named_and_the_one_before_is_taken(opened, tmp_path, lines):
  save(opened(), 5, 10)
  damage(tmp_path / 'c', 10)
  saves = opened()
  assert equal(saves.restore(tree(0)), tree(5))
  assert len(lines) == 1 and lines[0].startswith('warning: checkpoint 10 cannot be read')
  assert str(tmp_path / 'c' / '10') in lines[0] and lines[0].endswith('5 is taken in its place')


def test_a_run_that_comes_to_the_step_of_a_damaged_one_saves_it_elsewhere(opened, tmp_path):
  save(opened(), 5, 10)
  damage(tmp_path / 'c', 10)
  before, saves = contents(tmp_path / 'c'), opened()
  saves.restore(tree(0))
  save(saves, 10)
  assert equal(opened().restore(tree(0)), tree(10))
  after = contents(tmp_path / 'c')
  assert {name: after[name] for name in before} == before
  assert all(name.startswith('continued-1/10/') for name in after.keys() - before.keys())


def test_no_later_save_removes_a_damaged_checkpoint(opened, tmp_path):
  save(opened(), 5, 10, 15)
  damage(tmp_path / 'c', 15)
  before = contents(tmp_path / 'c')
  for first in (11, 21):  # In two processes: the second finds sound ones that are newer.
    saves = opened()
    saves.restore(tree(0))
    save(saves, *range(first, first + 9))
  after = contents(tmp_path / 'c')
  assert {name: after[name] for name in before} == before
  continued = tmp_path / 'c' / 'continued-1'
  assert sorted(path.name for path in continued.iterdir()) == ['27', '28', '29']


def test_a_checkpoint_that_can_be_read_again_is_taken(opened, tmp_path, lines):
  save(opened(), 5, 10)
  sound = contents(tmp_path / 'c' / '10')
  damage(tmp_path / 'c', 10)
  saves = opened()
  saves.restore(tree(0))
  save(saves, 7)
  mend(tmp_path / 'c', 10, sound)
  saves = opened()
  assert equal(saves.restore(tree(0)), tree(10)) and len(lines) == 1
  save(saves, 12)
  assert equal(opened().restore(tree(0)), tree(12))


def test_what_is_damaged_after_that_has_a_folder_of_its_own_too(opened, tmp_path):
  save(opened(), 5, 10)
  for step, folder in ((10, 'c'), (12, 'c/continued-1')):
    damage(tmp_path / folder, step)
    saves = opened()
    saves.restore(tree(0))
    save(saves, step - 3, step + 2)
  assert sorted(path.name for path in (tmp_path / 'c' / 'continued-2').iterdir()) == ['14', '9']
  assert equal(opened().restore(tree(0)), tree(14))


def test_a_checkpoint_that_lost_a_file_is_left_out(opened, tmp_path, lines):
  save(opened(), 5, 10)
  files = [path for path in (tmp_path / 'c' / '10').rglob('*') if path.is_file()]
  max(files, key=lambda path: path.stat().st_size).unlink()
  assert equal(opened().restore(tree(0)), tree(5)) and len(lines) == 1


def test_a_link_to_a_disk_that_is_not_there_is_a_checkpoint_that_cannot_be_read(
  opened, tmp_path, lines
):
  save(opened(), 5, 10)
  shutil.move(tmp_path / 'c' / '10', tmp_path / 'other')
  (tmp_path / 'c' / '10').symlink_to(tmp_path / 'other')
  assert equal(opened().restore(tree(0)), tree(10)) and not lines
  shutil.rmtree(tmp_path / 'other')
  assert equal(opened().restore(tree(0)), tree(5)) and 'checkpoint 10' in lines[0]


def test_values_that_changed_on_disk_are_noticed(opened, monkeypatch, lines):
  saves = opened()
  save(saves, 5)
  monkeypatch.setattr(checkpoints, 'digest', lambda arrays: b'other')
  save(saves, 10)
  monkeypatch.undo()
  assert equal(saves.restore(tree(0)), tree(5)) and 'not those that were saved' in lines[0]


def test_a_run_without_any_sound_checkpoint_does_not_begin_anew(opened, tmp_path):
  save(opened(), 5, 10)
  damage(tmp_path / 'c', 5)
  damage(tmp_path / 'c', 10)
  before = contents(tmp_path / 'c')
  with pytest.raises(CodecError, match='of the checkpoints 10, 5 none can be read') as info:
    opened().restore(tree(0))
  assert f'{tmp_path / "c" / "10"}: ' in str(info.value)  # The newest says why.
  assert contents(tmp_path / 'c') == before


def test_a_folder_that_may_not_be_looked_into_is_not_empty(opened, tmp_path, monkeypatch):
  save(opened(), 5)

  def refuse(path, *given, **more):
    raise PermissionError(13, 'Permission denied', str(path))

  monkeypatch.setattr(checkpoints, '_read', refuse)
  monkeypatch.setattr(Path, 'lstat', refuse)
  with pytest.raises(CodecError, match=r'none can be read.*Permission denied'):
    opened().restore(tree(0))
  monkeypatch.setattr(Path, 'iterdir', refuse)
  with pytest.raises(PermissionError):
    opened().restore(tree(0))


def changed(**parts):
  return {**tree(0), **parts}


WEIGHTS = tree(0)['params']


@pytest.mark.parametrize(
  'like,reason',
  [
    (changed(step=np.zeros((), np.int64)), r'its step is int32\[\], and int64\[\]'),
    (changed(more=np.zeros(3)), 'it has no more, which this program needs'),
    (changed(params={'bias': np.zeros(3)}), r'it has params.kernel, which this program does not'),
    (
      changed(params={**WEIGHTS, 'bias': np.zeros(4)}),
      r'its params.bias is float64\[3\], and float64\[4\]',
    ),
    (
      changed(params={**WEIGHTS, 'bias': np.zeros(3, np.float32)}),
      r'its params.bias is float64\[3\], and float32\[3\]',
    ),
  ],
)
def test_another_structure_is_refused_by_what_differs(opened, tmp_path, like, reason):
  save(opened(), 5, 10)
  before = contents(tmp_path / 'c')
  with pytest.raises(CodecError, match=f'10, 5 none can be read.*{reason}'):
    opened().restore(like)
  assert contents(tmp_path / 'c') == before
  assert equal(opened().restore(tree(0)), tree(10))


def test_the_states_of_optimizers_are_told_apart(opened):
  def state(optimizer):
    return {'opt_state': optimizer.init({'w': np.ones(2, np.float32)})}

  labels = {'w': 'learning'}
  adam = optax.partition({'learning': optax.adam(0.1), 'frozen': optax.set_to_zero()}, labels)
  opened().save(5, state(adam))
  assert equal(opened().restore(state(adam)), state(adam))
  for other in (optax.adam(0.1), optax.sgd(0.1, momentum=0.9)):
    with pytest.raises(CodecError, match=r'none can be read.*opt_state'):
      opened().restore(state(other))


def test_reading_touches_nothing_that_another_program_is_writing(opened, tmp_path):
  assert opened().restore(tree(0)) is None and not (tmp_path / 'c').exists()
  save(opened(), 5)
  writing = tmp_path / 'c' / '10.orbax-checkpoint-tmp'
  shutil.copytree(tmp_path / 'c' / '5', writing)
  before, reader = contents(tmp_path / 'c'), opened()
  assert equal(reader.restore(tree(0)), tree(5)) and reader.best() is None
  reader.close()
  assert contents(tmp_path / 'c') == before
  save(opened(), 15)  # What saves is alone here, and tidies up.
  assert not writing.exists()


def test_a_reader_that_loses_a_step_to_newer_ones_takes_these(opened, tmp_path, monkeypatch, lines):
  saves = opened()
  save(saves, 1, 2, 3)
  read = checkpoints._read

  def slowly(path, form):
    if path.name == '3':
      save(saves, 4, 5, 6)
    return read(path, form)

  monkeypatch.setattr(checkpoints, '_read', slowly)
  assert equal(opened().restore(tree(0)), tree(6)) and not lines


def test_a_step_that_was_half_removed_is_no_step(opened, tmp_path, lines):
  save(opened(), 1, 2, 3)
  shutil.copytree(tmp_path / 'c' / '3', tmp_path / 'c' / checkpoints._REMOVED / '1')
  shutil.rmtree(tmp_path / 'c' / checkpoints._REMOVED / '1' / 'state')  # The rest by a kill.
  assert equal(opened().restore(tree(0)), tree(3)) and not lines
  save(opened(), 4)
  assert sorted(path.name for path in (tmp_path / 'c').iterdir()) == ['2', '3', '4']


def test_a_step_is_not_removed_because_its_score_cannot_be_read(opened, tmp_path):
  saves = opened()
  save(saves, 1, 2, scores={1: 0.1, 2: 0.5})
  (tmp_path / 'c' / '1' / 'about' / 'metadata').write_text('{')
  save(saves, 3, 4, 5, 6, 7, scores={3: 0.7})
  kept = sorted(path.name for path in (tmp_path / 'c').iterdir())
  assert kept == ['1', '2', '5', '6', '7']


def test_a_failing_write_is_one_line(opened, monkeypatch):
  saves = opened()
  save(saves, 5)

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
