"""Flags for several processes that work as one."""

from typing import Any

from absl import flags

from compress_jax.runtime import processes


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags that `join` reads."""
  here: dict[str, Any] = {'flag_values': values}
  text = 'HOST:PORT of process 0, of several that work as one.'
  flags.DEFINE_string('coordinator', None, text, **here)
  flags.DEFINE_integer('num_processes', None, 'How many there are.', 1, **here)
  flags.DEFINE_integer('process_id', None, 'Which one this is.', 0, **here)
  text = 'Find the other processes by Slurm, Kubernetes or MPI.'
  flags.DEFINE_bool('distributed', False, text, **here)


def join(values: flags.FlagValues) -> processes.Share:
  """Connects to the other processes that the flags describe; returns this process's share.

  It has to be called before JAX is used. Without such flags there is one process.

  Raises:
    CodecError: the processes do not connect.
    flags.Error: flags are missing or contradict each other.
  """
  given = values.coordinator, values.num_processes, values.process_id
  if values.distributed:
    return processes.join(None, None, None)
  if all(value is None for value in given):
    return processes.Share()
  _check(values)
  return processes.join(*given)


def _check(values: flags.FlagValues) -> None:
  index, count = values.process_id, values.num_processes
  if values.coordinator is None or index is None or count is None:
    raise flags.Error('--coordinator, --num_processes and --process_id go together')
  if index >= count:
    raise flags.Error(f'--process_id={index} has to be below --num_processes={count}')
  host, _, port = values.coordinator.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise flags.Error(f'--coordinator={values.coordinator} is not HOST:PORT')
