"""A run's folder remembers its plan and refuses any other."""

import pytest

from compress_jax import plans
from compress_jax.codec import CodecError

PLAN = plans.Plan(
  method='cae',
  options={'widths': (4, 8, 8)},
  stage='rate-distortion',
  start=None,
  lmbda=None,
  distortion='mse',
  lpips=None,
  data=['photos'],
  seed=0,
  steps=10,
  batch=4,
  crop=64,
  lr=1e-3,
  precision='float32',
)


def test_a_plan_is_written_once_and_then_recognised(tmp_path):
  folder = tmp_path / 'a' / 'run'
  assert not plans.settle(folder, PLAN)
  assert plans.settle(folder, PLAN)
  assert plans.read(folder) == PLAN._replace(options={'widths': [4, 8, 8]})


@pytest.mark.parametrize('change', [{'seed': 1}, {'options': {'widths': (4, 8, 16)}}, {'lr': 0.1}])
def test_another_plan_is_refused_by_what_differs(tmp_path, change):
  plans.settle(tmp_path, PLAN)
  name = next(iter(change))
  with pytest.raises(CodecError, match=f'holds a run with {name} .* not '):
    plans.settle(tmp_path, PLAN._replace(**change))
  assert plans.settle(tmp_path, PLAN)


@pytest.mark.parametrize('text', [None, '', '{}', '[1]', '{"method": "cae"}'])
def test_a_folder_without_a_plan_is_no_run(tmp_path, text):
  if text is not None:
    (tmp_path / plans.FILE).write_text(text)
  with pytest.raises(CodecError, match='is not the folder of a training run'):
    plans.read(tmp_path)
