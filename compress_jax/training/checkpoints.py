"""Training state on disk, by orbax: complete steps only, the last three and the best.

orbax writes a step to a temporary folder and renames it. Damage by a crash of the system or a full
disk is detected by the digest that is stored with the step.

A step that cannot be read may be sound: under other settings, with another version of a library, or
after a change of permissions. So it is never changed. Where such a step is newer than the one that
a run continues from, later steps are saved in a separate folder inside the first, `continued-1`:
there they neither replace it nor cause its removal when old steps are deleted.
"""

import json
import logging
import math
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from compress_jax.codec import CodecError
from compress_jax.files.atomic import write_atomically
from compress_jax.files.digests import digest

LAST = 3  # Number of steps that are kept, beside the best.
SCORE = 'score'  # The metric by which steps are compared; less is better.
_SPARE = 2**20  # Bytes that a step takes beside its arrays.
_CONTINUED = 'continued-{}'  # Folders for the steps that follow unreadable ones.
_ABOUT = 'about/metadata'  # The JSON that orbax writes beside the arrays of a step.
_REMOVED = 'removed'  # Old steps move here first: a step that is half deleted must not be listed.
# The tensorstore driver of an array, by the name of the file that describes it.
_DRIVERS = {'.zarray': 'zarr', 'zarr.json': 'zarr3'}
Log = Callable[[str], None]


class Checkpoints:
  """The steps in a folder; reading writes nothing, so it does not disturb a program that saves."""

  def __init__(self, folder: Path, log: Log) -> None:
    logging.getLogger('absl').setLevel(logging.ERROR)  # orbax logs a page for every save.
    self._folder, self._log = folder, log
    self._target = _folders(folder)[-1]  # The folder in which steps are saved.
    self._manager: ocp.CheckpointManager | None = None  # Made by the first save.

  def save(self, step: int, tree: Any) -> None:
    """Writes a step, which has no score yet.

    Raises:
      CodecError: it cannot be written; the steps before it are as they were.
    """
    arrays = jax.tree.map(np.asarray, tree)
    about = ocp.args.JsonSave({'digest': digest(named(arrays)).hex(), SCORE: None})
    items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), about=about)
    if self._manager is None:
      self._manager = _manager_of(self._target)
    # Part of a step would fill the disk permanently, and orbax's threads would log pages about it.
    needed = _SPARE + sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
    free = shutil.disk_usage(self._target).free
    if free < needed:
      raise CodecError(
        f'{self._target}: checkpoint {step} needs {needed >> 20} MiB of disk, {free >> 20} are '
        f'free; the steps before it are there'
      )
    try:
      self._manager.save(step, args=items, force=True)
    except Exception as error:  # tensorstore raises ValueError.
      text = f'{self._target}: checkpoint {step} could not be written ({_reason(error)})'
      raise CodecError(text) from error
    _empty(self._target)

  def score(self, step: int, value: float) -> None:
    """Writes the score of a step that this object has saved, of which less is better.

    Raises:
      CodecError: it cannot be written; the step is as it was.
    """
    path = self._target / str(step)
    about = {**_about(path), SCORE: value}
    write_atomically(path / _ABOUT, json.dumps(about).encode(), overwrite=True)

  def restore(self, like: Any) -> Any | None:
    """Returns the newest step that is sound, in the form of arrays `like`; None if there are none.

    Raises:
      CodecError: there are steps, but none of them can be read.
    """
    form = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
    failed: dict[Path, str] = {}
    paths = _steps(self._folder)
    while paths:
      path = paths.pop(0)
      try:
        state = _read(path, form)
      except Exception as error:  # Orbax and tensorstore raise many kinds.
        failed[path] = _reason(error)
        if _is_gone(path):  # A program that saves here has removed it: there are newer ones.
          paths, failed = _steps(self._folder), {}
        continue
      self._report_unreadable(failed, path)
      return state
    if failed:
      newest = next(iter(failed))
      numbers = ', '.join(path.name for path in failed)
      raise CodecError(
        f'{self._folder}: of the checkpoints {numbers} none can be read, and none was touched. '
        f'{newest}: {failed[newest]}. Start with the program and the settings that wrote them, '
        f'or mend the files; another folder begins anew'
      )
    return None

  def best(self) -> tuple[int, float] | None:
    """Returns the step of the lowest score, and the score; None if no step has one."""
    scores = {int(path.name): _score(path) for path in _steps(self._folder)}
    known = {step: score for step, score in scores.items() if score is not None}
    return min(known.items(), key=lambda item: item[1]) if known else None

  def close(self) -> None:
    """Ends the threads of orbax."""
    if self._manager is not None:
      self._manager.close()

  def _report_unreadable(self, failed: Mapping[Path, str], restored: Path) -> None:
    """Logs the steps that could not be read, and saves later steps in another folder."""
    for path, reason in failed.items():
      self._log(
        f'warning: checkpoint {path.name} cannot be read and stays as it is ({path}: {reason}); '
        f'{restored.name} is taken in its place'
      )
    if any(path.parent == self._target for path in failed):
      self._target = self._folder / _CONTINUED.format(len(_folders(self._folder)))


