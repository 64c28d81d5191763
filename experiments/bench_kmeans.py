"""K-means beside scikit-learn and faiss: time to equal inertia from the same start, and memory.

  python -m experiments.bench kmeans [--n=24576,1000000] [--k=64,256,1024] [--max_iter=20]

The points are 4x4 RGB blocks of photographs (48 numbers), the start is K distinct points of
them. Every library gets the same threads. scikit-learn's Lloyd and ours make the same steps;
faiss, which has another rule for empty clusters, gets as many as it needs for an inertia within
0.01 % of scikit-learn's. The inertia shown is computed in float64 from the centroids of each:
what the libraries report are sums in float32, off by as much as 0.005 % for a million points.
Repeats alternate between libraries, so a busy machine hits all alike.

Each memory figure is measured in a process of its own, as the growth of the peak resident size
over two baselines: after import (so compilers and thread pools count), and after a run of the
same K on a few points (what one more clustering costs). The points are mapped from a file, so
that they start at a multiple of 64 bytes, and so do those that are timed: of other NumPy arrays
JAX makes a copy of its own (N * D * 4 bytes, 0.2 s for a million points).
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from compress_jax.cli.command import guarded, parse
from compress_jax.cli.flag_types import define_path
from compress_jax.codec import CodecError
from compress_jax.files.atomic import write_atomically
from compress_jax.images import sets
from compress_jax.methods.kmeans import blocks

WITHIN = 1e-4  # Relative; inertias this close are called equal.


class Fit(NamedTuple):
  """What a library reached."""

  centroids: np.ndarray  # f32[K, D].
  steps: int


# (points f32[N, D], start f32[K, D], steps) -> Fit.
Library = Callable[[np.ndarray, np.ndarray, int], Fit]


def ours(points: np.ndarray, start: np.ndarray, steps: int) -> Fit:
  """This project's Lloyd."""
  from compress_jax.clustering import k_means

  result = k_means.lloyd(points, start, max_iter=steps, tol=0.0)
  return Fit(np.asarray(result.centroids), int(result.n_iter))


def scikit_learn(points: np.ndarray, start: np.ndarray, steps: int) -> Fit:
  """KMeans(algorithm='lloyd')."""
  import warnings

  from sklearn.cluster import KMeans

  warnings.filterwarnings('ignore', category=UserWarning)  # It warns that it did not converge.
  model = KMeans(
    len(start), init=start, n_init=1, max_iter=steps, tol=0.0, algorithm='lloyd', copy_x=True
  ).fit(points)
  return Fit(model.cluster_centers_, int(model.n_iter_))


def faiss_model(points: np.ndarray, start: np.ndarray, steps: int) -> Any:
  """A trained faiss.Kmeans, without its subsampling."""
  import faiss

  n, d = points.shape
  model = faiss.Kmeans(
    d, len(start), niter=steps, max_points_per_centroid=n, min_points_per_centroid=1
  )
  model.train(points, init_centroids=start)
  return model


def faiss(points: np.ndarray, start: np.ndarray, steps: int) -> Fit:
  """faiss.Kmeans, which makes a given number of steps."""
  return Fit(faiss_model(points, start, steps).centroids, steps)


LIBRARIES: dict[str, Library] = {
  'compress_jax': ours,
  'scikit-learn': scikit_learn,
  'faiss': faiss,
}
MODULES = {'compress_jax': 'compress_jax.clustering.k_means', 'scikit-learn': 'sklearn.cluster'}


def exact_inertia(points: np.ndarray, centroids: np.ndarray) -> float:
  """Sum of the squared distances to the nearest centroid, in float64."""
  centroids = centroids.astype(np.float64)
  total = 0.0
  for start in range(0, len(points), 4096):
    x = points[start : start + 4096].astype(np.float64)
    scores = (centroids**2).sum(1) - 2 * x @ centroids.T
    total += ((x - centroids[scores.argmin(1)]) ** 2).sum()
  return float(total)


