"""Random crops per second of each input pipeline, beside what training must be fed.

  python -m experiments.bench data [--images=DIR] [--size=256] [--batch=8] [--need=IMAGES_PER_S]

The same crops by grain in threads and in processes: read, decoded, scaled, flipped and stacked as
uint8. The clock starts with the first batch, which is
shown apart: it pays for starting threads and processes. Repeats alternate between pipelines, so
a busy machine hits all alike. Where crops are cut on the device from images that stay there, the
first 64 images are stored and cut.
"""

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from compress_jax.cli.command import guarded, parse
from compress_jax.cli.flag_types import define_path, define_positive
from compress_jax.codec import CodecError
from compress_jax.files.atomic import write_atomically
from compress_jax.images import sets, sources
from compress_jax.runtime.workers import cores
from compress_jax.training import streams

STORED = 64  # Images kept on the device.

# An endless row of batches, from the crops to draw and the examples of a batch.
Pipeline = Callable[[streams.Crops, range], streams.Batches]


class Timing(NamedTuple):
  """One run of a pipeline."""

  first: float  # Seconds until the first batch.
  rate: float  # Crops per second from then on.


def define_flags() -> flags.FlagValues:
  """The flags of this benchmark."""
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  define_path('images', None, 'A folder or tfds:NAME in place of the Kodak suite.', **here)
  flags.DEFINE_integer('size', 256, 'Side of the crops.', lower_bound=1, **here)
  flags.DEFINE_integer('batch', 8, 'Crops in a batch.', lower_bound=1, **here)
  flags.DEFINE_integer('batches', 20, 'Batches timed, after the first.', lower_bound=1, **here)
  flags.DEFINE_integer('repeats', 3, 'Timings, of which the median counts.', lower_bound=1, **here)
  flags.DEFINE_list('workers', ['1', '2'], 'Numbers of processes for grain.', **here)
  define_positive('need', None, 'Images per second that training takes.', **here)
  define_path('output', None, 'A file for the rows, as JSON.', **here)
  flags.DEFINE_bool('help', False, 'Show this.', short_name='h', **here)
  return values


def host(crops: streams.Crops, examples: range, workers: int = 0) -> streams.Batches:
  """Returns the batches of all steps, made in threads or in `workers` processes."""
  return streams.by_grain(crops, range(streams.FOREVER), examples, workers)


def device(crops: streams.Crops, examples: range) -> streams.Batches:
  """Returns the crops of `images.crops`, cut on the device where the images stay."""
  import jax

  from compress_jax.images import crops as cutter

  held = cutter.store([crops.source[i] for i in range(min(len(crops.source), STORED))])
  held, key = jax.device_put((held, jax.random.key(crops.seed)))
  cut = jax.jit(cutter.crops, static_argnums=2)
  for step in itertools.count():
    keys = jax.random.split(jax.random.fold_in(key, step), len(examples))
    yield jax.block_until_ready(cut(held, keys, crops.size))


def pipelines(workers: Sequence[int]) -> dict[str, Pipeline]:
  """Returns the pipelines to compare, by name."""
  found: dict[str, Pipeline] = {f'grain, {cores()} threads': host}
  for n in workers:
    found[f'grain, processes: {n}'] = partial(host, workers=n)
  return {**found, 'cut on the device': device}


def timed(pipeline: Pipeline, crops: streams.Crops, batch: int, count: int) -> Timing:
  """Runs it for `count` batches after the first."""
  begin = time.perf_counter()
  with contextlib.closing(pipeline(crops, range(batch))) as batches:
    next(batches)
    started = time.perf_counter()
    for _ in range(count):
      next(batches)
    ended = time.perf_counter()
  return Timing(started - begin, batch * count / (ended - started))


def show(rows: Sequence[dict[str, Any]], need: float | None) -> str:
  """Markdown."""
  lines = ['| pipeline | crops/s | of what is needed | first batch, s |', '|---|---|---|---|']
  for row in rows:
    enough = f'{row["rate"] / need:.2f}' if need else '-'
    lines.append(f'| {row["pipeline"]} | {row["rate"]:.0f} | {enough} | {row["first"]:.2f} |')
  return '\n'.join(lines)


def whole_numbers(texts: Sequence[str]) -> list[int]:
  """The numbers of --workers."""
  for text in texts:
    if not text.strip().isdecimal() or int(text) < 1:
      raise CodecError(f'--workers takes whole numbers from 1, got {text!r}')
  return [int(text) for text in texts]


def opened(images: str | None) -> tuple[str, sources.Source]:
  """What was asked for, or the photographs at hand."""
  if images:
    return images, sources.open_source(images, log=tell)
  name, named = sets.default_images()
  return name, sources.from_images(named)


def tell(line: str) -> None:
  """To the standard error."""
  print(line, file=sys.stderr)


def benchmark(values: flags.FlagValues) -> int:
  """Measures, prints, writes."""
  runs = pipelines(whole_numbers(values.workers))
  name, source = opened(values.images)
  source = sources.large_enough(source, values.size, log=tell)
  crops = streams.Crops(source, 0, values.size, (0.5, 1.0))
  need = f'; {values.need:g} crops/s are needed' if values.need else ''
  print(f'Crops of {values.size}x{values.size} in batches of {values.batch} from {name}{need}')
  timings: dict[str, list[Timing]] = {run: [] for run in runs}
  for _ in range(values.repeats):
    for run, pipeline in runs.items():
      timings[run].append(timed(pipeline, crops, values.batch, values.batches))
  rows = []
  for run, found in timings.items():
    first, rate = np.median(np.array(found), 0).tolist()
    rows.append({'pipeline': run, 'rate': rate, 'first': first, 'need': values.need})
  print(show(rows, values.need))
  if values.output:
    write_atomically(values.output, json.dumps(rows, indent=1).encode(), overwrite=True)
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark; returns the exit status."""
  return guarded('bench data', lambda: benchmark(parse(define_flags(), __doc__, argv)))


if __name__ == '__main__':
  raise SystemExit(main())
