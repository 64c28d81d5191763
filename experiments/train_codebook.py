"""Trains the universal codebooks of kmeans, and the tables both its modes start from.

python -m experiments.train_codebook --images=DIR [--validation=DIR] --output=kmeans.safetensors

For each operating point: eigen-value K-means of mean-removed blocks, then
entropy-constrained Lloyd steps (Chou, Lookabaugh & Gray 1989), then passes of the
real encoder over the images, which fit codewords, counts and mean differences to
what it does with them.
"""

import json
import math
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from compress_jax import clustering, data
from compress_jax.codec import Image
from compress_jax.vq import blocks, shapes, universal
from compress_jax.vq.universal import CHROMA_WEIGHT

IMAGES = flags.DEFINE_multi_string('images', None, 'Folders of training images.', required=True)
OUTPUT = flags.DEFINE_string('output', None, 'Where the model file goes.', required=True)
SEED = flags.DEFINE_integer('seed', 0, 'Which blocks and images are drawn.')
BLOCKS = flags.DEFINE_integer('blocks', 500_000, 'Blocks for the K-means stage.')
PASSES = flags.DEFINE_integer('passes', 4, 'Passes of the real encoder.')
PASS_IMAGES = flags.DEFINE_integer('pass_images', 120, 'Images in each pass.')
WORKERS = flags.DEFINE_integer('workers', 2, 'Operating points trained at the same time.')

LAMBDAS = (0.0009, 0.0018, 0.0035, 0.0067, 0.013, 0.025, 0.0483)
SIZES = (256, 512, 768, 1024, 1536, 2048, 2048)
CHROMA_SIZE = 256
_ROW = 1 << 14  # What a row of counts sums to, about.
_CROP = 256


