"""--mode=train of a learned method: from images to a model, stopped and resumed on the way."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from compress_jax.cli import command, main
from compress_jax.cli import fit as cli_fit
from compress_jax.files import models
from compress_jax.learned.released import flatten
from compress_jax.model_zoo import pretrained
from compress_jax.training import estimates, fit, plans, stages
from tests.helpers.slow import but_for
from tests.helpers.small_models import picture
from tests.helpers.training_calls import OFTEN, SMALL, arguments

ROOT = Path(__file__).parents[2]


def train(photos, folder, *more, steps=8):
  return main.main(arguments(photos, folder, *more, steps=steps))


def weights(folder):
  return models.read(folder / cli_fit.WEIGHTS)[0]


def assert_equal(one, other):
  assert one.keys() == other.keys()
  for name, value in one.items():
    np.testing.assert_array_equal(value, other[name])


def test_a_run_ends_with_a_model_that_codes_files(photos, tmp_path):
  run = tmp_path / 'run'
  assert train(photos, run) == 0
  codec, released = pretrained('cae', model=str(run / cli_fit.MODEL))
  image = picture(50, 70)
  decoded = codec.decode(released, codec.encode(released, image))
  assert np.abs(decoded.astype(int) - image).mean() < 12
  lines = (run / 'train.csv').read_text().splitlines()
  assert [line.split(',')[0] for line in lines] == ['step', '2', '4', '6', '8']
  assert len((run / 'validation.csv').read_text().splitlines()) == 2


def test_images_below_the_least_side_are_left_out(photos, tmp_path, capsys):
  assert train(photos, tmp_path / 'run', '--set=least_side=5000') == 1
  assert 'images is at least 5000 pixels high and wide' in capsys.readouterr().err


def test_a_run_that_is_stopped_goes_on_as_if_nothing_had_happened(photos, tmp_path, monkeypatch):
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  assert train(photos, whole) == 0
  due = fit._due

  def terminate(step, inner, every):
    if step == 3:  # The scheduler wants the machine back.
      os.kill(os.getpid(), signal.SIGTERM)
    return due(step, inner, every)

  monkeypatch.setattr(fit, '_due', terminate)
  assert train(photos, broken) == 0
  assert not (broken / cli_fit.MODEL).exists()
  so_far, _ = cli_fit.trained(broken)  # For --start of another run.
  assert_equal(weights(broken), flatten(jax.tree.map(np.asarray, so_far), 'params'))
  monkeypatch.undo()
  assert train(photos, broken) == 0
  assert_equal(weights(whole), weights(broken))
  last = [(run / 'train.csv').read_text().splitlines()[-1] for run in (whole, broken)]
  assert last[0].split(',')[:3] == last[1].split(',')[:3]


@pytest.mark.parametrize('every', but_for([4, 0], 0))
@pytest.mark.slow
def test_a_kill_during_a_validation_costs_no_update(photos, tmp_path, monkeypatch, every):
  whole, broken, often = tmp_path / 'whole', tmp_path / 'broken', f'--validate_every={every}'
  assert train(photos, whole, '--save_every=100', often) == 0
  last = every or 8

  def killed(codecs, released, images):
    raise SystemExit(137)

  monkeypatch.setattr(cli_fit, 'validate', killed)
  assert train(photos, broken, '--save_every=100', often) == 137
  so_far, _ = cli_fit.trained(broken)
  assert sorted(path.name for path in (broken / 'checkpoints').iterdir()) == [f'{last}']
  assert_equal(weights(broken), flatten(jax.tree.map(np.asarray, so_far), 'params'))
  monkeypatch.undo()
  assert train(photos, broken, '--save_every=100', often) == 0
  assert_equal(weights(whole), weights(broken))
  assert (broken / cli_fit.MODEL).read_bytes() == (whole / cli_fit.MODEL).read_bytes()


@pytest.mark.slow
def test_a_run_of_a_given_time_ends_with_a_model(photos, tmp_path):
  run = tmp_path / 'run'
  told = [flag for flag in arguments(photos, run, '--minutes=0.05') if '--steps' not in flag]
  assert main.main(told) == 0
  last = int((run / 'train.csv').read_text().splitlines()[-1].split(',')[0])
  assert 0 < last < 10**6 and (run / cli_fit.MODEL).exists()
  state = cli_fit.trained(run)
  assert main.main(told) == 0  # It has found its end, and is there.
  assert_equal(flatten(state[0], 'params'), flatten(cli_fit.trained(run)[0], 'params'))


def test_training_again_changes_nothing(photos, tmp_path):
  run = tmp_path / 'run'
  assert train(photos, run, steps=2) == 0
  before = weights(run)
  assert train(photos, run, steps=2) == 0
  assert_equal(before, weights(run))


@pytest.mark.slow
def test_a_seed_decides_the_weights(photos, tmp_path):
  for name, seed in (('a', 1), ('b', 1), ('c', 2)):
    assert train(photos, tmp_path / name, f'--seed={seed}', steps=2) == 0
  assert_equal(weights(tmp_path / 'a'), weights(tmp_path / 'b'))
  one, other = (weights(tmp_path / name) for name in 'ac')
  assert any((value != other[name]).any() for name, value in one.items())


def test_images_can_be_streamed(photos, tmp_path):
  assert train(photos, tmp_path / 'run', '--stream', steps=2) == 0


@pytest.mark.parametrize(
  'flags,message',
  [
    (['--batch=6'], 'a batch of 6 does not divide among 4 devices'),
    (['--seed=7'], 'holds a run with seed 0, not 7'),
    (['--preset=giant'], "there is no preset 'giant'; there are: tiny, small, paper"),
    (['--set=colour=7'], "cae has no option 'colour'"),
    (['--crop=128'], 'at least 128 pixels'),
    (['--data=nowhere'], 'nowhere: no such file or folder'),
    (['--stage=adversarial'], 'the adversarial stage is one of gan'),
    (['--start=nowhere.safetensors'], 'nowhere.safetensors is not a model file'),
  ],
)
def test_what_cannot_be_done_is_said_in_one_line(photos, tmp_path, capsys, flags, message):
  run = tmp_path / 'run'
  if 'holds a run' in message:
    values = command.parse(main.define_flags(), '', arguments(photos, run))
    plans.record(run, cli_fit.plan_of(values))
  assert train(photos, run, *flags) == 1
  errors = [line for line in capsys.readouterr().err.splitlines() if 'error' in line]
  assert len(errors) == 1 and message in errors[0]
  assert run.exists() == ('holds a run' in message)  # Nothing is left behind.


def test_a_run_without_a_folder_is_in_that_of_its_method(photos, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  given = [one for one in arguments(photos, tmp_path, steps=2) if '--workdir' not in one]
  assert main.main(given) == 0
  assert (tmp_path / 'runs' / 'cae' / cli_fit.MODEL).exists()
  assert 'training in runs/cae' in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_ends_with_the_overview_of_its_model(photos, tmp_path, capsys):
  run = tmp_path / 'run'
  more = f'--images={photos}', '--protocol=crop', '--lambda=0.02', '--workers=1'
  told = [one for one in arguments(photos, run, *more, steps=2) if one != '--noevaluate']
  assert main.main(told) == 0
  at_the_end = capsys.readouterr().out
  model = f'--model={run / cli_fit.MODEL}'
  assert main.main(['run.py', '--mode=eval', '--method=cae', model, *more]) == 0
  alone = capsys.readouterr().out
  timed = lambda text: [line.split()[:5] for line in text.splitlines()]  # noqa: E731
  assert timed(at_the_end) == timed(alone)
  assert 'cae at lambda 0.02' in alone and f'2 images of {photos}, their 256x256' in alone


def test_a_dry_run_tells_size_and_leaves_nothing(photos, tmp_path, capsys):
  run = tmp_path / 'run'
  assert train(photos, run, '--dry_run') == 0
  out = capsys.readouterr().out
  assert 'parameters   ' in out and 'MiB per device' in out and 's per step' in out
  assert not run.exists()


def test_a_dry_run_of_what_does_not_fit_into_memory_is_compiled_and_not_run(
  photos, tmp_path, monkeypatch, capsys
):
  def begun():
    raise AssertionError('parameters were made')

  def setup_of(plan, codec, log):
    return stages.setup_of(plan, codec, log)._replace(init=begun)

  monkeypatch.setattr(cli_fit, 'setup_of', setup_of)
  monkeypatch.setattr(estimates, '_available', lambda: 2**20)
  assert train(photos, tmp_path / 'run', '--dry_run') == 0
  out = capsys.readouterr().out
  assert 'MiB per device' in out and 'not measured: 1 MiB are available' in out


@pytest.mark.slow
def test_a_run_can_be_exported_before_its_end(photos, tmp_path, capsys):
  run, model = tmp_path / 'run', tmp_path / 'model.safetensors'
  assert main.main(['run.py', '--mode=export', f'--workdir={run}', f'--output={model}']) == 1
  assert 'is not the folder of a training run' in capsys.readouterr().err
  assert train(photos, run, steps=4) == 0
  assert main.main(['run.py', '--mode=export', f'--workdir={run}', f'--output={model}']) == 0
  exported, kept = (models.read(path)[0] for path in (model, run / cli_fit.WEIGHTS))
  np.testing.assert_array_equal(
    exported['encoder.analysis.down0.kernel'], kept['params.analysis.down0.kernel']
  )


def train_by_two(photos, folder):
  """Two processes of two devices each, which meet on a port of this host."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  what = [f'--data={photos}', f'--val={photos}', f'--workdir={folder}', '--steps=8', *SMALL, *OFTEN]
  meet = [f'--coordinator=localhost:{port}', '--num_processes=2']
  env = {**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}
  command = [sys.executable, 'run.py', '--mode=train', *what, *meet]
  started = [
    subprocess.Popen([*command, f'--process_id={i}'], cwd=ROOT, env=env, stderr=subprocess.PIPE)
    for i in range(2)
  ]
  for process in started:
    _, errors = process.communicate(timeout=1800)
    assert process.returncode == 0, errors.decode()[-800:]


@pytest.mark.slow
def test_two_processes_train_save_and_resume_as_one(photos, tmp_path):
  run, alone = tmp_path / 'run', tmp_path / 'alone'
  train_by_two(photos, run)  # Compares the parameters of both at its end.
  first = weights(run)
  shutil.rmtree(run / 'checkpoints' / '8')
  (run / cli_fit.WEIGHTS).unlink()
  train_by_two(photos, run)  # From step 4.
  assert_equal(first, weights(run))
  assert train(photos, alone) == 0  # One process of four devices.
  for name, value in weights(alone).items():
    np.testing.assert_allclose(first[name], value, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(('steps', 'shown'), [(100, 'about 100'), (10**6, 'about 36,000')])
def test_a_run_of_a_given_time_may_end_with_its_steps(steps, shown):
  lines = []
  cost = estimates.Estimate(1, 1.0, 1, None, 0.1)
  estimates.report(cost, steps=steps, pixels=1, log=lines.append, minutes=60)
  assert lines[-1] == f'time         0.100 s per step, {shown} steps in all'