def define_flags() -> flags.FlagValues:
  """The flags of this benchmark."""
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  flags.DEFINE_list('n', ['24576', '1000000'], 'Numbers of points.', **here)
  flags.DEFINE_list('k', ['64', '256', '1024'], 'Numbers of clusters.', **here)
  flags.DEFINE_integer('max_iter', 20, 'Most Lloyd steps.', lower_bound=1, **here)
  flags.DEFINE_integer('repeats', 3, 'Timings, of which the median counts.', lower_bound=1, **here)
  flags.DEFINE_integer('threads', 2, 'Cores used.', lower_bound=1, **here)
  define_path('images', None, 'A folder of images in place of the Kodak suite.', **here)
  flags.DEFINE_bool('memory', True, 'Measure memory too, in processes of their own?', **here)
  flags.DEFINE_bool('profile', False, 'Show where a step of ours spends its time?', **here)
  define_path('output', None, 'A file for the rows, as JSON.', **here)
  flags.DEFINE_string('child', None, 'Internal: measures the memory of one library.', **here)
  flags.DEFINE_bool('help', False, 'Show this.', short_name='h', **here)
  return values


def limit_threads(threads: int) -> None:
  """Before any library starts its pool; XLA's pool has one thread per core it may use."""
  for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
    os.environ[name] = str(threads)
  # Spinning OpenMP threads (scikit-learn, faiss) starve each other where others use the cores.
  os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
  if hasattr(os, 'sched_setaffinity'):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[:threads]))


