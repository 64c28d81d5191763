"""What a run shows, and that a run that goes on shows each step once."""

import csv

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from compress_jax.training.progress import Progress


def open_progress(folder, lines, step=0):
  return Progress(folder, lines.append, step=step, steps=1000, batch=8)


def rows(path):
  with open(path, newline='') as file:
    return list(csv.DictReader(file))


def test_a_line_tells_step_loss_rate_and_what_is_left(tmp_path):
  lines = []
  progress = open_progress(tmp_path, lines)
  progress.metrics(100, {'loss': 1.5, 'bpp': 0.25, 'psnr': 30.0, 'skipped': 2.0}, 0.5)
  progress.close()
  assert lines == [
    'step 100/1000  loss 1.5  bpp 0.25  psnr 30  skipped 2  16.0 images/s  00:07:30 left'
  ]


def test_the_table_holds_float32_values_exactly(tmp_path):
  values = np.random.default_rng(0).random(50).astype(np.float32)
  progress = open_progress(tmp_path, [])
  for step, value in enumerate(values):
    progress.metrics(step, {'loss': float(value)}, 1.0)
  progress.close()
  found = np.array([row['loss'] for row in rows(tmp_path / 'train.csv')], np.float32)
  np.testing.assert_array_equal(found, values)


def test_rows_after_the_step_that_a_run_goes_on_from_are_dropped(tmp_path):
  progress = open_progress(tmp_path, [])
  for step in (10, 20, 30):
    progress.metrics(step, {'loss': step / 7, 'bpp': 1.0}, 1.0)
  progress.close()
  before = (tmp_path / 'train.csv').read_bytes()
  with open(tmp_path / 'train.csv', 'ab') as file:
    file.write(b'4')  # Killed in the middle of a line.
  progress = open_progress(tmp_path, [], step=20)
  progress.metrics(30, {'bpp': 1.0, 'loss': 30 / 7}, 1.0)  # In another order.
  progress.close()
  assert (tmp_path / 'train.csv').read_bytes() == before


def test_validation_goes_to_its_own_table_and_tensorboard(tmp_path):
  lines = []
  progress = open_progress(tmp_path, lines)
  image = np.zeros((8, 9, 3), np.uint8)
  progress.validation(50, {'score': 2.0, 'bpp_0.01': 0.3}, {'0.01': image})
  progress.close()
  assert rows(tmp_path / 'validation.csv') == [{'step': '50', 'score': '2', 'bpp_0.01': '0.3'}]
  assert lines == ['step 50  files: score 2  bpp_0.01 0.3']
  tags = {value.tag for event in events(tmp_path) for value in event.summary.value}
  assert tags == {'validation/score', 'validation/bpp_0.01', 'validation/0.01'}


def events(folder):
  """The records of the only event file: length, CRC, data, CRC."""
  [path] = (folder / 'tensorboard').iterdir()
  data, at, found = path.read_bytes(), 0, []
  while at < len(data):
    size = int.from_bytes(data[at : at + 8], 'little')
    found.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + size]))
    at += size + 16
  return found


@pytest.mark.parametrize('text', ['', 'step,loss\n', 'step,loss\n,\n'])
def test_an_empty_table_is_begun_anew(tmp_path, text):
  (tmp_path / 'train.csv').write_text(text)
  progress = open_progress(tmp_path, [])
  progress.metrics(10, {'loss': 1.0}, 1.0)
  progress.close()
  assert [row['step'] for row in rows(tmp_path / 'train.csv')] == ['10']
