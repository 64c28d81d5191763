"""Training of the tables of kmeans: universal codebooks, and initial counts for both modes.

For each operating point: eigen-value K-means of mean-removed blocks; then
entropy-constrained Lloyd steps (Chou, Lookabaugh & Gray, "Entropy-constrained
vector quantization", IEEE Trans. ASSP 37(1), 1989); then passes of the real encoder
over photographs, which fit codewords, counts and mean differences to its
choices; last the filter after decoding.
"""

import json
import math
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file, save

from compress_jax.clustering import k_means
from compress_jax.codec import CodecError, Image
from compress_jax.files import locks
from compress_jax.files.atomic import write_atomically
from compress_jax.images.sources import Source
from compress_jax.methods.kmeans import blocks, codebook, per_image, restore, shapes, universal
from compress_jax.methods.kmeans.tables import PRIOR

LAMBDAS = (0.0009, 0.0018, 0.0035, 0.0067, 0.013, 0.025, 0.0483)
SIZES = (256, 512, 768, 1024, 1536, 2048, 2048)  # Initial numbers of luma codewords.
_CHROMA_SIZE = 256
_ROW = 1 << 14  # Approximate sum of a row of counts.
_SEEN = 16.0  # Count that one use adds to a row.
LEAST = 64  # Smallest side of an image, in pixels.
_CROP = 256  # Largest side of the crops that the encoder codes.
_PRIOR_ROW = 640  # A weak prior: 20 symbols of `codebook` make it even.


class Plan(NamedTuple):
  """The amount of training."""

  seed: int = 0
  blocks: int = 300_000  # Luma blocks for K-means; half as many of chroma.
  passes: int = 3  # Passes of the encoder over images.
  pass_images: int = 120  # Images in each pass.
  prior_images: int = 12  # Images for the prior of codebooks in files.


def train(
  source: Source, plan: Plan, output: Path, *, workers: int, log: Callable[[str], None]
) -> None:
  """Trains the tables and writes a model file.

  Finished parts are kept beside the file until it is complete, and reused.

  Args:
    source: images of at least LEAST x LEAST pixels.
    plan: the amount of training.
    output: the model file.
    workers: number of processes.
    log: receives a line about each part.

  Raises:
    CodecError: an image cannot be read, the output cannot be written, or another program is
      writing it.
  """
  parts = output.with_name(output.name + '.parts')
  with locks.held(parts):
    _train(source, plan, output, parts, workers=workers, log=log)
  (parts / locks.LOCK).unlink(missing_ok=True)
  with suppress(OSError):  # Another program may have just started there.
    parts.rmdir()


def _train(
  source: Source,
  plan: Plan,
  output: Path,
  parts: Path,
  *,
  workers: int,
  log: Callable[[str], None],
) -> None:
  wanted = json.dumps([source.names, plan])
  names = ['prior', *(f'point{i}' for i in reversed(range(len(LAMBDAS))))]
  jobs = {name: parts / f'{name}.safetensors' for name in names}
  stamp = parts / 'plan.json'
  if stamp.exists() and stamp.read_text() != wanted:
    raise CodecError(f'{parts} holds parts of another training run; remove it first')
  write_atomically(stamp, wanted.encode(), overwrite=True)
  todo = {name: path for name, path in jobs.items() if not path.exists()}
  log(f'{len(jobs) - len(todo)} of {len(jobs)} parts are there')
  with futures.ProcessPoolExecutor(workers, multiprocessing.get_context('spawn')) as pool:
    running = {pool.submit(_part, name, source, plan): name for name in todo}
    for job in futures.as_completed(running):
      arrays, report = job.result()
      write_atomically(todo[running[job]], save(arrays), overwrite=True)
      log(report)
  arrays = {name: array for path in jobs.values() for name, array in load_file(path).items()}
  config = {'config': json.dumps({'lambdas': LAMBDAS})}
  write_atomically(output, save(arrays, config), overwrite=True)
  for path in (*jobs.values(), stamp):
    path.unlink()


def _part(name: str, source: Source, plan: Plan) -> tuple[dict[str, np.ndarray], str]:
  if name == 'prior':
    return _prior(source, plan)
  return _operating_point(int(name.removeprefix('point')), source, plan)