def _crop(image: Image, size: int = _CROP) -> Image:
  """The centre, both sides at most `size` and multiples of 8."""
  height, width = (min(side, size) // 8 * 8 for side in image.shape[:2])
  top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
  return image[top : top + height, left : left + width]


def _load(paths: Sequence[Path]) -> Iterator[Image]:
  for path in paths:
    image = data.load_image(path, flatten='white')
    if min(image.shape[:2]) >= 64:
      yield image


def _sample(paths: Sequence[Path], n: int, seed: int) -> list[np.ndarray]:
  """Mean-removed blocks f32[n, 4, 4, 1] and f32[n / 2, 4, 4, 2] from all images."""
  rng = np.random.default_rng(seed)
  parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
  share = math.ceil(n / len(paths))
  for image in _load(paths):
    planes = universal.analysis(_crop(image, 1024))
    for out, plane, count in zip(parts, planes, (share, math.ceil(share / 2)), strict=True):
      tiles = blocks.to_blocks(plane).reshape(-1, 4, 4, plane.shape[-1])
      tiles = tiles[rng.integers(0, len(tiles), count)].astype(np.float32)
      out.append(tiles - tiles.mean((1, 2), keepdims=True))
  return [np.concatenate(part) for part in parts]


def entropy_constrained(
  points: np.ndarray, start: np.ndarray, *, steps: int = 15, least: float = 2e-5
) -> tuple[np.ndarray, np.ndarray]:
  """Lloyd's algorithm on squared distance + bits, from f32[K, D]; returns codewords and uses.

  Adding a coordinate sqrt(bits) to each codeword turns the cost into a squared
  distance. Codewords used by a share under `least` are dropped, all but the first.
  """
  points = np.pad(points, ((0, 0), (0, 1)))
  words, bits = start, np.full(len(start), math.log2(len(start)), np.float32)
  uses = np.ones(len(start))
  for _ in range(steps):
    biased = np.concatenate([words, np.sqrt(bits)[:, None]], 1)
    labels = np.asarray(clustering.assign(points, biased)[0])
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
  """i64[K, 4, 4, C] and their uses; the first is flat. `weight`: bits per squared error."""
  scale = np.sqrt(weight).astype(np.float32)
  points = (tiles * scale).reshape(len(tiles), -1)
  eigenvalues = blocks.covariance(tiles)
  start = np.array(clustering.eigen_kmeans(points, eigenvalues, size, max_iter=20).centroids)
  start[np.argmin((start**2).sum(1))] = start[0]
  start[0] = 0
  words, uses = entropy_constrained(points, start)
  return np.rint(words.reshape(-1, *tiles.shape[1:]) / scale).astype(np.int64), uses


def _laplace(step: int, channels: int) -> np.ndarray:
  """f64[C, MISFITS, 2 R + 1]: a first guess, wider with the misfit."""
  r = shapes.reach(step)
  q = np.abs(np.arange(-r, r + 1))
  rows = [np.exp(-q / (0.3 * 1.3**misfit)) + 1e-3 for misfit in range(shapes.MISFITS)]
  return np.broadcast_to(np.floor(1000 * np.array(rows)) + 1, (channels, len(rows), len(q)))


def _first_model(words: np.ndarray, uses: np.ndarray, contexts: int, step: int, tau: int) -> Any:
  counts = np.maximum(np.rint(_ROW * uses / uses.sum()), 1)
  return shapes.Shapes(
    codewords=words,
    counts=np.tile(counts, (contexts, 1)),
    means=_laplace(step, words.shape[-1]).copy(),
    step=step,
    alpha=6,
    tau=tau,
    seen=0.0,
  )


def _refit(model: shapes.Shapes, found: shapes.Statistics, seen: float) -> shapes.Shapes:
  """Codewords to the mean of what they stood for; tables to how often things happened."""
  uses = found.uses.sum(0)
  words = np.rint(found.sums / np.maximum(uses, 1)[:, None]).reshape(model.codewords.shape)
  words = np.where((uses >= 8)[:, None, None, None], words, model.codewords).astype(np.int64)
  words[0] = 0
  # Iterative scaling: until the model foresees as many uses as there were.
  pooled = (uses + 0.5) / (found.expected.sum(0) + 0.5)
  counts = model.counts * (found.uses + 10 * pooled) / (found.expected + 10)
  counts = np.maximum(np.rint(counts * (_ROW / counts.sum(1, keepdims=True))), 1)
  differences = found.differences + found.differences[..., ::-1]
  near = differences.sum(1, keepdims=True) + 1
  guess = _laplace(model.step, len(differences))
  guess = 4 * guess / guess.sum(-1, keepdims=True) + 4 * near / near.sum(-1, keepdims=True)
  means = np.maximum(
    np.rint(_ROW * (differences + guess) / (differences + guess).sum(-1, keepdims=True)), 1
  )
  return model._replace(codewords=words, counts=counts, means=means, seen=seen)


def _operating_point(i: int, paths: Sequence[Path], options: dict) -> dict[str, np.ndarray]:
  lmbda, fineness = LAMBDAS[i], math.sqrt(0.0035 / LAMBDAS[i])
  luma, chroma = _sample(paths, options['blocks'], options['seed'])
  model = universal.Model(
    _first_model(
      *_codewords(luma, SIZES[i], lmbda * np.ones(1)),
      3,
      max(2, round(12 * fineness)),
      round(30_000 * fineness),
    ),
    _first_model(
      *_codewords(chroma, CHROMA_SIZE, lmbda * CHROMA_WEIGHT),
      9,
      max(2, round(8 * fineness)),
      round(5_000 * fineness),
    ),
  )
  rng = np.random.default_rng(options['seed'] + 1)
  for step in range(options['passes']):
    found = (shapes.no_statistics(model.luma), shapes.no_statistics(model.chroma))
    bits = error = pixels = 0.0
    drawn = [
      paths[j]
      for j in rng.choice(len(paths), min(options['pass_images'], len(paths)), replace=False)
    ]
    for image in _load(drawn):
      planes = universal.analysis(_crop(image))
      length, decoded = universal.choose(planes, model, lmbda, statistics=found)
      bits, pixels = bits + length, pixels + planes.luma.size
      error += (
        (universal.synthesis(decoded, *planes.luma.shape[:2]) - _crop(image).astype(float)) ** 2
      ).sum() / 3
    print(
      f'lambda {lmbda}, pass {step + 1}: {bits / pixels:.4f} bpp, MSE {error / pixels:.2f}, '
      f'cost {bits / pixels + lmbda * error / pixels:.4f}, '
      f'{len(model.luma.codewords)} + {len(model.chroma.codewords)} codewords',
      flush=True,
    )
    model = universal.Model(
      *(_refit(part, seen, options['seen']) for part, seen in zip(model, found, strict=True))
    )
  return universal.to_arrays(model, f'point{i}')


def main(argv: Sequence[str]) -> None:
  """Trains every operating point, two at a time."""
  del argv
  from safetensors.numpy import save_file

  paths = [path for folder in IMAGES.value for path in data.find_images(folder)]
  options = {
    'blocks': BLOCKS.value,
    'seed': SEED.value,
    'passes': PASSES.value,
    'pass_images': PASS_IMAGES.value,
    'seen': 16.0,
  }
  arrays: dict[str, np.ndarray] = {}
  with futures.ProcessPoolExecutor(WORKERS.value) as pool:
    jobs = [pool.submit(_operating_point, i, paths, options) for i in reversed(range(len(LAMBDAS)))]
    for job in futures.as_completed(jobs):
      arrays |= job.result()
  save_file(arrays, OUTPUT.value, {'config': json.dumps({'lambdas': LAMBDAS})})


if __name__ == '__main__':
  app.run(main)
