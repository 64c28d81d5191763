"""Convolutional transforms on images of any size: few compiled shapes, bounded memory.

A transform maps an image grid to a latent grid or back. Both consist of cells, the pixels of one
latent. An image has ceil(size / cell) cells on each axis and is extended to whole cells by
repeating its edge. That is part of the format. The following measures for speed are not: a small
image is placed in a larger array of a fixed shape, and a large one is divided into tiles that
overlap by the reach of the network. The network gets the position of the image in the array as an
argument. Up to the rounding of floats, the results are those of one run on the whole image.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from typing import Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from compress_jax.codec import Array, CodecError, Params

BUCKETS = (2, 4, 8, 16, 32, 48, 64, 80, 96)  # Sides of the arrays, in cells.

Apply = Callable[..., Array]


class Transform(NamedTuple):
  """A network and its geometry.

  `apply(params, f32[B, h * cell_in + 2 * margin, w * cell_in + 2 * margin, C], i32[B, 4])` returns
  f32[B, h * cell_out, w * cell_out, C'] for any h and w. The integers are the top, bottom, left
  and right of the image within the h x w cells, bottom and right exclusive. A network that pads
  with zeros keeps everything outside them at zero. Compiled programs are cached by the identity of
  the function, so pass the same object each time.
  """

  apply: Apply
  cell_in: int  # Input pixels per cell and axis.
  cell_out: int  # Output pixels per cell and axis.
  halo: int  # Largest distance in cells between an output and inputs that affect it.
  margin: int = 0  # Input pixels on every side beyond the cells, for valid convolutions.
  pad: Literal['edge', 'mirror'] = 'edge'  # Contents of the margin beyond the image's cells.


class Span(NamedTuple):
  """One axis of a tile, in cells of the whole image."""

  start: int
  size: int  # `start + size` may lie beyond the image.
  first: int  # Outputs [first, last) are kept.
  last: int


class Tile(NamedTuple):
  """A rectangle to compute, and the part of it to keep."""

  rows: Span
  columns: Span


class _Job(NamedTuple):
  image: int  # Index into the images of a call.
  tile: Tile


def plan(height: int, width: int, halo: int, *, largest: int, margin: float = 0.0) -> list[Tile]:
  """Returns tiles that cover height x width cells; their kept parts do not overlap.

  A side of at most `largest` cells is rounded up to one of BUCKETS, or to `largest`. A longer side
  is cut into tiles of the one of these sizes that computes the fewest cells, with `margin` cells
  more on each side of a tile. Tiles overlap by 2 * halo cells, the last two by more.

  Raises:
    CodecError: a tile of `largest` cells would keep nothing of a side that must be cut.
  """
  spans = (_spans(side, halo, largest, margin) for side in (height, width))
  return [Tile(rows, columns) for rows, columns in product(*spans)]


def run(transform: Transform, params: Params, x: np.ndarray, *, largest: int) -> np.ndarray:
  """Applies a transform to one image, as `run_many` does to several."""
  return run_many(transform, params, [x], largest=largest)[0]


def run_many(
  transform: Transform,
  params: Params,
  xs: list[np.ndarray],
  *,
  largest: int,
  progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
  """Applies a transform to several images; tiles of one shape run in parallel on local devices.

  Args:
    transform: the network.
    params: its parameters.
    xs: f32[H, W, C], or u8[H, W, C], which the network sees divided by 255.
    largest: the longest side of a tile in cells; memory grows with its square.
    progress: is called after each tile with the number of tiles that are done and of all tiles.

  Returns:
    An array f32[cells high * cell_out, cells wide * cell_out, C'] for each image.

  Raises:
    CodecError: an array is empty or has another rank or type, or `plan` raises an error.
  """
  xs = [np.asarray(x) for x in xs]  # Slices of JAX's arrays would be compiled, each size anew.
  grids = [_grid(transform, x) for x in xs]
  pools = _pools(transform, grids, largest)
  results: dict[int, np.ndarray] = {}
  done, total = 0, sum(map(len, pools.values()))
  for jobs in pools.values():
    for job, output in zip(jobs, _outputs(transform, params, xs, jobs), strict=True):
      if job.image not in results:
        height, width = (cells * transform.cell_out for cells in grids[job.image])
        results[job.image] = np.empty((height, width, output.shape[-1]), np.float32)
      _keep(results[job.image], output, job.tile, transform.cell_out)
      done += 1
      if progress:
        progress(done, total)
  return [results[image] for image in range(len(xs))]


def prepare(
  transform: Transform,
  params: Params,
  grids: Sequence[tuple[int, int]],
  channels: int,
  *,
  largest: int,
) -> None:
  """Compiles or loads the programs that `run_many` runs on f32 arrays of several sizes.

  Programs that spread tiles over several devices are left to `run_many`.

  Args:
    transform: the network.
    params: its parameters.
    grids: the height and width of each array, in cells.
    channels: the number of channels of all arrays.
    largest: the longest side of a tile in cells.
  """
  devices = jax.local_devices()
  for cells, jobs in _pools(transform, grids, largest).items():
    if min(len(devices), len(jobs)) == 1:
      height, width = (size * transform.cell_in + 2 * transform.margin for size in cells)
      x = jax.ShapeDtypeStruct((1, height, width, channels), np.float32)
      edges = jax.ShapeDtypeStruct((1, 4), np.int32)
      # JAX keeps the program, for calls of the same function with such arrays.
      jax.jit(transform.apply).lower(jax.device_put(params, devices[0]), x, edges).compile()


def _pools(
  transform: Transform, grids: Sequence[tuple[int, int]], largest: int
) -> dict[tuple[int, int], list[_Job]]:
  """Returns the tiles of all images by their shape in cells."""
  pools: dict[tuple[int, int], list[_Job]] = {}
  for image, grid in enumerate(grids):
    margin = transform.margin / transform.cell_in
    for tile in plan(*grid, transform.halo, largest=largest, margin=margin):
      shape = tile.rows.size, tile.columns.size
      pools.setdefault(shape, []).append(_Job(image, tile))
  return pools


def _spans(side: int, halo: int, largest: int, margin: float) -> list[Span]:
  """Returns the spans of the tiles along one axis of `side` cells."""
  sizes = [size for size in {*BUCKETS, largest} if size <= largest]
  if side <= largest:
    size = min(size for size in sizes if side <= size)
    return [Span(0, size, 0, side)]
  if largest <= 2 * halo:
    raise CodecError(f'tiles of {largest} cells are too small for a halo of {halo}')
  size = min(sizes, key=lambda size: (_computed(side, size, halo, margin), -size))
  step = size - 2 * halo
  starts = [*range(0, side - size, step), side - size]
  cuts = [0, *(start + halo for start in starts[1:]), side]
  return [Span(start, size, *kept) for start, kept in zip(starts, pairwise(cuts), strict=True)]


def _computed(side: int, size: int, halo: int, margin: float) -> float:
  """Returns the number of cells that tiles of a size compute along a side."""
  step = size - 2 * halo
  return math.inf if step < 1 else (size + 2 * margin) * (1 + -(-(side - size) // step))


def _grid(transform: Transform, x: np.ndarray) -> tuple[int, int]:
  """Returns the height and width of an image in cells.

  Raises:
    CodecError: the array is empty or has another rank or type.
  """
  if x.ndim != 3 or 0 in x.shape or x.dtype not in (np.uint8, np.float32):
    raise CodecError(f'a transform needs u8 or f32 [H, W, C], got {x.dtype} {list(x.shape)}')
  return -(-x.shape[0] // transform.cell_in), -(-x.shape[1] // transform.cell_in)


def _outputs(
  transform: Transform, params: Params, xs: list[np.ndarray], jobs: list[_Job]
) -> Iterator[np.ndarray]:
  """Yields the output f32[h', w', C'] of each tile; all tiles have the same shape."""
  devices = jax.local_devices()
  # JAX itself keeps what it compiled, by shape, for as long as the function lives.
  if min(len(devices), len(jobs)) == 1:  # A lone tile need not occupy every device.
    on_one = jax.jit(transform.apply)
    params = jax.device_put(params, devices[0])
    for job in jobs:
      x, edges = _gather(transform, xs[job.image], job.tile)
      yield np.asarray(on_one(params, x[None], edges[None]))[0]
    return
  on_all = jax.pmap(transform.apply, 'device', in_axes=(None, 0, 0), devices=devices)
  # Sent once: pmap would send what is not laid out on its own mesh for every group.
  everywhere = NamedSharding(Mesh(np.array(devices), ('device',)), PartitionSpec())
  params = jax.device_put(params, everywhere)
  for first in range(0, len(jobs), len(devices)):
    group = jobs[first : first + len(devices)]
    filled = group + group[-1:] * (len(devices) - len(group))
    gathered = [_gather(transform, xs[job.image], job.tile) for job in filled]
    x, edges = (np.stack(part)[:, None] for part in zip(*gathered, strict=True))
    yield from np.asarray(on_all(params, x, edges))[: len(group), 0]


def _gather(transform: Transform, x: np.ndarray, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
  """Returns the input f32[h, w, C] of a tile, and the edges i32[4] of the image in it."""
  indices, edges = [], []
  for span, side, cells in zip(tile, x.shape, _grid(transform, x), strict=False):
    indices.append(_indices(transform, span, side, cells))
    edges += [max(-span.start, 0), min(cells - span.start, span.size)]
  rows, columns = indices
  # Several times faster than indexing both axes at once, and copies no more than the tile.
  strip = x[rows.min() : rows.max() + 1].take(columns, axis=1)
  patch = strip[rows - rows.min()]
  values = patch.astype(np.float32) / 255 if x.dtype == np.uint8 else patch
  return values, np.array(edges, np.int32)


def _indices(transform: Transform, span: Span, side: int, cells: int) -> np.ndarray:
  """Returns the indices i64[size * cell_in + 2 * margin] in the image of a span's input pixels."""
  start = span.start * transform.cell_in - transform.margin
  index = start + np.arange(span.size * transform.cell_in + 2 * transform.margin)
  end = cells * transform.cell_in - 1
  if transform.pad == 'mirror' and end > 0:
    index = end - np.abs(end - index % (2 * end))
  return np.clip(index, 0, side - 1)


def _keep(result: np.ndarray, output: np.ndarray, tile: Tile, cell: int) -> None:
  """Writes the kept part of a tile's output to the result of the whole image."""
  to = tuple(slice(span.first * cell, span.last * cell) for span in tile)
  of = tuple(
    slice((span.first - span.start) * cell, (span.last - span.start) * cell) for span in tile
  )
  result[to] = output[of]