def image_blocks(images: str | None, n: int) -> tuple[str, np.ndarray]:
  """f32[n, 48] from photographs; the same ones shifted by whole pixels where they run out."""
  source, named = sets.default_images(images)
  parts: list[np.ndarray] = []
  missing = n
  for shift in range(blocks.SIDE**2):
    down, right = divmod(shift, blocks.SIDE)
    for image in named:
      plane = image.load()[down:, right:]
      height, width = (side // blocks.SIDE * blocks.SIDE for side in plane.shape[:2])
      part = blocks.to_blocks(plane[:height, :width]).reshape(-1, 48)
      parts.append(part[:missing].astype(np.float32))
      missing -= len(parts[-1])
      if missing == 0:
        return source, aligned(parts)
  raise CodecError(f'{source}: only {n - missing} blocks for --n={n}')


def aligned(parts: Sequence[np.ndarray]) -> np.ndarray:
  """f32[N, 48] of all parts, at a multiple of 64 bytes, so that JAX can read it in place."""
  size = sum(part.size for part in parts)
  raw = np.empty(size + 16, np.float32)
  first = -raw.ctypes.data % 64 // raw.itemsize
  points = raw[first : first + size].reshape(-1, parts[0].shape[1])
  return np.concatenate(parts, out=points)


def distinct_start(points: np.ndarray, k: int) -> np.ndarray:
  """K distinct points drawn with a fixed seed."""
  order = np.random.default_rng(0).permutation(len(points))
  rows: dict[bytes, int] = {}
  for index in order:
    rows.setdefault(points[index].tobytes(), index)
    if len(rows) == k:
      return points[list(rows.values())]
  raise CodecError(f'only {len(rows)} distinct points for --k={k}')


def peak_kib(field: str) -> int:
  """VmHWM (peak) or VmRSS (now) of this process."""
  for line in Path('/proc/self/status').read_text().splitlines():
    if line.startswith(field + ':'):
      return int(line.split()[1])
  raise CodecError(f'/proc/self/status has no {field}')


def forget_peak() -> None:
  """Sets VmHWM to VmRSS (Linux, proc(5): 5 to clear_refs)."""
  Path('/proc/self/clear_refs').write_text('5')


def child(library: str, folder: str, steps: int) -> int:
  """Prints the growth of the peak in MiB over both baselines."""
  importlib.import_module(MODULES.get(library, library))
  fit = LIBRARIES[library]
  start = np.load(Path(folder) / 'start.npy')
  forget_peak()
  imported = peak_kib('VmRSS')
  fit(np.resize(start, (4 * len(start), start.shape[1])), start, 1)
  after_import = peak_kib('VmHWM')
  forget_peak()
  warm = peak_kib('VmRSS')
  fit(np.load(Path(folder) / 'points.npy', mmap_mode='r'), start, steps)
  peak = peak_kib('VmHWM')
  print(json.dumps({'import': max(peak, after_import) - imported, 'warm': peak - warm}))
  return 0


def memory(library: str, points: np.ndarray, start: np.ndarray, threads: int) -> dict[str, float]:
  """MiB of peak growth, points included, over the baseline after import and a warm one."""
  with tempfile.TemporaryDirectory() as folder:
    np.save(Path(folder) / 'points.npy', points)
    np.save(Path(folder) / 'start.npy', start)
    command = [sys.executable, '-m', 'experiments.bench', 'kmeans', f'--child={library}={folder}']
    command += ['--max_iter=2', f'--threads={threads}']
    done = subprocess.run(command, capture_output=True, text=True, check=True)
  return {name: kib / 1024 for name, kib in json.loads(done.stdout.splitlines()[-1]).items()}


def enough_faiss(target: float, points: np.ndarray, start: np.ndarray, steps: int) -> int:
  """Updates until faiss is within 0.01 % of `target`; where it never is, `steps` + 5."""
  found = faiss_model(points, start, steps + 6).obj  # The inertia before each update.
  reached = [i for i, inertia in enumerate(found) if i and inertia <= target * (1 + WITHIN)]
  return reached[0] if reached else steps + 5


def compare(points: np.ndarray, k: int, values: flags.FlagValues) -> list[dict[str, Any]]:
  """One row per library."""
  start = distinct_start(points, k)
  steps = dict.fromkeys(LIBRARIES, values.max_iter)
  first: dict[str, float] = {}
  fits: dict[str, Fit] = {}
  for name in LIBRARIES:
    begin = time.perf_counter()
    fits[name] = LIBRARIES[name](points, start, steps[name])
    first[name] = time.perf_counter() - begin
  target = exact_inertia(points, fits['scikit-learn'].centroids)
  steps['faiss'] = enough_faiss(target, points, start, values.max_iter)
  seconds: dict[str, list[float]] = {name: [] for name in LIBRARIES}
  for _ in range(values.repeats):
    for name, fit in LIBRARIES.items():
      begin = time.perf_counter()
      fits[name] = fit(points, start, steps[name])
      seconds[name].append(time.perf_counter() - begin)
  rows = []
  for name in LIBRARIES:
    median = float(np.median(seconds[name]))
    row = {'library': name, 'n': len(points), 'd': points.shape[1], 'k': k}
    inertia = exact_inertia(points, fits[name].centroids)
    row |= {'steps': fits[name].steps, 'inertia': inertia, 'seconds': median}
    row |= {'fastest': min(seconds[name]), 'once': max(first[name] - median, 0.0)}
    if values.memory:
      row['memory'] = memory(name, points, start, values.threads)
    rows.append(row)
  return rows


def show(rows: Sequence[dict[str, Any]]) -> str:
  """Markdown."""
  lines = [
    '| N | K | library | steps | inertia / ours | median s | / ours | fastest s | / ours '
    '| first call adds s | MiB over import | MiB warm |',
    '|---|---|---|---|---|---|---|---|---|---|---|---|',
  ]
  own = {(row['n'], row['k']): row for row in rows if row['library'] == 'compress_jax'}
  for row in rows:
    base = own[row['n'], row['k']]
    grown = row.get('memory', {'import': float('nan'), 'warm': float('nan')})
    lines.append(
      f'| {row["n"]:,} | {row["k"]} | {row["library"]} | {row["steps"]} '
      f'| {row["inertia"] / base["inertia"]:.5f} '
      f'| {row["seconds"]:.3f} | {row["seconds"] / base["seconds"]:.2f} '
      f'| {row["fastest"]:.3f} | {row["fastest"] / base["fastest"]:.2f} '
      f'| {row["once"]:.2f} | {grown["import"]:.0f} | {grown["warm"]:.0f} |'
    )
  return '\n'.join(lines)


def profile(points: np.ndarray, k: int, repeats: int) -> list[str]:
  """Seconds of one pass over the points: the parts of a step, each with those before it."""
  import jax
  import jax.numpy as jnp
  from jax import lax

  from compress_jax.clustering import coordinates, lloyd, nearest

  chunk = lloyd.chunk_rows(len(points), k, None)
  weights, centroids = jnp.ones(len(points)), jnp.asarray(distinct_start(points, k))

  def data_of(points: jax.Array, weights: jax.Array) -> lloyd.Data:
    found = coordinates.frame(points, weights, None)
    return lloyd.Data(points, weights, found, 0 * points[0], chunk, 'highest', None)

  def table(c: jax.Array) -> nearest.Table:
    return nearest.table(c, jnp.mean(c, 0))

  def dots(x: jax.Array, c: jax.Array) -> jax.Array:
    return lax.dot_general(c, x, (((1,), (1,)), ((), ())), precision='highest')

  def scores(x: jax.Array, c: jax.Array) -> jax.Array:
    return jnp.sum(c**2, 1, keepdims=True) - 2 * dots(x, c)

  parts: dict[str, Callable] = {
    'matrix product': lambda x, c: dots(x, c)[0],
    'and minimum': lambda x, c: jnp.min(scores(x, c), 0),
    'and index, by groups': lambda x, c: nearest.by_product(x, table(c), 'highest')[0],
    'and near ties again (used)': lambda x, c: nearest.nearest(x, table(c), 'highest'),
    'and jnp.argmin instead': lambda x, c: jnp.argmin(scores(x, c), 0),
  }

  def over_chunks(part: Callable) -> Callable:
    def run(points: jax.Array, weights: jax.Array, c: jax.Array) -> jax.Array:
      found = data_of(points, weights)
      return lloyd.fold(found, lambda sums, _, x, w: sums + part(x, c)[0], 0.0)

    return run

  def update(points: jax.Array, weights: jax.Array, c: jax.Array) -> Any:
    found = data_of(points, weights)._replace(mean=jnp.mean(c, 0))
    return lloyd.update(found, c)

  runs = {name: jax.jit(over_chunks(part)) for name, part in parts.items()}
  runs['whole step: index, sums, counts, labels'] = jax.jit(update)
  device = jax.device_put(points)
  lines = []
  flops = 2 * points.size * k
  for name, run in runs.items():
    jax.block_until_ready(run(device, weights, centroids))
    seconds = []
    for _ in range(repeats):
      begin = time.perf_counter()
      jax.block_until_ready(run(device, weights, centroids))
      seconds.append(time.perf_counter() - begin)
    best = min(seconds)
    lines.append(
      f'| {len(points):,} | {k} | {name} | {best * 1e3:.1f} | {flops / best / 1e9:.0f} |'
    )
  return lines


def whole_numbers(flag: str, texts: Sequence[str]) -> list[int]:
  """The numbers of a list flag."""
  for text in texts:
    if not text.strip().isdecimal() or int(text) < 1:
      raise CodecError(f'--{flag} takes whole numbers from 1, got {text!r}')
  return [int(text) for text in texts]


def benchmark(values: flags.FlagValues) -> int:
  """Measures, prints, writes."""
  limit_threads(values.threads)
  if values.child:
    library, _, folder = values.child.partition('=')
    return child(library, folder, values.max_iter)
  sizes, clusters = whole_numbers('n', values.n), whole_numbers('k', values.k)
  try:
    import faiss
    import sklearn  # noqa: F401
  except ImportError as error:
    raise CodecError(f"{error.name} is missing: pip install '.[bench]'") from error
  faiss.omp_set_num_threads(values.threads)
  rows: list[dict[str, Any]] = []
  spent = ['| N | K | part | fastest ms | GFlop/s of the product |', '|---|---|---|---|---|']
  for n in sizes:
    source, points = image_blocks(values.images, n)
    print(
      f'{n:,} blocks of {source}; {values.threads} threads; {values.max_iter} steps', flush=True
    )
    for k in clusters:
      if values.profile:
        spent += profile(points, k, values.repeats)
        continue
      rows += compare(points, k, values)
      print(show(rows[-len(LIBRARIES) :]), flush=True)
  print('\n' + ('\n'.join(spent) if values.profile else show(rows)))
  if values.output:
    write_atomically(values.output, json.dumps(rows, indent=1).encode(), overwrite=True)
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark; returns the exit status."""
  return guarded('bench kmeans', lambda: benchmark(parse(define_flags(), __doc__, argv)))


if __name__ == '__main__':
  raise SystemExit(main())
