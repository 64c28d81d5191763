"""Training state on disk, by orbax: complete steps only, the last three and the best.

orbax writes a step to a temporary folder and renames it. What a crash of the system or a full
disk can still do to a step shows in the digest that is stored with it.
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from compress_jax.codec import CodecError
from compress_jax.hashing import digest

LAST = 3  # Steps that are kept, beside the best.
_SPARE = 2**20  # Bytes that a step takes beside its arrays.
SCORE = 'score'  # The metric of which less is better.
Log = Callable[[str], None]


class Checkpoints:
  """The steps in a folder."""

  def __init__(self, folder: Path, log: Log) -> None:
    logging.getLogger('absl').setLevel(logging.ERROR)  # A page for every save.
    best = policies.BestN(
      get_metric_fn=lambda metrics: -metrics[SCORE], n=1, keep_checkpoints_without_metrics=False
    )
    options = ocp.CheckpointManagerOptions(
      preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(LAST), best]),
      cleanup_tmp_directories=True,
      enable_async_checkpointing=False,
      best_fn=lambda metrics: -metrics[SCORE],
    )
    self._manager = ocp.CheckpointManager(folder.resolve(), options=options)
    self._folder, self._log = folder, log

  def save(self, step: int, tree: Any, score: float | None = None) -> None:
    """Writes a step.

    Raises:
      CodecError: it cannot be written; the steps before it are as they were.
    """
    arrays = jax.tree.map(np.asarray, tree)
    about = ocp.args.JsonSave({'digest': digest(named(arrays)).hex(), SCORE: score})
    items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), about=about)
    metrics = None if score is None else {SCORE: score}
    # Half of a step would fill the disk for good, and orbax's threads would tell pages about it.
    needed = _SPARE + sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
    free = shutil.disk_usage(self._folder).free
    if free < needed:
      raise CodecError(
        f'{self._folder}: checkpoint {step} needs {needed >> 20} MiB of disk, {free >> 20} are '
        f'free; the steps before it are there'
      )
    try:
      self._manager.save(step, args=items, metrics=metrics, force=True)
    except Exception as error:  # Tensorstore's errors are ValueErrors.
      reason = ' '.join(str(error).split())[:200]
      text = f'{self._folder}: checkpoint {step} could not be written ({reason})'
      raise CodecError(text) from error

  def restore(self, like: Any) -> Any | None:
    """The newest step that is sound, in the form of arrays `like`; None if there is none at all.

    Raises:
      CodecError: there are steps, but none of them is sound.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    form = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
    for step in steps:
      try:
        return self._read(step, form)
      except Exception as error:  # Orbax and tensorstore raise many kinds.
        reason = ' '.join(str(error).split())[:200]
        self._log(f'warning: checkpoint {step} is damaged and left out: {reason}')
        shutil.rmtree(self._folder / str(step), ignore_errors=True)
        self._manager.reload()
    if steps:
      raise CodecError(f'{self._folder}: none of the checkpoints can be read')
    return None

  def best(self) -> tuple[int, float] | None:
    """The step of the lowest score, and the score."""
    scores = {step: self._score(step) for step in self._manager.all_steps()}
    known = {step: score for step, score in scores.items() if score is not None}
    return min(known.items(), key=lambda item: item[1]) if known else None

  def close(self) -> None:
    """Ends its threads."""
    self._manager.close()

  def _score(self, step: int) -> float | None:
    about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))
    score: float | None = about['about'][SCORE]
    return score

  def _read(self, step: int, form: Any) -> Any:
    parts = {'state': ocp.args.StandardRestore(form), 'about': ocp.args.JsonRestore()}
    found = self._manager.restore(step, args=ocp.args.Composite(**parts))
    arrays = jax.tree.map(np.asarray, found['state'])
    if digest(named(arrays)).hex() != found['about']['digest']:
      raise CodecError('its arrays are not those that were saved')
    return arrays


def named(tree: Any) -> Mapping[str, np.ndarray]:
  """Arrays by their paths."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(value) for path, value in leaves}
