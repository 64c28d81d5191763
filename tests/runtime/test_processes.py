import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from PIL import Image as PILImage

from compress_jax import recipes
from compress_jax.cli import files
from compress_jax.cli import processes as cli_processes
from compress_jax.codec import CodecError
from compress_jax.evaluation import evaluate, journal, measure
from compress_jax.runtime import processes
from compress_jax.runtime.processes import Share
from experiments import kodak

ROOT = Path(__file__).parents[2]


def free_port():
  with socket.create_server(('127.0.0.1', 0)) as server:
    return f'127.0.0.1:{server.getsockname()[1]}'


def share_of(*told):
  values = flags.FlagValues()
  cli_processes.define_flags(values)
  values(['test', *told])
  return cli_processes.join(values)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  root = tmp_path_factory.mktemp('images')
  for seed in range(3):
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 24, 3), np.uint8)
    PILImage.fromarray(pixels).save(root / f'{seed}.png')
  return root


def test_without_flags_all_work_is_ours():
  assert share_of() == Share(0, 1)
  assert share_of().of([1, 2, 3]) == [1, 2, 3]
  assert processes.gathered(share_of(), ['a', 'b']) == ['a', 'b']


@pytest.mark.parametrize('count', [1, 2, 3, 7])
def test_shares_are_every_item_once(count):
  parts = [Share(k, count).of('abcde') for k in range(count)]
  assert sorted(item for part in parts for item in part) == list('abcde')
  assert max(map(len, parts)) - min(map(len, parts)) <= 1
  assert parts[-1][:1] == list('abcde'[count - 1 : count])


@pytest.mark.parametrize(
  ('told', 'message'),
  [
    (['--num_processes=2'], 'go together'),
    (['--process_id=0'], 'go together'),
    (['--coordinator=host:1'], 'go together'),
    (
      ['--coordinator=host:1', '--num_processes=2', '--process_id=2'],
      '--process_id=2 has to be below',
    ),
    *(
      (['--num_processes=2', '--process_id=1', f'--coordinator={wrong}'], f'{wrong} is not HOST')
      for wrong in ('host', 'host:', ':80', 'host:0', 'host:65536', 'host:-1')
    ),
  ],
)
def test_flags_that_do_not_fit_are_named(told, message):
  with pytest.raises(flags.Error, match=message):
    share_of(*told)


def test_what_the_others_have_written_does_not_stop_a_process(tmp_path):
  tasks = [files.Task(tmp_path / f'{i}.png', tmp_path / f'{i}.cjx') for i in range(2)]
  for source, _ in tasks:
    source.touch()
  tasks[0].target.touch()
  files.check(tasks[1:], force=False)
  with pytest.raises(CodecError, match=r'0\.cjx exists'):
    files.check(tasks, force=False)


@pytest.mark.slow
def test_two_processes_compress_a_folder_as_one_does(images, tmp_path):
  where = free_port()

  def start(name, *more):
    told = ['--mode=compress', '--method=kmeans', f'--input={images}', '--lambda=0.001']
    program = [sys.executable, 'run.py', *told, f'--output={tmp_path / name}', *more]
    return subprocess.Popen(program, cwd=ROOT, stderr=subprocess.PIPE, text=True)

  def end(process):
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0, errors
    return errors.count(' -> ')

  shared = f'--coordinator={where}', '--num_processes=2'
  pair = [start('shared', *shared, f'--process_id={k}') for k in (0, 1)]
  assert [end(process) for process in pair] == [2, 1]
  assert end(start('alone')) == 3
  alone, both = (
    {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
    for name in ('alone', 'shared')
  )
  assert both == alone and set(alone) == {'0.cjx', '1.cjx', '2.cjx'}


def measured(todo, jobs, make, processes, repeats, chosen):
  """In place of worker processes: the second image fails."""
  for i in todo:
    name = jobs[i].image
    scores = {'bpp': 1.0, 'psnr': 30.0, 'ms_ssim': 0.9}
    found = measure.Measured((4, 4, 3), name.encode(), 0.1, 0.1, {'all': 1.0}, scores, '')
    yield i, 'cannot be coded' if name == '1' else found


@pytest.fixture
def reports(monkeypatch):
  """(names of images, failures) of every report."""
  written = []

  def report(output, meta, rows, images, preview_budget, chosen):
    written.append(([row['image'] for row in rows], meta['failures']))

  monkeypatch.setattr(kodak, 'report', report)
  monkeypatch.setattr(evaluate, 'measured', measured)
  return written


def compare(images, output, *told):
  flags = ['--methods=png', f'--images={images}', f'--output={output}', *told]
  return lambda: kodak.main(['kodak', *flags])


def in_turns(monkeypatch, compares, total):
  """Runs the same comparison as each process, the first one last; their exit statuses."""
  told, statuses = [], []

  def hear(mine, words):
    told.extend(words)
    return list(told)

  monkeypatch.setattr(processes, 'gathered', hear)
  for rank in reversed(range(total)):
    monkeypatch.setattr(cli_processes, 'join', lambda values, rank=rank: Share(rank, total))
    statuses.insert(0, compares())
  return statuses


def test_process_0_reports_what_all_have_measured(images, tmp_path, reports, monkeypatch):
  assert in_turns(monkeypatch, compare(images, tmp_path), 2) == [1, 0]
  assert reports == [(['0', '2'], ['png quality=9 1: cannot be coded'])]
  assert len(journal.read(tmp_path / 'rows-0.jsonl')) == 2
  assert not (tmp_path / 'rows.jsonl').exists()


def test_rows_of_several_processes_are_used_by_one(images, tmp_path, reports, capsys, monkeypatch):
  in_turns(monkeypatch, compare(images, tmp_path), 3)
  monkeypatch.undo()
  monkeypatch.setattr(kodak, 'report', lambda *_: reports.append(_))
  monkeypatch.setattr(evaluate, 'measured', measured)
  capsys.readouterr()
  assert compare(images, tmp_path)() == 1
  assert '2 rows, 2 of them from earlier runs' in capsys.readouterr().out


def test_a_row_that_got_lost_is_a_failure(images, tmp_path, reports):
  job = evaluate.jobs_of([recipes.anchor('png', 9)], kodak.sets.default_images(str(images))[1])
  result = evaluate.collected(job, ['png quality=9 1: broken'], output=tmp_path)
  lost = 'no process has left a row'
  told = ['png quality=9 1: broken', f'png quality=9 0: {lost}', f'png quality=9 2: {lost}']
  assert result.rows == [] and result.failures == told
