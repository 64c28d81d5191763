"""Measurement of jobs by pairs of processes: one of a pair writes the file, the other reads it."""

import functools
import hashlib
import itertools
import math
import queue
import statistics
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

from compress_jax.codec import Codec, CodecError, Image, Released
from compress_jax.evaluation import metrics
from compress_jax.evaluation.chosen_metrics import NOTHING, Chosen, measure
from compress_jax.runtime import workers


class Recipe(NamedTuple):
  """A codec at an operating point, in words: codecs are closures and cannot be sent."""

  method: str
  codec: str  # A label, such as kmeans-universal.
  scale: str  # 'lambda' or 'quality'.
  point: float
  options: tuple[tuple[str, Any], ...] = ()  # Other keyword arguments of the factory.
  suffix: str = '.cjx'
  code: str = ''  # Fingerprint of the programs and tables that decide the file.


class Job(NamedTuple):
  """The measurement of one recipe on one image."""

  recipe: Recipe
  image: str
  load: Callable[[], Image]


Make = Callable[[Recipe], tuple[Codec, Released]]


class Measured(NamedTuple):
  """The results of a job's two processes."""

  shape: tuple[int, ...]
  file: bytes
  encode_s: float
  decode_s: float
  split: dict[str, float]  # Bytes by purpose.
  scores: dict[str, float | None]  # bpp, psnr, ms_ssim and the chosen metrics.
  sha256_pixels: str  # SHA-256 of the decoded image.


def handlers(make: Make) -> workers.Handlers:
  """Returns a worker's handlers: timed calls of the codec, and the scores of a decoded image."""
  built = functools.lru_cache(maxsize=8)(make)
  warm = set()

  def timed(call: str, recipe: Recipe, shape: tuple, repeats: int, source: Any):
    codec, released = built(recipe)
    run = functools.partial(getattr(codec, call), released, source)
    if repeats and (call, recipe, shape) not in warm:
      run()
      warm.add((call, recipe, shape))
    return _timed(run, repeats)

  def split(recipe: Recipe, file: bytes) -> dict[str, float]:
    codec, released = built(recipe)
    return dict(codec.split(released, file))

  return {'timed': timed, 'split': split, 'scores': scores}


def scores(
  original: Image, decoded: Image, size: int, chosen: Chosen = NOTHING
) -> dict[str, float | None]:
  """Returns the metrics of a file of `size` bytes; None where JSON has no number.

  psnr is infinite for equal pixels. ms_ssim is undefined for small images, as the metrics of
  `chosen` may be.
  """
  values = {
    'bpp': metrics.bpp(size, original.shape[0], original.shape[1]),
    'psnr': metrics.psnr(original, decoded),
    'ms_ssim': metrics.ms_ssim(original, decoded),
    **measure(original, decoded, chosen),
  }
  return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _timed(run: Callable[[], Any], repeats: int) -> tuple[Any, float]:
  seconds = []
  for _ in range(max(1, repeats)):
    start = time.perf_counter()
    answer = run()
    seconds.append(time.perf_counter() - start)
  return answer, statistics.median(seconds)


def measured(
  todo: Sequence[int],
  jobs: Sequence[Job],
  make: Make,
  processes: int,
  repeats: int,
  chosen: Chosen = NOTHING,
) -> Generator[tuple[int, Measured | str], None, None]:
  """Yields (index of a job, its result or an error message) in the order in which jobs finish.

  Closing the iterator ends the processes at once.

  Args:
    todo: indices of the jobs to do.
    jobs: all jobs.
    make: builds a recipe's codec; picklable, called in the processes.
    processes: number of pairs of processes; only one of a pair works at a time.
    repeats: see `timing_repeats` of `evaluate`.
    chosen: metrics besides PSNR and MS-SSIM.

  Raises:
    CodecError: a process ended before it could work.
  """
  waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
  done: queue.SimpleQueue[tuple[int, Measured | str] | CodecError] = queue.SimpleQueue()
  for i in todo:
    waiting.put(i)
  count = min(processes, len(todo))
  start = functools.partial(
    workers.start,
    functools.partial(handlers, make),
    threads=max(1, workers.cores() // (count or 1)),
  )
  stopped = threading.Event()

  def lane(pair: list[workers.Worker]) -> None:
    try:
      for worker in pair:
        workers.ready(worker)
      while not stopped.is_set():
        i = waiting.get_nowait()
        done.put((i, _outcome(jobs[i], pair, repeats, chosen)))
        for k, worker in enumerate(pair):
          if not worker.process.is_alive() and not stopped.is_set():
            workers.stop(worker)
            pair[k] = start()
            workers.ready(pair[k])
    except queue.Empty:
      return
    except CodecError as error:
      done.put(error)

  pairs = [[start(), start()] for _ in range(count)]
  threads = [threading.Thread(target=lane, args=(pair,), daemon=True) for pair in pairs]
  try:
    for thread in threads:
      thread.start()
    for _ in todo:
      answer = done.get()
      if isinstance(answer, CodecError):
        raise answer
      yield answer
  finally:  # Also after Ctrl-C: ends the processes that the lanes wait for, then the lanes.
    stopped.set()
    for worker in itertools.chain(*pairs):
      worker.process.terminate()
    for thread in threads:
      thread.join()
    for worker in itertools.chain(*pairs):
      workers.stop(worker)


def _outcome(job: Job, pair: list[workers.Worker], repeats: int, chosen: Chosen) -> Measured | str:
  """Returns the result of one job or its error message: no error may stop the other jobs."""
  try:
    return _measure(job, *pair, repeats=repeats, chosen=chosen)
  except (CodecError, workers.WorkerError) as error:
    return str(error)
  except Exception as error:
    return f'{type(error).__name__}: {error}'


def _measure(
  job: Job, encoder: workers.Worker, decoder: workers.Worker, *, repeats: int, chosen: Chosen
) -> Measured:
  original = job.load()
  call = (job.recipe, original.shape, repeats)
  file, encode_s = workers.ask(encoder, 'timed', 'encode', *call, original)
  decoded, decode_s = workers.ask(decoder, 'timed', 'decode', *call, file)
  if decoded.shape != original.shape:
    raise CodecError(f'the file decodes to {decoded.shape}, not {original.shape}')
  split = workers.ask(encoder, 'split', job.recipe, file)
  scores = workers.ask(encoder, 'scores', original, decoded, len(file), chosen)
  return Measured(original.shape, file, encode_s, decode_s, split, scores, pixel_hash(decoded))


def pixel_hash(pixels: Image) -> str:
  """Returns the SHA-256 of the shape and the pixels of an image."""
  digest = hashlib.sha256(repr(pixels.shape).encode())
  digest.update(pixels.tobytes())
  return digest.hexdigest()
