"""Worker processes that answer requests one at a time, each on its share of the threads.

Each process has a pipe: a worker that dies affects the request it was working on
and no other. A worker's answers are made by functions built inside it, because
codecs are closures and cannot be sent.
"""

import contextlib
import functools
import multiprocessing
import os
import platform
import re
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from compress_jax.codec import CodecError
from compress_jax.runtime import jax_settings

Handlers = Mapping[str, Callable[..., Any]]


class WorkerError(RuntimeError):
  """Raised where a worker died, or its handler raised something other than a CodecError."""


class Worker(NamedTuple):
  """A running process and the parent's end of the pipe to it."""

  process: BaseProcess
  pipe: Connection


def cores() -> int:
  """Returns the number of processors that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


@functools.cache
def processor() -> str:
  """Returns the name of the processor and the number of its cores that this process may use."""
  try:
    found = re.search(r'^model name\s*:\s*(.+)', Path('/proc/cpuinfo').read_text(), re.MULTILINE)
  except OSError:
    found = None
  name = found.group(1).strip() if found else platform.machine()
  return f'{name}, {cores()} {"core" if cores() == 1 else "cores"}'


def default_processes() -> int:
  """Returns the number of processors, but at most 8: each worker needs some hundred MB."""
  return min(8, cores())


def start(build: Callable[[], Handlers], *, threads: int) -> Worker:
  """Starts a process that answers with the functions of `build()`, once it is `ready`.

  Args:
    build: picklable function; called once, inside the process.
    threads: largest number of threads of XLA, OpenMP and BLAS there.
  """
  context = multiprocessing.get_context('spawn')  # JAX's threads do not survive a fork.
  ours, theirs = context.Pipe()
  process = context.Process(target=_serve, args=(theirs, build), daemon=True)
  with _environment(threads), _no_interrupts():
    process.start()
  theirs.close()  # The death of the process then appears as the end of the pipe.
  return Worker(process, ours)


def ready(worker: Worker) -> None:
  """Waits until a worker that was just started can be asked; call it once, before `ask`.

  Raises:
    CodecError: the process ended before that. Its own message is on stderr.
  """
  try:
    worker.pipe.recv()
  except (EOFError, OSError):
    worker.process.join(5)
    code = worker.process.exitcode
    raise CodecError(
      f'a worker process ended before it could work (exit code {code}); its own message is above. '
      "A script that starts workers must do so under if __name__ == '__main__'"
    ) from None


def ask(worker: Worker, name: str, *args: Any) -> Any:
  """Returns the answer of handler `name` in the worker.

  Raises:
    CodecError: the handler raised one.
    WorkerError: it raised something else, or the process died.
  """
  try:
    worker.pipe.send((name, args))
    good, answer = worker.pipe.recv()
  except (EOFError, OSError):
    worker.process.join(5)
    raise WorkerError(f'the worker process died (exit code {worker.process.exitcode})') from None
  if good:
    return answer
  kind, message = answer
  raise CodecError(message) if kind == 'CodecError' else WorkerError(f'{kind}: {message}')


def stop(worker: Worker) -> None:
  """Ends the process at once, even during a request."""
  worker.process.terminate()
  worker.process.join(5)
  worker.pipe.close()


def _serve(pipe: Connection, build: Callable[[], Handlers]) -> None:
  handlers = build()
  pipe.send(None)  # The worker is ready.
  # The pipe ends with the parent process; the worker then ends too.
  with contextlib.suppress(EOFError), jax_settings.usual_promotion():
    while True:
      name, args = pipe.recv()
      pipe.send(_answer(handlers[name], args))


def _answer(handler: Callable[..., Any], args: tuple) -> tuple[bool, Any]:
  try:
    return True, handler(*args)
  except CodecError as error:
    return False, ('CodecError', str(error))
  except Exception as error:  # A defect: its place is reported in one line.
    if reason := jax_settings.no_device():
      return False, ('CodecError', reason)
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f'{os.path.basename(where.filename)}:{where.lineno}'
    return False, (type(error).__name__, f'{error} ({place})')


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
  """Sets the environment that a child inherits; XLA sizes its thread pool by NPROC."""
  names = ('NPROC', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS')
  wanted = dict.fromkeys(names, str(threads))
  wanted['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'  # Several processes share a GPU.
  before = {name: os.environ.get(name) for name in wanted}
  os.environ.update(wanted)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        os.environ.pop(name, None)
      else:
        os.environ[name] = value


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
  """Lets a child that is started inside ignore Ctrl-C: the parent decides what happens then."""
  if not hasattr(signal, 'pthread_sigmask'):
    yield
    return
  resource_tracker.ensure_running()  # Starting it later would unblock the signal again.
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
