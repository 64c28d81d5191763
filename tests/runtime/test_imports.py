"""The garbage collector is off while modules are imported, and leaves alone what they hold."""

import gc
import sys

import pytest

from compress_jax.runtime.imports import imported


@pytest.fixture(autouse=True)
def as_before():
  imported.cache_clear()
  yield
  imported.cache_clear()
  gc.unfreeze()
  gc.enable()


@pytest.fixture
def module(tmp_path, monkeypatch):
  """The name of a module that notes whether the collector is on."""
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'notes_gc.py').write_text(
    'import gc\nON = gc.isenabled()\nHELD = [{} for _ in "ab"]\n'
  )
  yield 'notes_gc'
  sys.modules.pop('notes_gc', None)


def test_the_collector_is_off_inside_and_does_not_see_what_is_held(module):
  held = imported(module).HELD
  assert not imported(module).ON and gc.isenabled()
  assert gc.get_freeze_count() > 0 and not any(o is held for o in gc.get_objects())


def test_garbage_that_is_made_later_is_collected(module):
  imported(module)
  cycle = []
  cycle.append(cycle)
  del cycle
  assert gc.collect() >= 1


def test_what_comes_later_is_not_put_aside_by_a_second_call(module):
  imported(module)
  before = gc.get_freeze_count()
  later = [{} for _ in range(1000)]
  imported(module)
  assert gc.get_freeze_count() == before and later


def test_a_collector_that_was_off_stays_off(module):
  gc.disable()
  imported(module)
  assert not gc.isenabled()


def test_a_module_that_is_missing_leaves_the_collector_on():
  with pytest.raises(ModuleNotFoundError):
    imported('no_such_module_anywhere')
  assert gc.isenabled()
