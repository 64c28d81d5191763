"""Reports of a training run: log lines, tables of metrics, TensorBoard's scalars and images."""

import csv
import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compress_jax.codec import Image
from compress_jax.files.atomic import write_atomically

SHOWN = ('loss', 'bpp', 'psnr', 'd_real', 'd_fake', 'perceptual')
Log = Callable[[str], None]


class Progress:
  """Writes reports into files in a folder; entries of steps after `step` are dropped first."""

  def __init__(self, folder: Path, log: Log, *, step: int, steps: int, batch: int) -> None:
    from tensorboardX import SummaryWriter  # Takes half a second.

    self._log, self.steps, self._batch = log, steps, batch
    self._board = SummaryWriter(str(folder / 'tensorboard'), purge_step=step + 1)
    self._tables = {name: _Table(folder / f'{name}.csv', step) for name in ('train', 'validation')}

  def metrics(self, step: int, means: Mapping[str, float], seconds: float) -> None:
    """Reports averages since the last call, and the seconds that a step took."""
    rate = self._batch / seconds
    self._write('train', step, {**means, 'images_per_s': rate})
    shown = '  '.join(f'{name} {means[name]:.4g}' for name in SHOWN if name in means)
    skipped = f'  skipped {means["skipped"]:.0f}' if means.get('skipped') else ''
    left = _duration((self.steps - step) * seconds)
    self._log(f'step {step}/{self.steps}  {shown}{skipped}  {rate:.1f} images/s  {left} left')

  def validation(self, step: int, values: Mapping[str, float], images: Mapping[str, Image]) -> None:
    """Reports figures of real files, and decoded images by name."""
    self._write('validation', step, values)
    for name, image in images.items():
      self._board.add_image(f'validation/{name}', image, step, dataformats='HWC')
    self._log(f'step {step}  files: {"  ".join(f"{k} {v:.4g}" for k, v in values.items())}')

  def close(self) -> None:
    """Writes buffered reports and closes the files."""
    self._board.close()

  def _write(self, table: str, step: int, values: Mapping[str, float]) -> None:
    self._tables[table].append({'step': step, **values})
    for name, value in values.items():
      self._board.add_scalar(f'{table}/{name}', value, step)


class _Table:
  """A CSV file, without the rows of steps after `step`, which will be repeated."""

  def __init__(self, path: Path, step: int) -> None:
    self._path, self._columns = path, list[str]()
    if not path.exists():
      return
    with open(path, newline='') as file:
      rows = csv.DictReader(file)
      self._columns = list(rows.fieldnames or [])
      kept = [row for row in rows if (row['step'] or '').isdigit() and int(row['step']) <= step]
    if None in kept[-1:] or (kept and None in kept[-1].values()):
      kept.pop()  # A crash has truncated this row.
    lines = [self._columns, *map(self._cells, kept)] if self._columns else []
    write_atomically(path, self._text(lines), overwrite=True)

  def append(self, row: Mapping[str, Any]) -> None:
    lines = [self._cells(row)]
    if not self._columns:
      self._columns = list(row)
      lines = [self._columns, self._cells(row)]
    with open(self._path, 'ab') as file:
      file.write(self._text(lines))

  def _cells(self, row: Mapping[str, Any]) -> list[Any]:
    values = (row.get(name, '') for name in self._columns)
    return [f'{value:.9g}' if isinstance(value, float | np.floating) else value for value in values]

  def _text(self, lines: list[list[Any]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator='\n').writerows(lines)
    return out.getvalue().encode()


def _duration(seconds: float) -> str:
  return time.strftime('%H:%M:%S', time.gmtime(seconds)) if seconds < 86400 else '>1 day'
