"""K-means under JAX's transformations: jit, vmap over the tolerance, pmap over devices.

  python -m examples.kmeans_transforms

The points are the colours of a photograph; the centroids are its palette.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from compress_jax.clustering.k_means import kmeans
from compress_jax.images import sets

CLUSTERS = 8


def main() -> None:
  """Prints a palette, the steps for each tolerance, and the difference between devices."""
  pixels = sets.centre_crop(sets.sample_photographs()[0][1], 128).reshape(-1, 3)
  points = jnp.asarray(pixels / np.float32(255))
  start = points[:: len(points) // CLUSTERS][:CLUSTERS]
  fit = functools.partial(kmeans, k=CLUSTERS, init=start)

  result = jax.jit(fit)(points)
  palette = [''.join(f'{round(255 * float(v)):02x}' for v in row) for row in result.centroids]
  print('palette:', ' '.join(f'#{colour}' for colour in palette))

  tolerances = jnp.array([1e-1, 1e-3, 1e-5])
  several = jax.vmap(lambda tol: fit(points, tol=tol))(tolerances)
  for tol, steps, inertia in zip(tolerances, several.n_iter, several.inertia, strict=True):
    print(f'tol {float(tol):g}: {int(steps)} steps, inertia {float(inertia):.2f}')

  devices = jax.local_device_count()
  shares = points.reshape(devices, -1, 3)
  shared = jax.pmap(functools.partial(fit, axis_name='rows'), axis_name='rows')(shares)
  difference = float(jnp.abs(shared.centroids[0] - result.centroids).max())
  print(f'{devices} devices: centroids differ by {difference:.1e}')


if __name__ == '__main__':
  main()
