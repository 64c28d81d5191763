"""Work that takes long shows how far it is on a terminal, and nothing elsewhere."""

import pytest
from PIL import Image as PILImage

from tests.helpers.small_models import picture
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
# An evaluation whose files no codec makes; each takes a moment.
MEASURING = """
import time
from compress_jax.cli import main
from compress_jax.evaluation import evaluate
from compress_jax.evaluation.measure import Measured

def measured(todo, *_):
  scores = {'bpp': 0.5, 'psnr': 30.0, 'ms_ssim': None}
  for i in todo:
    time.sleep(0.12)
    yield i, Measured((32, 48, 3), b'123', 0.1, 0.1, {}, scores, 'pixels')

evaluate.measured = measured
"""


@pytest.mark.parametrize('columns', [80, 0], ids=['with a width', 'without'])
def test_a_terminal_shows_the_work_its_stage_and_the_time(columns):
  out, shown = on_a_terminal(SLOW, columns=columns)
  assert out == 'end\n'
  first = shown.index('photo.png 00:0')
  assert shown.index('photo.png: refinement: 3/7 |') > first


def test_of_a_long_name_the_end_is_shown():
  name = '/folder' * 20 + '/photo.png'
  _, shown = on_a_terminal(SLOW.replace('photo.png', name), columns=80)
  assert f'\r...{name[-37:]}: refinement: 3/7 |' in shown


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


def test_a_search_for_a_rate_shows_how_many_files_are_made(tmp_path):
  PILImage.fromarray(picture(32, 48, 0)).save(tmp_path / 'a.png')
  code = (
    'from compress_jax.cli import main, progress\n'
    'progress.QUIET, progress.PERIOD = 0.0, 0.01\n'
    "flags = ['--mode=compress', '--target_bpp=1', '--force']\n"
    f"files = ['--input={tmp_path}/a.png', '--output={tmp_path}/a.cjx']\n"
    "main.main(['compress-jax', *flags, *files])"
  )
  out, shown = on_a_terminal(code)
  assert out == '' and 'a.png: search: ' in shown
  assert shown.rpartition('\r\n')[0].rpartition('\r')[2].startswith(f'{tmp_path}/a.png -> ')
  out, shown = in_a_pipe(code)
  assert out == '' and shown.count('\n') == 1 and ': search' not in shown


@pytest.mark.slow
def test_an_evaluation_shows_how_many_files_are_measured(tmp_path):
  PILImage.fromarray(picture(32, 48, 0)).save(tmp_path / 'a.png')
  PILImage.fromarray(picture(32, 48, 1)).save(tmp_path / 'b.png')
  code = MEASURING + f"main.main(['compress-jax', '--images={tmp_path}'])"
  out, shown = on_a_terminal(code)
  assert out.splitlines()[-1].startswith('bpp of the others')
  ours, theirs = shown.index('kmeans lambda=0.013 a'), shown.index('jpeg size=3 a')
  assert '1/2 [00:00' in shown[:theirs] and '1/12 [00:00' in shown[theirs - 99 :] and ours < theirs
  assert 'kmeans lambda=0.013 b' in shown[:theirs] and 'jxl size=3 b' in shown[theirs:]
  piped, shown = in_a_pipe(code)
  assert piped == out and shown == ''
