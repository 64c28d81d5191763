import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from compress_jax.cli import fit, main
from compress_jax.cli.command import parse
from compress_jax.codec import CodecError
from compress_jax.evaluation import evaluate
from compress_jax.training import stages
from experiments import studies, sweep

FOUR = (0.0035, 0.0067, 0.013, 0.025)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  root = tmp_path_factory.mktemp('images')
  for i in range(2):
    pixels = np.random.default_rng(i).integers(0, 256, (16, 24, 3), np.uint8)
    PILImage.fromarray(pixels).save(root / f'{i}.png')
  return root


def flags_of(arguments):
  return parse(main.define_flags(), None, arguments)


class Trainer:
  """Writes what a training leaves in its folder; `until` is the run that is not finished."""

  def __init__(self, until=None, status=0):
    self.until, self.status, self.names = until, status, []

  def __call__(self, arguments):
    values = flags_of(arguments)
    folder = Path(values.workdir)
    self.names.append(folder.name)
    (folder / 'plan.json').write_text('{}')
    if folder.name == self.until:
      return self.status
    (folder / 'model.safetensors').write_text(json.dumps(arguments))
    return 0


def row_of(job, bpp, psnr):
  keys = 'ms_ssim', 'bytes', 'encode_s', 'decode_s'
  return {
    **{'method': job.recipe.method, 'codec': job.recipe.codec, 'lambda': job.recipe.point},
    **{'image': job.image, 'protocol': 'crop', 'width': 24, 'height': 16},
    **{'bpp': bpp, 'psnr': psnr, **dict.fromkeys(keys, 0.5), 'split': {}},
    **{'sha256_file': '', 'sha256_pixels': '', 'file': 'a'},
  }


@pytest.fixture
def measured(monkeypatch):
  """The jobs of every evaluation; each curve needs twice the bits of the one before it."""
  seen = []

  def stub(jobs, make, *, output, protocol, processes):
    seen.append(jobs)
    codecs = list(dict.fromkeys(job.recipe.codec for job in jobs))
    rows = []
    for job in jobs:
      at = FOUR.index(job.recipe.point)
      rows.append(row_of(job, 0.1 * 2 ** (at + codecs.index(job.recipe.codec)), 28.0 + at))
    output.mkdir(parents=True, exist_ok=True)
    return evaluate.Result(rows, [], 0)

  monkeypatch.setattr(sweep, 'evaluate', stub)
  return seen


def run(images, output, trainer, *told):
  flags = ['--study=mixtures', f'--images={images}', f'--output={output}', '--seeds=3', '--steps=9']
  flags.append(f'--lambdas={",".join(map(str, FOUR))}')
  flags = [flag for flag in flags if flag.partition('=')[0] not in ''.join(told)]
  return sweep.sweep(parse(sweep.define_flags(), None, ['sweep', *flags, *told]), trainer)


def planned(*told):
  """The flags, the base and the runs of a study."""
  values = parse(sweep.define_flags(), None, ['sweep', *told])
  seeds, base = [int(seed) for seed in values.seeds], studies.base_of(values)
  return values, base, studies.runs_of(studies.arms_of(values.study, FOUR, base), seeds, base)


# The curves of each study and the options that define them. An empty entry is the base, which is
# the preset tiny.
CURVES = {
  'ladder': {'fixed-rates': {'levels': 1}},
  'rates': {'fixed-rates': {'levels': 1}, 'every-rate': {}},
  'mixtures': {'mixtures-1': {'mixtures': 1}, 'mixtures-3': {}},
  'attention': {
    'no-attention': {'attention': False},
    'two-modules': {},
    'four-modules': {'attention': 'all'},
  },
  'context': {'serial': {'context': 'serial'}, 'channels': {}},
  'crop': {
    '128-by-4': {'least_side': 256},
    '256-by-1': {'crop': 256, 'batch': 1, 'least_side': 256},
    '256-by-4': {'crop': 256, 'least_side': 256},
  },
  'levels': {
    'levels-even': {},
    'levels-stratified': {'level_draw': 'stratified'},
    'levels-ends': {'level_draw': 'ends'},
  },
  'augment': {
    'usual-crops': {},
    'turns': {'turns': True},
    'sharp-scales': {'sharp_scales': True},
    'hard-images': {'hard_images': True},
  },
  'shortcuts': {
    'linear-path': {'shortcuts': False},
    'both': {},
    'shortcuts': {'linear': False, 'restoration': 0, 'centred': False},
  },
  'balanced': {'equal-weights': {}, 'balanced': {'balanced': True}},
}


