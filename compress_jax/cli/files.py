"""--mode=compress and --mode=decompress of the command line: files, folders and pipes."""

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from absl import flags

from compress_jax.cli import console, progress, records
from compress_jax.cli.coding import Made, Task, Work, compressor, decompressor
from compress_jax.cli.processes import join
from compress_jax.codec import CodecError, Progress
from compress_jax.files.atomic import write_atomically
from compress_jax.images import sets
from compress_jax.images.listing import Report, natural, renamed, walk
from compress_jax.runtime import allocation, processes
from compress_jax.runtime.compilation_cache import enable_cache

PIPE = '-'
SUFFIX = '.cjx'


class Ways(NamedTuple):
  """Settings of how files are written and reported."""

  several: bool  # Whether a file that fails is reported while the others go on.
  force: bool  # Whether existing files are overwritten.
  json: bool  # Whether reports are lines of JSON.


def run(values: flags.FlagValues) -> int:
  """Compresses or decompresses files; returns 1 if any file failed or was left out, else 0.

  With several processes, each makes its share of the files and returns the status of all.

  Raises:
    CodecError: no file can be made, or the work would overwrite a file.
    flags.Error: a flag is missing or does not fit.
  """
  for name in ('input', 'output'):
    if not values[name].value:
      raise flags.Error(f'--mode={values.mode} needs --{name}')
  if values.force and values.skip_existing:
    raise flags.Error('--force and --skip_existing exclude each other')
  if values.json and values.output == PIPE:
    raise flags.Error('--json and --output=- exclude each other: both write to stdout')
  with records.failing(values.input, json=values.json):
    share = join(values)
    return 1 if processes.gathered(share, ['failed'] * bool(_run(values, share))) else 0


def _run(values: flags.FlagValues, share: processes.Share) -> int:
  """Makes this process's files; returns the number of files that failed or were left out."""
  skipped: list[str] = []

  def report(line: str) -> None:
    if share.rank == 0:  # All processes see the same folder.
      skipped.append(line)
      print(f'error: {line}', file=sys.stderr)
      if values.json:
        records.failed_line(line)

  if values.mode == 'compress':
    work = compressor(values)
    find = functools.partial(sets.find_images, report=report)
    tasks = plan(values.input, values.output, SUFFIX, find)
  else:
    work = decompressor(values)
    tasks = plan(values.input, values.output, '.png', functools.partial(_find_coded, report=report))
  ways, ours = Ways(len(tasks) > 1, values.force, values.json), share.of(tasks)
  if values.skip_existing:
    ours = _missing(ours)
  check(ours, force=values.force)
  allocation.keep_freed_memory()
  enable_cache()
  devices, failed = jax.local_device_count(), 0
  for start in range(0, len(ours), devices):  # Learned methods use all devices for a group.
    failed += _failures(ours[start : start + devices], work, ways)
  if failed and ways.several:
    print(f'{failed} of {len(ours)} files failed', file=sys.stderr)
  if skipped:
    print(f'{len(skipped)} files or folders were left out, see above', file=sys.stderr)
  return failed + len(skipped)


def _missing(tasks: list[Task]) -> list[Task]:
  """Returns the tasks whose targets do not exist yet; prints how many exist."""
  missing = []
  for task in tasks:
    if task.target is None or not task.target.is_file():
      missing.append(task)
    elif task.source and task.target.stat().st_mtime < task.source.stat().st_mtime:
      print(f'{task.target} is kept, but older than {task.source}', file=sys.stderr)
  print(f'{len(tasks) - len(missing)} of {len(tasks)} files are there and kept', file=sys.stderr)
  return missing


def plan(source: str, target: str, suffix: str, find: Callable[[Path], list[Path]]) -> list[Task]:
  """Returns the files to make; for a folder, one per file that `find` returns.

  Targets lie in the same subfolders as their sources. Files that would get the same name keep
  their suffixes in it: photo.jpg.cjx and photo.png.cjx.

  Raises:
    CodecError: the source does not exist, or it is a folder and the target is a file.
  """
  into = None if target == PIPE else Path(target)
  if source == PIPE:
    return [Task(None, into)]
  root = Path(source)
  if not root.is_dir():
    if not root.exists():
      raise CodecError(f'{root}: no such file or folder')
    if into is not None and (into.is_dir() or target.endswith('/')):
      into /= root.with_suffix(suffix).name
    return [Task(root, into)]
  if into is None or into.is_file():
    raise CodecError(f'{source} is a folder, so the output has to be one too')
  paths = find(root)
  names = renamed([path.relative_to(root) for path in paths], suffix)
  return [Task(path, into / name) for path, name in zip(paths, names, strict=True)]