def _crop(image: Image, size: int = _CROP) -> Image:
  """Returns the centre of an image, both sides at most `size` and multiples of 8."""
  height, width = (min(side, size) // 8 * 8 for side in image.shape[:2])
  top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
  return image[top : top + height, left : left + width]


def _draw(source: Source, n: int, rng: np.random.Generator) -> Iterator[Image]:
  for i in rng.choice(len(source), min(n, len(source)), replace=False):
    yield source[int(i)]


def _sample(source: Source, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean-removed blocks f32[n, 4, 4, 1] and f32[n / 2, 4, 4, 2], equally many per image."""
  rng = np.random.default_rng(plan.seed)
  luma: list[np.ndarray] = []
  chroma: list[np.ndarray] = []
  share = math.ceil(plan.blocks / len(source))
  for i in range(len(source)):
    planes = universal.analysis(_crop(source[i], 1024))
    luma.append(_some_blocks(planes.luma, share, rng))
    chroma.append(_some_blocks(planes.chroma, math.ceil(share / 2), rng))
  return np.concatenate(luma), np.concatenate(chroma)


def _some_blocks(plane: blocks.Plane, n: int, rng: np.random.Generator) -> np.ndarray:
  tiles = blocks.to_blocks(plane).reshape(-1, blocks.SIDE, blocks.SIDE, plane.shape[2])
  tiles = tiles[rng.integers(0, len(tiles), n)].astype(np.float32)
  return tiles - tiles.mean((1, 2), keepdims=True)


def entropy_constrained(
  points: np.ndarray, start: np.ndarray, *, steps: int = 15, least: float = 2e-5
) -> tuple[np.ndarray, np.ndarray]:
  """Runs Lloyd's algorithm on squared distance + bits, from codewords f32[K, D].

  Adding a coordinate sqrt(bits) to each codeword turns the cost into a squared
  distance. Codewords used by a share under `least` are dropped, all but the first,
  which stays at 0.

  Returns:
    Codewords f32[k, D] and their uses f64[k].
  """
  points = np.pad(points, ((0, 0), (0, 1)))
  words, bits = start, np.full(len(start), math.log2(len(start)), np.float32)
  uses = np.ones(len(start))
  for _ in range(steps):
    biased = np.concatenate([words, np.sqrt(bits)[:, None]], 1)
    labels = np.asarray(k_means.assign(points, biased)[0])
    uses = np.bincount(labels, minlength=len(words)).astype(np.float64)
    columns = [np.bincount(labels, x, len(words)) for x in points[:, :-1].T]
    words = (np.stack(columns, 1) / np.maximum(uses, 1)[:, None]).astype(np.float32)
    kept = uses >= least * len(points)
    kept[0] = True
    words, uses = words[kept], np.maximum(uses[kept], 1)
    words[0] = 0
    bits = -np.log2(uses / uses.sum()).astype(np.float32)
  return words, uses


def _codewords(tiles: np.ndarray, size: int, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns codewords i64[K, 4, 4, C] and their uses; the first codeword is flat.

  `weight` is f64[C], bits per unit of squared error.
  """
  scale = np.sqrt(weight).astype(np.float32)
  points = (tiles * scale).reshape(len(tiles), -1)
  result = k_means.eigen_kmeans(points, blocks.covariance(tiles), size, max_iter=20)
  start = np.array(result.centroids)
  start[np.argmin((start**2).sum(1))] = start[0]
  start[0] = 0
  words, uses = entropy_constrained(points, start)
  return np.rint(words.reshape(-1, *tiles.shape[1:]) / scale).astype(np.int64), uses


def _laplace(step: int, channels: int) -> np.ndarray:
  """Returns f64[C, MISFITS, 2 R + 1], an initial table that is wider for a larger misfit."""
  r = shapes.reach(step)
  q = np.abs(np.arange(-r, r + 1))
  rows = [np.exp(-q / (0.3 * 1.3**misfit)) + 1e-3 for misfit in range(shapes.MISFITS)]
  return np.broadcast_to(np.floor(1000 * np.array(rows)) + 1, (channels, len(rows), len(q)))


def _first_shapes(
  tiles: np.ndarray, size: int, weight: np.ndarray, *, contexts: int, step: float, tau: float
) -> shapes.Shapes:
  words, uses = _codewords(tiles, size, weight)
  counts = np.maximum(np.rint(_ROW * uses / uses.sum()), 1)
  return shapes.Shapes(
    codewords=words,
    counts=np.tile(counts, (contexts, 1)),
    means=_laplace(max(2, round(step)), words.shape[-1]).copy(),
    step=max(2, round(step)),
    alpha=6,
    tau=round(tau),
    seen=0.0,
  )


def _first_model(source: Source, plan: Plan, lmbda: float, size: int) -> universal.Model:
  """Returns the initial model, with codewords by K-means.

  Steps and tolerances grow with the error that lambda allows.
  """
  luma, chroma = _sample(source, plan)
  coarse = math.sqrt(0.0035 / lmbda)
  no_taps = np.zeros((restore.CLASSES, len(restore.OFFSETS)), np.int64)
  return universal.Model(
    _first_shapes(
      luma, size, lmbda * np.ones(1), contexts=3, step=12 * coarse, tau=30_000 * coarse
    ),
    _first_shapes(
      chroma,
      _CHROMA_SIZE,
      lmbda * universal.CHROMA_WEIGHT,
      contexts=9,
      step=8 * coarse,
      tau=5_000 * coarse,
    ),
    no_taps,
  )


def _refit(model: shapes.Shapes, statistics: shapes.Statistics) -> shapes.Shapes:
  """Moves codewords to the mean of their blocks, and tables to the observed frequencies."""
  uses = statistics.uses.sum(0)
  words = np.rint(statistics.sums / np.maximum(uses, 1)[:, None]).reshape(model.codewords.shape)
  words = np.where((uses >= 8)[:, None, None, None], words, model.codewords).astype(np.int64)
  words[0] = 0
  # Iterative scaling: the model comes to predict as many uses as were observed.
  pooled = (uses + 0.5) / (statistics.expected.sum(0) + 0.5)
  counts = model.counts * (statistics.uses + 10 * pooled) / (statistics.expected + 10)
  counts = np.maximum(np.rint(counts * (_ROW / counts.sum(1, keepdims=True))), 1)
  return model._replace(
    codewords=words,
    counts=counts,
    means=_mean_tables(model.step, statistics.differences),
    seen=_SEEN,
  )


def _mean_tables(step: int, differences: np.ndarray) -> np.ndarray:
  """Returns symmetric tables of mean differences, smoothed by a Laplacian and their average."""
  both = differences + differences[..., ::-1]
  average = both.sum(1, keepdims=True) + 1
  guess = _laplace(step, len(both))
  both += 4 * guess / guess.sum(-1, keepdims=True) + 4 * average / average.sum(-1, keepdims=True)
  return np.maximum(np.rint(_ROW * both / both.sum(-1, keepdims=True)), 1)


def _operating_point(i: int, source: Source, plan: Plan) -> tuple[dict[str, np.ndarray], str]:
  lmbda, rng = LAMBDAS[i], np.random.default_rng([plan.seed, i])
  model = _first_model(source, plan, lmbda, SIZES[i])
  for _ in range(plan.passes):
    statistics = (shapes.no_statistics(model.luma), shapes.no_statistics(model.chroma))
    for image in _draw(source, plan.pass_images, rng):
      universal.choose(universal.analysis(_crop(image)), model, lmbda, statistics=statistics)
    model = model._replace(
      luma=_refit(model.luma, statistics[0]), chroma=_refit(model.chroma, statistics[1])
    )
  fit = restore.Fit()
  bits = pixels = 0.0
  for image in _draw(source, plan.pass_images, rng):
    planes = universal.analysis(_crop(image))
    length, decoded = universal.choose(planes, model, lmbda)
    fit.add(decoded.luma, planes.luma)
    bits, pixels = bits + length, pixels + planes.luma.size
  model = model._replace(taps=fit.taps())
  sizes = f'{len(model.luma.codewords)} + {len(model.chroma.codewords)} codewords'
  report = f'lambda {lmbda}: {sizes}, {bits / pixels:.4f} bpp on training images'
  return universal.to_arrays(model, f'point{i}'), report


def _prior(source: Source, plan: Plan) -> tuple[dict[str, np.ndarray], str]:
  """Returns the initial counts of codebooks in files, from the coding of many of them."""
  rng = np.random.default_rng([plan.seed, len(LAMBDAS)])
  prior = codebook.flat_prior()
  for _ in range(2):  # The second time with the choices of a trained prior.
    observed = np.zeros(codebook.CONTEXTS)
    for image in _draw(source, plan.prior_images, rng):
      for lmbda in LAMBDAS[:5]:
        codebook.count(_coded_codebook(_crop(image), lmbda, prior), observed)
    pooled = observed.sum((0, 1), keepdims=True) + 0.5
    counts = observed + 20 * pooled / pooled.sum(-1, keepdims=True)
    prior = np.floor(_PRIOR_ROW * counts / counts.sum(-1, keepdims=True)) + 1
  return {PRIOR: prior.astype(np.uint16)}, f'prior: {observed.sum():.0f} coefficients'


def _coded_codebook(image: Image, lmbda: float, prior: np.ndarray) -> codebook.Quantised:
  space = per_image.SPACES['rgb']
  options = per_image.Options(lmbda, prior, refine=1)
  return per_image.best_coding(space.analysis(image), space, options).book