@pytest.mark.parametrize('study', studies.STUDIES)
def test_a_study_measures_every_curve_at_every_lambda(study):
  _, _, runs = planned(f'--study={study}')
  assert {run.label: run.varied for run in runs} == CURVES[study]
  for label in CURVES[study]:
    assert sorted(at for run in runs if run.label == label for at in run.lambdas) == list(FOUR)
  assert len({run.name for run in runs}) == len(runs)
  assert all(run.varied for run in runs if run.name != 'base-seed0')


@pytest.mark.parametrize('study', studies.STUDIES)
@pytest.mark.slow
def test_every_run_of_a_study_is_a_training_that_can_begin(study):
  values, _, runs = planned(f'--study={study}', '--seeds=0,1')
  for run in runs:
    plan = fit.plan_of(flags_of(['run.py', *sweep.command(values, run)]))
    assert plan.seed == run.seed
    plan_of_run = {**plan.options, **plan._asdict()}
    assert {name: plan_of_run[name] for name in run.varied} == run.varied
    stages.setup_of(plan, fit.codec_of(plan))


def test_each_arm_is_trained_with_each_seed():
  _, _, runs = planned('--study=context', '--seeds=0,4')
  assert [(run.name, run.label, run.seed) for run in runs] == [
    ('serial-seed0', 'serial-seed0', 0),
    ('serial-seed4', 'serial-seed4', 4),
    ('base-seed0', 'channels-seed0', 0),
    ('base-seed4', 'channels-seed4', 4),
  ]


def test_the_base_is_what_preset_and_flags_make_it():
  told = '--set=context=serial', '--set=latents=96', '--batch=8'
  _, base, runs = planned('--study=mixtures', *told)
  assert (base['mixtures'], base['context'], base['batch'], base['crop']) == (3, 'serial', 8, 128)
  assert [run.varied for run in runs] == [{'mixtures': 1}, {}]
  # As many latents as channels: all four modules are the base, and two are varied.
  _, _, runs = planned('--study=attention', *told)
  assert [run.varied.get('attention') for run in runs] == [False, 'inner', None]


def test_models_of_one_rate_are_trained_for_it():
  told = '--study=rates', '--data=a', '--data=b', '--steps=7', '--seeds=2', '--crop=64'
  values, _, runs = planned(*told)
  fixed, base = runs[2], runs[-1]
  found = flags_of(['run.py', *sweep.command(values, fixed)])
  assert getattr(found, 'lambda') == 0.013 and found.set == ['levels=1']
  assert (found.steps, found.seed, found.crop, found.data) == (7, 2, 64, ['a', 'b'])
  other = sweep.command(values, base)
  assert set(sweep.command(values, fixed)) - set(other) == {'--set=levels=1', '--lambda=0.013'}
  assert set(other) < set(sweep.command(values, fixed))


def test_all_runs_are_trained_and_then_measured(images, tmp_path, measured):
  trainer = Trainer()
  assert run(images, tmp_path, trainer) == 0
  assert trainer.names == ['mixtures-1-seed3', 'base-seed3']
  (jobs,) = measured
  assert len(jobs) == 2 * len(FOUR) * 2  # Models, lambdas, images.
  for job in jobs:
    name = {'mixtures-1': 'mixtures-1-seed3', 'mixtures-3': 'base-seed3'}[job.recipe.codec]
    assert dict(job.recipe.options) == {'model': str(tmp_path / name / 'model.safetensors')}


