"""Several processes, on one host or many, that work as one, by JAX's own distributed runtime.

Training is one computation over all of their devices. Many files are many small ones: each
process takes its share of them to its own devices, and in the end they tell how it went.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from absl import flags

from compress_jax.codec import CodecError

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


def define_flags(values: flags.FlagValues) -> None:
  """The flags of `join`."""
  modes = 'compress, decompress, train'
  here: dict[str, Any] = {'flag_values': values}
  text = f'{modes}: HOST:PORT of process 0, of several that work as one.'
  flags.DEFINE_string('coordinator', None, text, **here)
  flags.DEFINE_integer('num_processes', None, f'{modes}: how many there are.', 1, **here)
  flags.DEFINE_integer('process_id', None, f'{modes}: which one this is.', 0, **here)
  text = f'{modes}: find the other processes by Slurm, Kubernetes or MPI.'
  flags.DEFINE_bool('distributed', False, text, **here)


def join(values: flags.FlagValues) -> Share:
  """Meets the other processes, if the flags say that there are any; before JAX is used.

  Raises:
    CodecError: they do not come together.
    flags.Error: flags are missing, or do not fit together.
  """
  given = values.coordinator, values.num_processes, values.process_id
  if not values.distributed and all(value is None for value in given):
    return Share()
  _check(values)
  import jax  # Half a second, which --help need not take.

  try:
    jax.distributed.initialize(*(given if not values.distributed else ()))
  except (RuntimeError, ValueError) as error:
    raise CodecError(f'the processes did not meet: {error}') from error
  return Share(jax.process_index(), jax.process_count())


def told(mine: Share, words: list[str]) -> list[str]:
  """What all processes have to say, in order; each waits for the others."""
  if mine.total == 1:
    return words
  import numpy as np
  from jax.experimental.multihost_utils import process_allgather
  from orbax.checkpoint import multihost

  # JAX's own exchange fails where one process comes half a minute later than another.
  multihost.get_barrier_sync_fn()(key=f'told-{next(_MEETINGS)}', timeout_ms=_PATIENCE)
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


def _check(values: flags.FlagValues) -> None:
  index, count = values.process_id, values.num_processes
  if values.distributed:
    return
  if values.coordinator is None or index is None or count is None:
    raise flags.Error('--coordinator, --num_processes and --process_id go together')
  if index >= count:
    raise flags.Error(f'--process_id={index} has to be below --num_processes={count}')
  host, _, port = values.coordinator.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise flags.Error(f'--coordinator={values.coordinator} is not HOST:PORT')
