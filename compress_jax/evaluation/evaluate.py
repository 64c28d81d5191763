"""Measurement of codecs on images through real files: one process writes them, another reads them.

A row holds the cost and the quality of the file of a codec at an operating point:

    method, codec, lambda | quality, image, protocol, width, height, bytes,
    bpp, psnr, ms_ssim (either may be None, see `measure.scores`), encode_s,
    decode_s, sha256_file, sha256_pixels, split (bytes by purpose), file, processor,
    and, where they are chosen, ssimulacra2, lpips and wasserstein (None where there is none)

Rows are written to `rows.jsonl` in the output folder as they are finished, and
used again as long as everything that decides them is unchanged. Each of several
processes has its own journal there; all of them are read.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from compress_jax.codec import CodecError, Image
from compress_jax.evaluation import journal
from compress_jax.evaluation.chosen_metrics import NOTHING, Chosen
from compress_jax.evaluation.journal import Row
from compress_jax.evaluation.measure import Job, Make, Measured, Recipe, measured, pixel_hash
from compress_jax.files.atomic import write_atomically
from compress_jax.images import sets
from compress_jax.runtime import jax_settings, workers

ROWS = 'rows.jsonl'
SCHEMA = 1  # Version of the rows' fields; rows of older versions are measured again.


class Result(NamedTuple):
  """The rows of the jobs in their order, without the failed ones, and the failures."""

  rows: list[Row]
  failures: list[str]  # A line for each failed job.
  reused: int  # Number of rows that were not measured again.


def jobs_of(recipes: Sequence[Recipe], images: Sequence[sets.NamedImage]) -> list[Job]:
  """Returns a job for every codec on every image, codec by codec."""
  return [Job(recipe, image.name, image.load) for recipe in recipes for image in images]


def protocol_images(
  images: Sequence[sets.NamedImage], protocol: str, limit: int | None = None
) -> list[sets.NamedImage]:
  """Returns the first `limit` images, complete ('full') or cropped to 256x256 ('crop')."""
  chosen = list(images[:limit])
  if protocol == 'full':
    return chosen
  return [image._replace(load=functools.partial(_cropped, image.load)) for image in chosen]


def evaluate(
  jobs: Sequence[Job],
  make: Make,
  *,
  output: Path,
  protocol: str = 'full',
  processes: int = 1,
  timing_repeats: int = 1,
  rows: str = ROWS,
  chosen: Chosen = NOTHING,
) -> Result:
  """Measures the jobs for which `output` has no valid row.

  Args:
    jobs: jobs whose images are cropped to the protocol already.
    make: builds a recipe's codec; picklable, called in the workers.
    output: a folder for `rows.jsonl` and the coded `files/`.
    protocol: name that is written to the rows.
    processes: number of processes that encode, and of others that decode. With more than one
      the seconds in the rows include the noise of the other processes.
    timing_repeats: number of calls whose median time is measured, after one that
      compiles; 0 measures that first call.
    rows: the journal to write, `rows*.jsonl`; no other process may write it.
    chosen: metrics besides PSNR and MS-SSIM. Rows without them are measured again.

  Returns:
    Rows, and a line for each job that failed: the others are not affected.

  Raises:
    CodecError: there is no device, or a process ended before it could work.
  """
  jax_settings.check_devices()
  output.mkdir(parents=True, exist_ok=True)
  keys, failures = _keys(jobs, protocol, chosen)
  known = _known(output)
  reused = sum(key in known for key in keys.values())
  todo = [i for i, key in keys.items() if key not in known]
  answers = measured(todo, jobs, make, processes, timing_repeats, chosen)
  bar = tqdm(total=len(todo), unit='file', disable=None if todo else True)
  with contextlib.closing(answers), bar:
    for i, answer in answers:
      bar.set_postfix_str(job_label(jobs[i]), refresh=False)
      bar.update()
      if isinstance(answer, str):
        failures.append(f'{job_label(jobs[i])}: {answer}')
      else:
        known[keys[i]] = _keep(jobs[i], answer, protocol, output)
        journal.append(output / rows, keys[i], known[keys[i]])
  return Result([known[key] for key in keys.values() if key in known], failures, reused)


def collected(
  jobs: Sequence[Job],
  reported: Sequence[str],
  *,
  output: Path,
  protocol: str = 'full',
  chosen: Chosen = NOTHING,
) -> Result:
  """Returns the rows that several processes have measured, each in its own journal.

  Args:
    jobs: the jobs of all processes.
    reported: lines about failed jobs, from all processes.
    output: the folder of the processes.
    protocol: the protocol of the processes.
    chosen: the metrics that they measured.
  """
  keys, unreadable = _keys(jobs, protocol, chosen)
  known, failures = _known(output), list(dict.fromkeys([*reported, *unreadable]))
  for i, key in keys.items():
    label = job_label(jobs[i])
    if key not in known and not any(line.startswith(f'{label}: ') for line in reported):
      failures.append(f'{label}: no process has left a row')
  rows = [known[key] for key in keys.values() if key in known]
  return Result(rows, failures, len(rows))


def job_label(job: Job) -> str:
  """Returns the name of a job for messages."""
  return f'{job.recipe.codec} {job.recipe.scale}={job.recipe.point:g} {job.image}'


def _known(output: Path) -> dict[str, Row]:
  """Returns the rows of all journals whose files still exist."""
  rows: dict[str, Row] = {}
  for path in sorted(output.glob('rows*.jsonl')):
    rows |= {key: row for key, row in journal.read(path).items() if _valid(row, output)}
  return rows


def _keys(jobs: Sequence[Job], protocol: str, chosen: Chosen) -> tuple[dict[int, str], list[str]]:
  """Returns the fingerprint of everything that decides a row, by job, and error messages.

  The messages name the images that cannot be read.
  """
  images: dict[str, str | None] = {}
  keys, failures = {}, []
  for i, job in enumerate(jobs):
    if job.image not in images:
      try:
        images[job.image] = pixel_hash(job.load())
      except CodecError as error:
        images[job.image] = None
        failures.append(str(error))
    if images[job.image]:
      parts = SCHEMA, job.image, images[job.image], job.recipe, protocol
      keys[i] = journal.fingerprint(*parts, *zip(chosen.names, chosen.about, strict=True))
  return keys, failures


def _cropped(load: Callable[[], Image]) -> Image:
  return sets.centre_crop(load())


def _keep(job: Job, result: Measured, protocol: str, output: Path) -> Row:
  """Stores the file and returns its row."""
  recipe = job.recipe
  file = Path('files') / recipe.codec / f'{recipe.point:g}' / (job.image + recipe.suffix)
  (output / file).parent.mkdir(parents=True, exist_ok=True)
  write_atomically(output / file, result.file, overwrite=True)
  return {
    'method': recipe.method,
    'codec': recipe.codec,
    recipe.scale: recipe.point,
    'image': job.image,
    'protocol': protocol,
    'width': result.shape[1],
    'height': result.shape[0],
    'bytes': len(result.file),
    **result.scores,
    'encode_s': result.encode_s,
    'decode_s': result.decode_s,
    'sha256_file': hashlib.sha256(result.file).hexdigest(),
    'sha256_pixels': result.sha256_pixels,
    'split': result.split,
    'file': file.as_posix(),
    'processor': workers.processor(),
  }


def _valid(row: Row, output: Path) -> bool:
  """Returns whether the file that the row describes still exists, unchanged."""
  path = output / row['file']
  return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == row['sha256_file']