class _Kept(NamedTuple):
  """A policy that decides which steps are kept.

  The policies of orbax would read the scores of all steps, or fail.
  """

  folder: Path

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
    """Keeps the last steps, the best, and those whose score cannot be read."""
    del context
    steps = [info.step for info in checkpoints]
    kept, scores = set(steps[-LAST:]), dict[int, float]()
    for step in steps:
      try:
        score = _score(self.folder / str(step))
      except Exception:
        kept.add(step)
      else:
        scores |= {} if score is None else {step: score}
    kept |= {min(scores, key=scores.__getitem__)} if scores else set()
    return [step in kept for step in steps]


def named(tree: Any) -> Mapping[str, np.ndarray]:
  """Returns the arrays of a tree by their paths."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(value) for path, value in leaves}


def _manager_of(folder: Path) -> ocp.CheckpointManager:
  """Returns a manager that saves steps; it removes the unfinished steps of other programs."""
  options = ocp.CheckpointManagerOptions(
    preservation_policy=_Kept(folder),
    cleanup_tmp_directories=True,
    enable_async_checkpointing=False,
    lightweight_initialize=True,
    todelete_subdir=_REMOVED,
  )
  manager = ocp.CheckpointManager(folder.resolve(), options=options)
  _empty(folder)
  return manager


def _empty(folder: Path) -> None:
  """Deletes the steps that were rotated out."""
  if jax.process_index() == 0:
    shutil.rmtree(folder / _REMOVED, ignore_errors=True)


def _folders(folder: Path) -> list[Path]:
  """Returns the folders that may hold steps, in the order in which they were created."""
  folders = [folder]
  while (more := folder / _CONTINUED.format(len(folders))).is_dir():
    folders.append(more)
  return folders


def _steps(folder: Path) -> list[Path]:
  """Returns all paths with the name of a step, the newest first."""
  paths = []
  for i, each in enumerate(_folders(folder)):
    with suppress(FileNotFoundError):
      paths += [(int(p.name), i, p) for p in each.iterdir() if p.name.isdecimal()]
  return [path for *_, path in sorted(paths, reverse=True)]


def _is_gone(path: Path) -> bool:
  try:
    path.lstat()
  except FileNotFoundError:
    return True
  except OSError:  # The state of the path is unknown.
    pass
  return False


def _score(path: Path) -> float | None:
  score: float | None = _about(path)[SCORE]
  return score if score is not None and math.isfinite(score) else None


def _about(path: Path) -> dict[str, Any]:
  """Reads the JSON file that orbax saved beside the arrays of a step."""
  about: dict[str, Any] = json.loads((path / _ABOUT).read_text())
  return about


def _read(path: Path, form: Any) -> Any:
  about, stored = _about(path), _stored((path / 'state').resolve())
  leaves, structure = jax.tree_util.tree_flatten_with_path(form)
  wanted = {jax.tree_util.keystr(key, simple=True, separator='.'): leaf for key, leaf in leaves}
  _compare(stored, wanted)
  values = [np.asarray(stored[name].read().result()) for name in wanted]
  arrays = jax.tree.unflatten(structure, values)
  if digest(named(arrays)).hex() != about['digest']:
    raise CodecError('its arrays are not those that were saved')
  return arrays


def _stored(folder: Path) -> dict[str, Any]:
  """Returns handles of the arrays that orbax has written, by name, to be read one by one.

  orbax would read all of them at once: where a file is damaged, hundreds of reads log errors.
  """
  store = {'driver': 'ocdbt', 'base': {'driver': 'file', 'path': f'{folder}/'}}
  context, arrays = tensorstore.Context(), {}
  for key in tensorstore.KvStore.open(store, context=context).result().list().result():
    name, _, file = key.decode().rpartition('/')
    if file in _DRIVERS:
      spec = {'driver': _DRIVERS[file], 'kvstore': {**store, 'path': f'{name}/'}}
      arrays[name] = tensorstore.open(spec, context=context, read=True).result()
  if not arrays:
    raise CodecError('its arrays are not there')
  return arrays


def _compare(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
  if missing := [name for name in wanted if name not in stored]:
    raise CodecError(f'it has no {missing[0]}, which this program needs')
  if unknown := [name for name in stored if name not in wanted]:
    raise CodecError(f'it has {unknown[0]}, which this program does not know')
  for name, array in wanted.items():
    there, here = (_described(each) for each in (stored[name], array))
    if there != here:
      raise CodecError(f'its {name} is {there}, and {here} in this program')


def _described(array: Any) -> str:
  return f'{np.dtype(getattr(array.dtype, "numpy_dtype", array.dtype))}{list(array.shape)}'


def _reason(error: Exception) -> str:
  return textwrap.shorten(str(error), 240, placeholder=' ...')
