import functools
import math
import multiprocessing
import os

import numpy as np
import pytest

from compress_jax.codec import Codec, CodecError
from compress_jax.evaluation import chosen_metrics, evaluate, journal, measure
from compress_jax.images.sets import NamedImage
from compress_jax.runtime import workers

STEP = 8


def make(recipe):
  """Codecs that quantise to steps and remember the process that wrote the file."""
  crash = recipe.method == 'crashing'

  def encode(released, image):
    if image[0, 0, 0] == 1 and recipe.method != 'plain':
      os._exit(7) if crash else refuse()
    head = np.array([os.getpid(), *image.shape], '<i4').tobytes()
    return head + (image // STEP).tobytes()

  def decode(released, data):
    pid, *shape = np.frombuffer(data[:16], '<i4')
    if pid == os.getpid():
      raise CodecError('decoded where it was encoded')
    return np.frombuffer(data[16:], np.uint8).reshape(shape) * STEP

  def split(released, data):
    return {'head': 16.0, 'pixels': len(data) - 16.0}

  return Codec(encode, decode, split), ()


def refuse():
  raise CodecError('cannot code this')


def pixels(value):
  return np.full((2, 3, 3), value, np.uint8)


def images(*values):
  return [NamedImage(f'image{v}', functools.partial(pixels, v)) for v in values]


def recipe(method, point=0.5, **options):
  return measure.Recipe(method, f'{method}-codec', 'lambda', point, tuple(options.items()))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Three codecs on three images; two of them fail on the one whose pixels are 1."""
  folder = tmp_path_factory.mktemp('run')
  recipes = [recipe(method) for method in ('crashing', 'refusing', 'plain')]
  jobs = evaluate.jobs_of(recipes, images(0, 1, 20))
  result = evaluate.evaluate(jobs, make, output=folder, protocol='crop', processes=1)
  return folder, jobs, result


def test_failures_are_named_and_the_rest_goes_on(run):
  _, _, result = run
  assert [(row['codec'], row['image']) for row in result.rows] == [
    *(('crashing-codec', 'image0'), ('crashing-codec', 'image20')),
    *(('refusing-codec', 'image0'), ('refusing-codec', 'image20')),
    *(('plain-codec', name) for name in ('image0', 'image1', 'image20')),
  ]
  crashed, refused = result.failures
  assert 'crashing-codec lambda=0.5 image1' in crashed and 'exit code 7' in crashed
  assert 'refusing-codec lambda=0.5 image1: cannot code this' in refused


class Unloadable:
  """A function that can be pickled, but not loaded again."""

  def __reduce__(self):
    return os._exit, (9,)


def test_processes_that_cannot_start_end_the_run(tmp_path):
  jobs = evaluate.jobs_of([recipe('plain')], images(*range(8)))
  with pytest.raises(CodecError, match=r'ended before it could work \(exit code 9\)'):
    evaluate.evaluate(jobs, Unloadable(), output=tmp_path, processes=2)
  assert not multiprocessing.active_children()


def test_a_row_says_what_the_file_costs_and_gives(run):
  folder, _, result = run
  row = result.rows[-1]
  file = (folder / row['file']).read_bytes()
  assert row['bytes'] == len(file) == 16 + 18
  assert row['bpp'] == pytest.approx(34 * 8 / 6)
  assert row['psnr'] == pytest.approx(20 * math.log10(255 / 4))  # 20 becomes 16.
  assert row['ms_ssim'] is None  # Too small.
  assert row['split'] == {'head': 16, 'pixels': 18}
  assert (row['width'], row['height'], row['lambda'], row['protocol']) == (3, 2, 0.5, 'crop')
  assert row['sha256_pixels'] == measure.pixel_hash(pixels(16))
  assert row['encode_s'] > 0 and row['decode_s'] > 0
  assert row['processor'] == workers.processor()
  assert result.rows[0]['psnr'] is None  # 0 stays 0: infinite.


def todo_of(monkeypatch, jobs, folder, chosen=chosen_metrics.NOTHING):
  """The result, and the jobs that are measured: none is."""
  tried = []

  def measured(todo, *args):
    tried.extend(todo)
    yield from ()

  with monkeypatch.context() as patch:
    patch.setattr(evaluate, 'measured', measured)
    found = evaluate.evaluate(jobs, make, output=folder, protocol='crop', chosen=chosen)
  return found, tried


def test_finished_rows_are_used_again_and_failed_ones_tried_again(run, monkeypatch):
  folder, jobs, result = run
  again, tried = todo_of(monkeypatch, jobs, folder)
  assert again.rows == result.rows and again.reused == 7
  assert tried == [1, 4]


@pytest.mark.parametrize(
  'change',
  [
    lambda job: job._replace(load=lambda: job.load() + np.uint8(1)),
    lambda job: job._replace(recipe=job.recipe._replace(point=0.6)),
    lambda job: job._replace(recipe=job.recipe._replace(options=(('k', 2),))),
    lambda job: job._replace(recipe=job.recipe._replace(code='newer')),
  ],
  ids=['pixels', 'lambda', 'option', 'code'],
)
def test_a_row_is_measured_again_when_its_inputs_changed(run, monkeypatch, change):
  folder, jobs, _ = run
  _, tried = todo_of(monkeypatch, [change(jobs[0]), jobs[2]], folder)
  assert tried == [0]


def test_a_row_without_a_metric_that_is_asked_for_is_measured_again(tmp_path, monkeypatch):
  """A row of other weights of LPIPS as well."""
  folder, plain = tmp_path, evaluate.jobs_of([recipe('plain')], images(0))
  asked = chosen_metrics.Chosen(('lpips',), None, ('no weights',))
  first = evaluate.evaluate(plain, make, output=folder, protocol='crop', chosen=asked)
  assert first.reused == 0 and first.rows[0]['lpips'] is None
  again = evaluate.evaluate(plain, make, output=folder, protocol='crop', chosen=asked)
  assert again.reused == 1 and again.rows == first.rows
  other = asked._replace(about=('LPIPS, weights 01234567',))
  for chosen, todo in ((asked, []), (other, [0]), (chosen_metrics.NOTHING, [0])):
    _, tried = todo_of(monkeypatch, plain, folder, chosen)
    assert tried == todo


def test_an_interrupt_leaves_the_finished_rows_and_no_processes(tmp_path, monkeypatch):
  append = journal.append

  def once(*args):
    append(*args)
    raise KeyboardInterrupt

  jobs = evaluate.jobs_of([recipe('plain')], images(0, 8, 16))
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(journal, 'append', once)
    evaluate.evaluate(jobs, make, output=tmp_path, processes=2)
  assert not multiprocessing.active_children()
  assert len(journal.read(tmp_path / 'rows.jsonl')) == 1
  result = evaluate.evaluate(jobs, make, output=tmp_path)
  assert result.reused == 1 and len(result.rows) == 3 and not result.failures


def test_an_unreadable_image_is_named_once(tmp_path):
  bad = NamedImage('bad', refuse)
  jobs = evaluate.jobs_of([recipe('plain', 1), recipe('plain', 2)], [bad])
  result = evaluate.evaluate(jobs, make, output=tmp_path)
  assert result == evaluate.Result([], ['cannot code this'], 0)


def test_a_lost_or_altered_file_makes_its_row_invalid(tmp_path):
  row = {'file': 'x', 'sha256_file': measure.hashlib.sha256(b'abc').hexdigest()}
  assert not evaluate._valid(row, tmp_path)
  (tmp_path / 'x').write_bytes(b'abc')
  assert evaluate._valid(row, tmp_path)
  (tmp_path / 'x').write_bytes(b'abd')
  assert not evaluate._valid(row, tmp_path)