def test_the_table_holds_means_and_bd_rates(images, tmp_path, measured, capsys):
  run(images, tmp_path, Trainer())
  text = (tmp_path / 'report-mixtures' / 'study.md').read_text()
  assert text in capsys.readouterr().out
  lines = [line.strip('| ').split(' | ') for line in text.splitlines()[2:10]]
  first = [line for line in lines if line[0] == 'mixtures-1']
  second = [line for line in lines if line[0] == 'mixtures-3']
  assert [line[1] for line in first] == ['0.0035', '0.0067', '0.013', '0.025']
  assert [line[2:4] for line in first] == [
    ['0.1000', '28.00'],
    ['0.2000', '29.00'],
    ['0.4000', '30.00'],
    ['0.8000', '31.00'],
  ]
  # Twice the bits at every PSNR.
  assert second[0][-1].startswith('+100.0 % (28.0–31.0 dB')
  assert text.splitlines()[-3:] == [
    '| bits against mixtures-1 at | 28 dB | 28.8 dB | 29.5 dB | 30.2 dB | 31 dB |',
    '| --- | --: | --: | --: | --: | --: |',
    '| mixtures-3 |' + ' +100.0 % |' * 5,
  ]
  assert '%' not in ''.join(cell for line in [*first, *second[1:]] for cell in line)
  meta = json.loads((tmp_path / 'report-mixtures' / 'results.json').read_text())['meta']
  assert set(meta['runs']) == {'mixtures-1-seed3', 'base-seed3'}


def test_curves_are_means_over_seeds_and_show_the_single_ones(images, tmp_path, measured):
  run(images, tmp_path, Trainer(), '--seeds=0,1')
  text = (tmp_path / 'report-mixtures' / 'study.md').read_text()
  lines = [line.strip('| ').split(' | ') for line in text.splitlines()[2:10]]
  first, second = lines[:4], lines[4:]
  # The stub doubles the bits from run to run: 0.1 and 0.2 bpp of the anchor, then 0.4 and 0.8.
  assert [line[0] for line in lines] == ['mixtures-1'] * 4 + ['mixtures-3'] * 4
  assert [line[2] for line in first] == ['0.1500', '0.3000', '0.6000', '1.2000']
  assert [line[2] for line in second] == ['0.6000', '1.2000', '2.4000', '4.8000']
  assert second[0][5].startswith('+300.0 %')
  assert second[0][6] == '+300.0 %, +300.0 %'  # 0.4 against 0.1, 0.8 against 0.2.
  assert text.splitlines()[2].endswith('| −33.3 %, +33.3 % |')  # 0.1 and 0.2 against 0.15.
  rows = json.loads((tmp_path / 'report-mixtures' / 'results.json').read_text())['rows']
  assert {row['codec'] for row in rows} == {
    f'mixtures-{k}-seed{seed}' for k in (1, 3) for seed in (0, 1)
  }


def test_finished_runs_are_skipped_and_shared_by_studies(images, tmp_path, measured):
  assert run(images, tmp_path, Trainer()) == 0
  again, other = Trainer(), Trainer()
  assert run(images, tmp_path, again) == 0
  assert run(images, tmp_path, other, '--study=attention') == 0
  assert again.names == [] and other.names == ['no-attention-seed3', 'four-modules-seed3']


def test_after_a_stop_the_same_command_goes_on(images, tmp_path, measured):
  with pytest.raises(CodecError, match='base-seed3: the training was stopped'):
    run(images, tmp_path, Trainer('base-seed3'))
  assert not measured
  trainer = Trainer()
  assert run(images, tmp_path, trainer) == 0
  assert trainer.names == ['base-seed3'] and len(measured) == 1


