"""A run's folder remembers its plan and refuses any other."""

import json

import pytest

from compress_jax.codec import CodecError
from compress_jax.training import plans
from tests.helpers.run_folders import PLAN


def test_a_plan_is_written_once_and_then_recognised(tmp_path):
  folder = tmp_path / 'a' / 'run'
  assert not plans.record(folder, PLAN)
  assert plans.record(folder, PLAN)
  assert plans.read(folder) == PLAN._replace(options={'widths': [4, 8, 8]})


@pytest.mark.parametrize('change', [{'seed': 1}, {'options': {'widths': (4, 8, 16)}}, {'lr': 0.1}])
def test_another_plan_is_refused_by_what_differs(tmp_path, change):
  plans.record(tmp_path, PLAN)
  name = next(iter(change))
  with pytest.raises(CodecError, match=f'holds a run with {name} .* not '):
    plans.record(tmp_path, PLAN._replace(**change))
  assert plans.record(tmp_path, PLAN)


@pytest.mark.parametrize('text', [None, '', '{}', '[1]', '{"method": "cae"}', '{"digests": 1}'])
def test_a_folder_without_a_plan_is_no_run(tmp_path, text):
  if text is not None:
    (tmp_path / plans.FILE).write_text(text)
  with pytest.raises(CodecError, match='is not the folder of a training run'):
    plans.read(tmp_path)


WITH_FILES = PLAN._replace(start='a/weights.safetensors', lpips='b')
DIGESTS = {'start': 'one' * 20, 'lpips': 'two' * 20}


def test_the_plan_holds_digests_of_what_a_run_depends_on(tmp_path):
  assert not plans.record(tmp_path, WITH_FILES, DIGESTS)
  began = plans.began_with(tmp_path)
  assert began.keys() == {'start', 'lpips', 'options'} and DIGESTS.items() <= began.items()
  assert plans.read(tmp_path).start == 'a/weights.safetensors'


def test_a_file_that_was_moved_is_the_same_and_another_is_not(tmp_path):
  plans.record(tmp_path, WITH_FILES, DIGESTS)
  moved = WITH_FILES._replace(start='c/weights.safetensors')
  assert plans.record(tmp_path, moved, DIGESTS)
  for digests in ({'start': 'other', 'lpips': DIGESTS['lpips']}, {'lpips': DIGESTS['lpips']}, None):
    with pytest.raises(CodecError, match=r'start a/weights.safetensors, not c/weights.safetensors'):
      plans.record(tmp_path, moved, digests)
  # Under its name a file may have changed or gone: whether that matters is for `check` to say.
  assert plans.record(tmp_path, WITH_FILES, {'start': 'other'})


def test_a_file_that_a_run_needs_is_that_of_its_beginning(tmp_path):
  plans.record(tmp_path, WITH_FILES, DIGESTS)
  plans.check(tmp_path, 'start', 'x', DIGESTS['start'])
  with pytest.raises(
    CodecError, match=r'--start=x has changed \(SHA-256 other.*oneoneoneone\.\.\.'
  ):
    plans.check(tmp_path, 'start', 'x', 'other')
  with pytest.raises(CodecError, match='--lpips=b is not there any more since the run in'):
    plans.check(tmp_path, 'lpips', 'b', None)


def test_a_run_from_before_there_were_digests_goes_on(tmp_path):
  text = json.dumps(WITH_FILES._asdict())
  (tmp_path / plans.FILE).write_text(text)
  assert plans.record(tmp_path, WITH_FILES, DIGESTS)
  assert plans.began_with(tmp_path) == {}
  plans.check(tmp_path, 'start', 'x', None)
  assert plans.read(tmp_path).start == WITH_FILES.start
  assert (tmp_path / plans.FILE).read_text() == text


def test_options_that_changed_after_the_beginning_are_refused(tmp_path):
  plans.record(tmp_path, PLAN, {})
  text = (tmp_path / plans.FILE).read_text()
  assert text.count('16') == 0
  (tmp_path / plans.FILE).write_text(
    text.replace('4,\n      8,\n      8', '4,\n      8,\n      16')
  )
  with pytest.raises(CodecError, match='its options are not those that the run began with'):
    plans.read(tmp_path)
