"""K-means on blocks of photographs, in pixels and in coefficients of the cosine transform.

  python -m examples.features_kmeans --clusters=64

`compress_jax.clustering.k_means.kmeans` takes any f32[N, D]. Here the points are blocks of 8x8
pixels, first in pixels and then as the first coefficients of the cosine transform from which cae's
transforms start: clustering then works in 24 dimensions instead of 192.
"""

import argparse

import numpy as np

from compress_jax.clustering.k_means import assign, kmeans
from compress_jax.images import sets
from compress_jax.layers import dct

CELL, COEFFICIENTS = 8, 24


def blocks(image: np.ndarray) -> np.ndarray:
  """Returns f32[N, 8 * 8 * 3] of u8[H, W, 3], in [0, 1]: complete blocks, left to right."""
  height, width = (side // CELL * CELL for side in image.shape[:2])
  cut = image[:height, :width].reshape(height // CELL, CELL, width // CELL, CELL, 3)
  return cut.swapaxes(1, 2).reshape(-1, CELL * CELL * 3).astype(np.float32) / 255


def psnr(points: np.ndarray, approximations: np.ndarray) -> float:
  """Returns the PSNR in dB of blocks in [0, 1]."""
  return float(-10 * np.log10(np.mean((points - approximations) ** 2)))


def main() -> None:
  """Prints how well centroids approximate the blocks, and the blocks of the largest clusters."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--clusters', type=int, default=32, help='centroids')
  parser.add_argument('--size', type=int, default=256, help='pixels of each photograph, squared')
  args = parser.parse_args()
  named = sets.sample_photographs()
  parts = [blocks(sets.centre_crop(image, args.size)) for _, image in named]
  points = np.concatenate(parts)

  result = kmeans(points, args.clusters, max_iter=20)
  centroids = np.asarray(result.centroids)
  quality = psnr(points, centroids[np.asarray(result.labels)])
  print(f'{len(points)} blocks, {args.clusters} centroids of {points.shape[1]} numbers: ', end='')
  print(f'{quality:.2f} dB after {int(result.n_iter)} steps')

  vectors = dct.basis(CELL, COEFFICIENTS).vectors  # Orthonormal: distances stay distances.
  latents = (points - 0.5) @ vectors.T
  small = kmeans(latents, args.clusters, init='k-means++', n_init=2, max_iter=20)
  back = np.asarray(small.centroids) @ vectors + 0.5
  print(f'the same in {COEFFICIENTS} coefficients: {psnr(points, back[small.labels]):.2f} dB')

  largest = np.argsort(-np.asarray(small.counts), kind='stable')[:5]
  for (name, _), part in zip(named, parts, strict=True):  # New points are assigned.
    labels = np.asarray(assign((part - 0.5) @ vectors.T, small.centroids)[0])
    shares = '  '.join(f'{np.mean(labels == k):5.1%}' for k in largest)
    print(f'{name:18s} blocks in the largest clusters: {shares}')


if __name__ == '__main__':
  main()
