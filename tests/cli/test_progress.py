"""Work that takes long shows how far it is on a terminal, and nothing elsewhere."""

import pytest

from tests.helpers.terminals import in_a_pipe, on_a_terminal

SLOW = """
import time
from compress_jax.cli import console, progress

progress.QUIET = 0.05
with console.forgiving(), progress.shown('photo.png') as told:
  time.sleep(0.6)
  told('refinement', 3, 7)
  time.sleep(0.6)
print('end')
"""
FAILING = """
from compress_jax.cli import progress

progress.QUIET = 0.0
try:
  with progress.shown('photo.png'):
    raise ValueError('no')
except ValueError:
  print('end')
"""


@pytest.mark.parametrize('columns', [80, 0], ids=['with a width', 'without'])
def test_a_terminal_shows_the_work_its_stage_and_the_time(columns):
  out, shown = on_a_terminal(SLOW, columns=columns)
  assert out == 'end\n'
  first = shown.index('photo.png 00:0')
  assert shown.index('photo.png: refinement: 3/7 |') > first


def test_nothing_is_left_when_the_work_ends():
  _, shown = on_a_terminal(SLOW)
  *_, last, after = shown.split('\r')
  assert last.strip() == '' and after == ''


def test_a_pipe_is_silent():
  assert in_a_pipe(SLOW) == ('end\n', '')


def test_quick_work_shows_nothing():
  assert on_a_terminal(SLOW.replace('0.05', '30')) == ('end\n', '')


def test_work_that_fails_ends_what_is_shown():
  assert on_a_terminal(FAILING)[0] == 'end\n'