def test_a_run_that_fails_ends_the_sweep(images, tmp_path, measured):
  trainer = Trainer('mixtures-1-seed3', 3)
  with pytest.raises(CodecError, match='mixtures-1-seed3: the training ended with exit status 3'):
    run(images, tmp_path, trainer)
  assert trainer.names == ['mixtures-1-seed3'] and not measured


@pytest.mark.parametrize('flag', ['--steps=10', '--lr=0.1', '--batch=2', '--set=channels=8'])
def test_runs_of_other_flags_are_not_compared(images, tmp_path, measured, flag):
  run(images, tmp_path, Trainer())
  trainer = Trainer()
  with pytest.raises(
    CodecError, match=f'mixtures-1-seed3 holds a run .*, not {flag}: another --output'
  ):
    run(images, tmp_path, trainer, flag)
  assert trainer.names == []


def test_a_run_that_never_began_takes_new_flags(images, tmp_path, measured):
  def refuse(arguments):
    return 1

  with pytest.raises(CodecError, match='exit status 1'):
    run(images, tmp_path, refuse, '--data=/wrong')
  assert run(images, tmp_path, Trainer(), '--data=/right') == 0


def test_a_model_of_unknown_flags_is_not_taken(images, tmp_path, measured):
  (tmp_path / 'base-seed3').mkdir()
  (tmp_path / 'base-seed3' / 'model.safetensors').touch()
  with pytest.raises(CodecError, match='base-seed3 holds a run that is not of a sweep'):
    run(images, tmp_path, Trainer())


def test_an_option_of_another_method_is_refused_before_it_is_read(tmp_path, capsys):
  flags = '--study=ladder', '--method=cae', '--set=attention=True', f'--output={tmp_path / "out"}'
  assert sweep.main(['sweep', *flags]) == 1
  assert "cae has no option 'attention'" in capsys.readouterr().err


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--lambdas=high', "'high'"),
    ('--lambdas=0.5', '0.5 is not between'),
    ('--lambdas=', '--lambdas is empty'),
    ('--method=cae', "cae has no option 'mixtures'"),
    ('--preset=huge', "no preset 'huge'"),
    ('--seeds=a', '--seeds=a: these are whole numbers'),
    ('--set=turn=1', "gmm has no option 'turn'"),
    ('--set=mixtures=2', '--set=mixtures=... is what --study=mixtures varies'),
    ('--set=depth=2', "gmm has no option 'depth'"),
    ('--images=/nowhere', '/nowhere: no such'),
    ('--study=size', 'size'),
  ],
)
def test_a_wrong_study_gets_one_line_and_no_folder(tmp_path, flag, message, capsys):
  output = tmp_path / 'out'
  assert sweep.main(['sweep', '--study=mixtures', f'--output={output}', flag]) > 0
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1 and not output.exists()


CHILD = """
import signal, sys, time
from pathlib import Path
def save(number, frame):
  time.sleep(0.6)  # Longer than subprocess.run would wait.
  Path(sys.argv[1]).write_text('saved')
  raise SystemExit
signal.signal(signal.SIGTERM, save)
Path(sys.argv[1]).write_text('running')
time.sleep(20)
"""


@pytest.fixture
def heeding():
  """SIGINT interrupts, though a shell that started this in the background has it ignored."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('heeding')
def test_an_interrupt_lets_the_training_save(tmp_path):
  file = tmp_path / 'state'

  def interrupt():
    while not (file.exists() and file.read_text() == 'running'):
      time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)

  threading.Thread(target=interrupt, daemon=True).start()
  with pytest.raises(KeyboardInterrupt):
    sweep.trained(['-c', CHILD, str(file)])
  assert file.read_text() == 'saved'


def test_the_status_of_the_training_is_returned():
  assert sweep.trained(['-c', 'raise SystemExit(5)']) == 5
