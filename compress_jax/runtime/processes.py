"""Several processes, on one host or many, that work as one, by JAX's distributed runtime.

Training is one computation over all of their devices. Coding and measuring many files is divided:
each process handles its share of the files on its devices, and the messages are gathered in the
end.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from compress_jax.errors import CodecError
from compress_jax.runtime.extras import require

T = TypeVar('T')
_BARRIERS = itertools.count()  # Numbers of barriers: all processes reach them in the same order.
_TIMEOUT = 30 * 60 * 1000  # Milliseconds.


class Share(NamedTuple):
  """One process's part of the work."""

  rank: int = 0  # Index of this process.
  total: int = 1  # Number of processes.

  def of(self, items: Sequence[T]) -> list[T]:
    """Returns the items of this process: rank, rank + total, ..."""
    return list(items[self.rank :: self.total])


def join(coordinator: str | None, count: int | None, index: int | None) -> Share:
  """Connects this process with the others; it has to be called before JAX is used.

  Args:
    coordinator: HOST:PORT of process 0; None finds it by Slurm, Kubernetes or MPI.
    count: number of processes.
    index: index of this process.

  Returns:
    This process's share of the work.

  Raises:
    CodecError: the processes cannot be connected.
  """
  import jax  # It takes half a second, which --help does not need.

  try:
    jax.distributed.initialize(*(() if coordinator is None else (coordinator, count, index)))
  except (RuntimeError, ValueError) as error:
    raise CodecError(f'the processes did not meet: {error}') from error
  return Share(jax.process_index(), jax.process_count())


def meet() -> None:
  """Waits for the other processes, if there are any.

  Collective operations fail where one process comes half a minute later than another. So all
  processes wait for each other before them where some may have to compile, or to do more work.
  """
  import jax

  if jax.process_count() == 1:
    return
  from orbax.checkpoint import multihost

  multihost.get_barrier_sync_fn()(key=f'meeting-{next(_BARRIERS)}', timeout_ms=_TIMEOUT)


def gathered(share: Share, lines: list[str]) -> list[str]:
  """Returns the lines of all processes, in order of rank; each process waits for the others."""
  if share.total == 1:
    return lines
  require('train', 'orbax')
  import numpy as np
  from jax.experimental.multihost_utils import process_allgather

  meet()
  data = np.frombuffer(json.dumps(lines).encode(), np.uint8)
  sizes: Any = process_allgather(np.array(len(data)))
  padded = np.zeros(int(sizes.max()), np.uint8)
  padded[: len(data)] = data
  rows: Any = process_allgather(padded)
  parts = [row[:size].tobytes() for row, size in zip(rows, sizes.ravel(), strict=True)]
  return [line for part in parts for line in json.loads(part)]


def by_first(share: Share, work: Callable[[], Any]) -> None:
  """Runs `work` in process 0; the others wait for it.

  Raises:
    CodecError: in all processes, if it fails in the first.
  """
  failed = []
  if share.rank == 0:
    try:
      work()
    except (CodecError, OSError) as error:
      if share.total == 1:
        raise
      failed = [str(error)]
  for message in gathered(share, failed):
    raise CodecError(message)
