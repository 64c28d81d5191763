"""Several processes, on one host or many, that work as one, by JAX's own distributed runtime.

Training is one computation over all of their devices. Many files are many small ones: each
process takes its share of them to its own devices, and in the end they tell how it went.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from compress_jax.codec import CodecError
from compress_jax.runtime.extras import require

T = TypeVar('T')
_MEETINGS = itertools.count()  # A name for each: all processes meet in the same order.
_PATIENCE = 30 * 60 * 1000  # Milliseconds.


class Share(NamedTuple):
  """One process's part of the work."""

  rank: int = 0
  total: int = 1

  def of(self, items: Sequence[T]) -> list[T]:
    """Items rank, rank + total, ..."""
    return list(items[self.rank :: self.total])


def join(coordinator: str | None, count: int | None, index: int | None) -> Share:
  """Meets the other processes, before JAX is used.

  Args:
    coordinator: HOST:PORT of process 0; None to find it by Slurm, Kubernetes or MPI.
    count: number of processes.
    index: which one this is.

  Raises:
    CodecError: they do not come together.
  """
  import jax  # Half a second, which --help need not take.

  try:
    jax.distributed.initialize(*(() if coordinator is None else (coordinator, count, index)))
  except (RuntimeError, ValueError) as error:
    raise CodecError(f'the processes did not meet: {error}') from error
  return Share(jax.process_index(), jax.process_count())


def meet() -> None:
  """Waits for the other processes, where there are any.

  Collective operations fail where one process comes half a minute later than another. So all meet
  before them where some may have to compile, or to do work that the others do not have.
  """
  import jax

  if jax.process_count() == 1:
    return
  from orbax.checkpoint import multihost

  multihost.get_barrier_sync_fn()(key=f'meeting-{next(_MEETINGS)}', timeout_ms=_PATIENCE)


def told(mine: Share, words: list[str]) -> list[str]:
  """What all processes have to say, in order; each waits for the others."""
  if mine.total == 1:
    return words
  require('train', 'orbax')
  import numpy as np
  from jax.experimental.multihost_utils import process_allgather

  meet()
  own = np.frombuffer(json.dumps(words).encode(), np.uint8)
  sizes: Any = process_allgather(np.array(len(own)))
  padded = np.zeros(int(sizes.max()), np.uint8)
  padded[: len(own)] = own
  rows: Any = process_allgather(padded)
  texts = [row[:size].tobytes() for row, size in zip(rows, sizes.ravel(), strict=True)]
  return [line for text in texts for line in json.loads(text)]


def by_first(mine: Share, work: Callable[[], Any]) -> None:
  """Lets process 0 do something; the others wait for it.

  Raises:
    CodecError: in all processes, if it fails in the first.
  """
  failed = []
  if mine.rank == 0:
    try:
      work()
    except (CodecError, OSError) as error:
      if mine.total == 1:
        raise
      failed = [str(error)]
  for text in told(mine, failed):
    raise CodecError(text)