def check(tasks: list[Task], *, force: bool) -> None:
  """Raises an error if a task would overwrite a file; to be called before any is written.

  Raises:
    CodecError: a target is a folder, exists (allowed by `force`), or is the same file as its
      source (never allowed).
  """
  for source, target in tasks:
    if target is None:
      continue
    if target.is_dir():
      raise CodecError(f'{target} is a folder')
    if source and target.exists() and target.samefile(source):
      raise CodecError(f'{target}: output and input are the same file')
    if target.is_file() and not force:
      raise CodecError(f'{target} exists; --force overwrites it, --skip_existing keeps it')


def _failures(tasks: list[Task], work: Work, ways: Ways) -> int:
  """Makes a group of files; returns the number of those that failed.

  Where the work has several files, a failure is reported and the others go on.

  Raises:
    CodecError: the only file of the work failed.
  """
  start, failed = time.perf_counter(), 0
  first = str(tasks[0].source or 'standard input')
  title = first if len(tasks) == 1 else f'{first} and {len(tasks) - 1} more'
  with progress.shown(title) as report_progress:
    all_made = _made(tasks, work, report_progress)
  for task, made in zip(tasks, all_made, strict=True):
    try:
      if isinstance(made, Exception):
        raise made
      _write(task, made.file, ways.force)
    except (CodecError, OSError) as error:
      line = _named(task, error)
      if not ways.several:
        raise records.FileError(line, str(task.source or PIPE)) from error
      print(f'error: {line}', file=sys.stderr)
      if ways.json:
        records.failed(str(task.source or PIPE), line)
      failed += 1
    else:
      _report(task, made, (time.perf_counter() - start) / len(tasks), ways)
  return failed


def _report(task: Task, made: Made, seconds: float, ways: Ways) -> None:
  """Prints the description of a file: a line of words to stderr, or one of JSON to stdout."""
  if ways.json:
    names = {'file': str(task.source or PIPE), 'output': str(task.target or PIPE)}
    records.write({**names, **made.facts, 'seconds': seconds})
  else:
    print(f'{task}: {made.report}, {seconds:.2f} s', file=sys.stderr)


def _made(tasks: list[Task], work: Work, progress: Progress) -> list[Made | Exception]:
  """Returns the result of `work` for each task, or its error.

  The tasks are done together. Where that fails, each is done alone, which shows the faulty one.
  """
  try:
    sources = [console.receive() if task.source is None else task.source for task in tasks]
    return [*work(list(zip(tasks, sources, strict=True)), progress)]
  except (CodecError, OSError) as error:
    if len(tasks) == 1:
      return [error]
    return [made for task in tasks for made in _made([task], work, progress)]


def _named(task: Task, error: Exception) -> str:
  """Returns the error in one line that names a file: the source where the error names none."""
  source = str(task.source or 'standard input')
  if isinstance(error, OSError) and error.strerror:
    return f'{error.filename or source}: {error.strerror}'
  text = str(error)
  names = source, str(task.target or 'standard output')
  named = any(text.startswith((f'{name}: ', f'{name} ')) for name in names)
  return text if named else f'{source}: {text}'


def _write(task: Task, file: bytes, force: bool) -> None:
  if task.target is None:
    if sys.stdout.isatty():
      raise CodecError('standard output is a terminal: send it to a file or a pipe')
    console.send(file)
    return
  try:
    task.target.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise CodecError(f'{task.target}: cannot be written ({error.strerror})') from error
  write_atomically(task.target, file, overwrite=force, source=task.source)


def _find_coded(root: Path, report: Report) -> list[Path]:
  paths = [path for path in walk(root, report) if path.suffix.lower() == SUFFIX]
  if not paths:
    raise CodecError(f'{root}: no {SUFFIX} files in this folder')
  return sorted(paths, key=lambda path: natural(path.relative_to(root).as_posix()))
