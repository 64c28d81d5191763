"""A run goes on, ends and is exported with what it began with, and nothing of it is lost."""

import os
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from compress_jax.cli import fit, main
from compress_jax.codec import CodecError
from compress_jax.files import locks, models
from compress_jax.files.digests import digest_of_files
from compress_jax.model_zoo import ZOO
from compress_jax.training import float_weights, plans, resume, stages, trainer
from compress_jax.training.checkpoints import Checkpoints
from tests.helpers.run_folders import PLAN, contents, damage

SMALL = ['--method=cae', '--set=widths=(4,8,8)', '--set=linear=True', '--batch=4', '--crop=64']
OFTEN = ['--log_every=2', '--save_every=2', '--noevaluate', '--steps=4']


def train(folder, *more):
  return main.main(['run.py', '--mode=train', f'--workdir={folder}', *SMALL, *OFTEN, *more])


def export(folder, target):
  return main.main(['run.py', '--mode=export', f'--workdir={folder}', f'--output={target}'])


def arrays(path):
  return {name: value.tobytes() for name, value in models.read(path)[0].items()}


def all_of(folder):
  """What a run has left, but for the file of its lock."""
  return {name: data for name, data in contents(folder).items() if name != locks.LOCK}


def results(folder):
  return {name: (folder / name).read_bytes() for name in (fit.WEIGHTS, fit.MODEL)}


