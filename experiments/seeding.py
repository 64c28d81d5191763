"""What seeding does to K-means: eigen-value seeds beside random seeds and k-means++.

  python -m experiments.seeding [--images=DIR] [--k=256] [--seeds=5]

Vector quantisation of the 4x4 RGB blocks of 256x256 centre crops, the codebook unquantised and
not coded: mean PSNR over images, and the steps of the last Lloyd run.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from compress_jax.cli.command import guarded, parse
from compress_jax.cli.flag_types import define_path
from compress_jax.clustering import k_means
from compress_jax.codec import Image
from compress_jax.files.atomic import write_atomically
from compress_jax.images import sets
from compress_jax.methods.kmeans import blocks
from compress_jax.runtime.compilation_cache import enable_cache

# (points f32[N, 48], scores f64[N], k, seed) -> the clustering.
Method = Callable[[np.ndarray, np.ndarray, int, int], k_means.KMeansResult]


class Row(NamedTuple):
  """One clustering of one image."""

  image: str
  seeding: str
  seed: int
  psnr: float  # dB.
  steps: int  # Iterations of the last Lloyd run.
  seconds: float  # Time of the whole clustering, seeding included.


def eigen(split: str) -> Method:
  """Seeds of the highest eigenvalues in two classes; the same for every seed."""

  def run(points: np.ndarray, scores: np.ndarray, k: int, seed: int) -> k_means.KMeansResult:
    del seed
    return k_means.eigen_kmeans(points, scores, k, split=split)

  return run


def drawn(init: str) -> Method:
  """Seeds drawn from the points."""

  def run(points: np.ndarray, scores: np.ndarray, k: int, seed: int) -> k_means.KMeansResult:
    del scores
    return k_means.kmeans(points, k, init=init, key=jax.random.key(seed))

  return run


METHODS: dict[str, Method] = {
  'random': drawn('random'),
  'k-means++': drawn('k-means++'),
  'eigen, half': eigen('half'),
  'eigen, proportional': eigen('proportional'),
}


def define_flags() -> flags.FlagValues:
  """The flags of this experiment."""
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  define_path('images', None, 'A folder of images in place of the Kodak suite.', **here)
  flags.DEFINE_integer('k', 256, 'Codewords.', lower_bound=1, **here)
  flags.DEFINE_integer('seeds', 5, 'Random seedings per image.', lower_bound=1, **here)
  flags.DEFINE_enum('eigen', 'covariance', list(blocks.EIGENVALUES), 'Of what matrix?', **here)
  define_path('output', None, 'A file for the rows, as JSON.', **here)
  flags.DEFINE_bool('help', False, 'Show this.', short_name='h', **here)
  return values


def measure(name: str, image: Image, k: int, seeds: int, eigenvalue: Callable) -> list[Row]:
  """Every method and seed on the centre crop of one image."""
  tiles = blocks.to_blocks(blocks.pad_to(sets.centre_crop(image).astype(np.int64), blocks.SIDE))
  points = tiles.reshape(-1, 48).astype(np.float32)
  scores = eigenvalue(tiles).reshape(-1)
  rows = []
  for label, method in METHODS.items():
    for seed in range(1 if label.startswith('eigen') else seeds):
      start = time.perf_counter()
      result = method(points, scores, min(k, len(points)), seed)
      mse = float(result.inertia) / points.size
      seconds = time.perf_counter() - start
      psnr = 10 * np.log10(255**2 / max(mse, 1e-10))
      rows.append(Row(name, label, seed, float(psnr), int(result.n_iter), seconds))
  return rows


def table(rows: Sequence[Row]) -> str:
  """Means over images and seeds, as markdown."""
  lines = [
    '| seeding | PSNR dB | against random dB | seeds: std dB | last Lloyd steps | median s |',
    '|---|---|---|---|---|---|',
  ]
  base = np.mean([row.psnr for row in rows if row.seeding == 'random'])
  for label in METHODS:
    mine = [row for row in rows if row.seeding == label]
    by_seed = [np.mean([r.psnr for r in mine if r.seed == s]) for s in {r.seed for r in mine}]
    psnr = np.mean(by_seed)
    lines.append(
      f'| {label} | {psnr:.2f} | {psnr - base:+.2f} | {np.std(by_seed):.3f} '
      f'| {np.mean([r.steps for r in mine]):.1f} | {np.median([r.seconds for r in mine]):.2f} |'
    )
  return '\n'.join(lines)


def experiment(values: flags.FlagValues) -> int:
  """Runs, prints, writes."""
  enable_cache()
  source, images = sets.default_images(values.images)
  eigenvalue = blocks.EIGENVALUES[values.eigen]
  rows: list[Row] = []
  for image in images:
    rows += measure(image.name, image.load(), values.k, values.seeds, eigenvalue)
    means = {m: np.mean([r.psnr for r in rows if r.seeding == m]) for m in METHODS}
    print(f'{image.name}: so far', *(f'{m} {p:.2f}' for m, p in means.items()), flush=True)
  print(f'\n{source}, centre crops, K={values.k}, {values.seeds} seeds, eigen={values.eigen}\n')
  print(table(rows))
  if values.output:
    text = json.dumps([row._asdict() for row in rows], indent=1)
    write_atomically(Path(values.output), text.encode(), overwrite=True)
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status."""
  return guarded('seeding', lambda: experiment(parse(define_flags(), __doc__, argv)))


if __name__ == '__main__':
  raise SystemExit(main())