def failure(capsys):
  """The one line that an error is."""
  lines = [line for line in capsys.readouterr().err.splitlines() if 'error: ' in line]
  assert len(lines) == 1, lines
  return lines[0]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run to its end, and what it has left."""
  folder = tmp_path_factory.mktemp('finished') / 'run'
  assert train(folder) == 0
  return folder


@pytest.fixture
def run(finished, tmp_path):
  """A copy of it."""
  return Path(shutil.copytree(finished, tmp_path / 'run'))


def half(run):
  """Takes a run back to half of its way."""
  before = results(run)
  shutil.rmtree(run / fit.CHECKPOINTS / '4')
  for name in before:
    (run / name).unlink()
  return before


@pytest.mark.slow
def test_jax_settings_of_the_environment_change_nothing(run, tmp_path):
  before = half(run)
  with jax.enable_x64(True), jax.default_prng_impl('rbg'), jax.threefry_partitionable(False):
    with jax.numpy_dtype_promotion('strict'):
      assert train(run) == 0
    assert export(run, tmp_path / 'model') == 0
  assert results(run) == before


MEASURED = ['sharp_scales=True', 'hard_images=True']
ALTERED = ['level_draw=stratified', 'balanced=True', 'turns=True', *MEASURED]


@pytest.mark.slow
def test_a_run_of_another_distribution_goes_on_as_if_unbroken_and_its_plan_holds_it(
  tmp_path, capsys
):
  run, options = tmp_path / 'run', [f'--set={pair}' for pair in ALTERED]
  assert train(run, *options) == 0
  before = half(run)
  assert train(run, *options) == 0
  assert results(run) == before
  capsys.readouterr()
  for left_out, name in ((options[1:], 'level_draw'), (options[:-1], 'hard_images')):
    assert train(run, *left_out) == 1
    assert f'holds a run with {name} ' in failure(capsys)


def test_images_that_are_streamed_are_not_measured(tmp_path, capsys):
  for option in MEASURED:
    assert train(tmp_path / option, '--stream', f'--set={option}') == 1
    assert 'sharp_scales and hard_images are for images that stay' in failure(capsys)


def test_a_damaged_newest_checkpoint_costs_steps_and_nothing_else(run, capsys):
  before = results(run)
  damage(run / fit.CHECKPOINTS, 4)
  checkpoints = contents(run / fit.CHECKPOINTS)
  assert train(run) == 0
  said = capsys.readouterr().err
  assert 'checkpoint 4 cannot be read and stays as it is' in said and 'from step 2' in said
  assert results(run) == before
  after = contents(run / fit.CHECKPOINTS)
  assert {name: after[name] for name in checkpoints} == checkpoints
  assert train(run) == 0 and 'finished before' in capsys.readouterr().err


def test_a_run_without_a_readable_checkpoint_is_refused_and_left_as_it_is(run, tmp_path, capsys):
  for step in (2, 4):
    damage(run / fit.CHECKPOINTS, step)
  before = all_of(run)
  assert train(run) == 1
  error = failure(capsys)
  assert 'of the checkpoints 4, 2 none can be read' in error and 'another folder' in error
  assert export(run, tmp_path / 'model') == 1
  assert 'none can be read' in failure(capsys)
  assert all_of(run) == before


def test_an_optimizer_of_another_structure_is_refused(run, tmp_path, capsys, monkeypatch):
  before, expected = contents(run / fit.CHECKPOINTS), half_of(run)
  other = optax.sgd(1e-3, momentum=0.9)
  setup_of = fit.setup_of
  monkeypatch.setattr(fit, 'setup_of', lambda *given: setup_of(*given)._replace(optimizer=other))
  assert train(run) == 1
  assert 'opt_state' in failure(capsys)
  assert export(run, tmp_path / 'model') == 1
  assert 'opt_state' in failure(capsys)
  assert contents(run / fit.CHECKPOINTS) == before
  monkeypatch.undo()
  assert train(run) == 0 and results(run) == expected


def half_of(run):
  """The results of a run, which lacks them afterwards."""
  before = results(run)
  for name in before:
    (run / name).unlink()
  return before


def test_the_second_program_in_a_folder_is_refused_and_a_reader_is_not(run, tmp_path, capsys):
  before = all_of(run)
  with locks.held(run):
    assert train(run) == 1
    error = failure(capsys)
    assert f'{run} is in use by process {os.getpid()} on ' in error
    assert export(run, tmp_path / 'model') == 0
  assert all_of(run) == before


def test_results_without_checkpoints_are_not_replaced(run, tmp_path, capsys):
  before = results(run)
  shutil.rmtree(run / fit.CHECKPOINTS)
  assert train(run) == 1
  assert f'{run} holds {fit.WEIGHTS} but no checkpoint' in failure(capsys)
  assert results(run) == before
  alone = tmp_path / 'alone'
  alone.mkdir()
  (alone / fit.MODEL).write_text('precious')
  assert train(alone) == 1
  assert f'{alone} holds {fit.MODEL} but no checkpoint' in failure(capsys)
  assert [path.name for path in alone.iterdir()] == [fit.MODEL]


@pytest.mark.slow
def test_a_run_does_not_need_its_start_after_the_first_checkpoint(finished, tmp_path, capsys):
  run, start, model = tmp_path / 'run', tmp_path / 'start', tmp_path / 'model'
  shutil.copyfile(finished / fit.WEIGHTS, start)
  flags = ['--stage=decoder', f'--start={start}']
  assert train(run, *flags) == 0
  assert export(run, model) == 0
  encoder = [name for name in arrays(start) if name.split('.')[1] in stages.ENCODER]
  weights = arrays(run / fit.WEIGHTS)
  assert encoder and all(weights[name] == arrays(start)[name] for name in encoder)
  before, exported = half(run), model.read_bytes()
  start.unlink()
  capsys.readouterr()
  assert train(run, *flags) == 0
  assert f'{start} is not there any more since the run began' in capsys.readouterr().err
  assert results(run) == before
  other = {name: 2 * value for name, value in models.read(finished / fit.WEIGHTS)[0].items()}
  models.write(start, other, models.read(finished / fit.WEIGHTS)[1])
  half_of(run)
  assert train(run, *flags) == 0
  assert f'{start} has changed since the run began' in capsys.readouterr().err
  assert results(run) == before
  model.unlink()
  assert export(run, model) == 0 and model.read_bytes() == exported


def test_before_the_first_checkpoint_the_start_has_to_be_that_of_the_beginning(
  finished, tmp_path, capsys
):
  run, start = tmp_path / 'run', tmp_path / 'start'
  shutil.copyfile(finished / fit.WEIGHTS, start)
  plan = plans.read(finished)._replace(start=str(start), stage='decoder')
  plans.record(run, plan, resume.digests_of(plan))  # And killed.
  start.write_bytes(start.read_bytes()[:-4] + b'\0\0\0\0')
  assert train(run, '--stage=decoder', f'--start={start}') == 1
  assert f'--start={start} has changed (SHA-256 ' in failure(capsys)
  start.unlink()
  assert train(run, '--stage=decoder', f'--start={start}') == 1
  assert f'--start={start} is not there any more' in failure(capsys)
  assert not (run / fit.CHECKPOINTS).exists()


# Digests, and what is needed when.


def test_digests_are_those_of_the_files_that_a_plan_means(finished, tmp_path):
  def of(**fields):
    return resume.digests_of(PLAN._replace(**fields))

  weights = digest_of_files([finished / fit.WEIGHTS])
  assert of() == {}
  assert of(start=str(finished / fit.WEIGHTS)) == {'start': weights}
  assert of(start=str(finished)) == {'start': weights}  # The folder of a run.
  assert of(start='cae') == {'start': digest_of_files([ZOO / 'cae.safetensors'])}
  assert of(start=str(tmp_path), lpips=str(tmp_path / 'none')) == {}
  for name, text in (('alexnet-1.pth', 'trunk'), ('alex.pth', 'heads')):
    (tmp_path / name).write_text(text)
  both = of(lpips=str(tmp_path))
  assert both.keys() == {'lpips'} and both != of(lpips=str(tmp_path / 'alex.pth'))
  (tmp_path / 'alex.pth').write_text('other')
  assert of(lpips=str(tmp_path)) != both


def test_the_folder_of_a_run_stands_for_its_weights(finished, tmp_path):
  params, config = float_weights.weights(finished)
  found, _ = float_weights.weights(finished / fit.WEIGHTS)
  assert config['method'] == 'cae'
  assert all(map(np.array_equal, jax.tree.leaves(params), jax.tree.leaves(found)))
  with pytest.raises(
    CodecError, match=r'holds no weights.safetensors, which a training run leaves'
  ):
    float_weights.weights(tmp_path)


PARAMS = {'w': np.ones(2, np.float32)}
SETUP = stages.Setup(lambda: (PARAMS, {}), (PARAMS, {}), lambda *given: None, optax.sgd(0.1))


def newest(folder, plan, digests, step):
  """What goes on from a checkpoint of a step, and the lines that say so."""
  saves, lines = Checkpoints(folder / 'checkpoints', print), []
  state = trainer.start(PARAMS, {}, SETUP.optimizer, 10)
  saves.save(step, state._replace(step=np.array(step, np.int32)))
  found = resume.newest(folder, plan, digests, SETUP, saves, lines.append)
  saves.close()
  return int(found.step), lines


@pytest.mark.parametrize('digests', [{}, {'lpips': 'other'}])
def test_lpips_is_needed_for_further_steps_alone(tmp_path, digests):
  plan = PLAN._replace(lpips='folder', steps=10)
  plans.record(tmp_path, plan, {'lpips': 'first'})
  with pytest.raises(CodecError, match=r'--lpips=folder (has changed|is not there any more)'):
    newest(tmp_path, plan, digests, 5)
  assert newest(tmp_path, plan, {'lpips': 'first'}, 6) == (6, ['going on from step 6'])
  assert newest(tmp_path, plan, digests, 10) == (10, [])


def test_a_run_from_before_there_were_digests_goes_on_without_a_word(tmp_path):
  plan = PLAN._replace(start='anything', steps=10)
  plans.record(tmp_path, plan)
  assert newest(tmp_path, plan, {'start': 'now'}, 5) == (5, ['going on from step 5'])
