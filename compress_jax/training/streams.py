"""Batches of random crops, each a pure function of (seed, step), so that a stream has no state.

Example i of the global batch of a step draws its image, scale, position and flip from its
own generator, so processes that compute different shards together see the batch that
one process would.
"""

import functools
from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image as PILImage

from compress_jax.codec import CodecError, Image
from compress_jax.images.sources import Source
from compress_jax.runtime.workers import cores

AHEAD = 2  # Batches made in advance by each thread or process.
FOREVER = 2**40  # Number of steps of a stream without an end.

Images = Source | Sequence[Image]
Batches = Generator[np.ndarray, None, None]  # Yields u8[B, size, size, 3].


class Crops(NamedTuple):
  """The images from which crops are drawn, and the distribution of the crops."""

  source: Images  # Images without a side under `size`.
  seed: int
  size: int  # Side of a crop in pixels.
  scales: tuple[float, float]  # Limits of the factor by which images shrink.
  turns: bool = False  # Crops lie in all eight ways, and not only in two.


def batches(
  source: Images,
  *,
  seed: int,
  size: int,
  batch: int,
  start: int = 0,
  stop: int | None = None,
  shard: tuple[int, int] = (0, 1),
  workers: int = 0,
  scales: tuple[float, float] = (0.5, 1.0),
  turns: bool = False,
) -> Batches:
  """Returns a generator of random crops u8[batch // shards, size, size, 3], one batch per step.

  Args:
    source: the result of `sources.large_enough`, or any sequence of images.
    seed: whole number from 0.
    size: side of the crops.
    batch: examples of a step, over all shards.
    start: the first step; the batches from there on are those of an unbroken run.
    stop: the step before which it ends; None never ends.
    shard: (k, n) for the k-th of n equal parts of every batch.
    workers: number of processes that make batches; 0 uses threads of this process.
    scales: limits of the factor by which images shrink, drawn uniformly, but never so small
      that a side falls under `size`.
    turns: whether crops are also mirrored top to bottom and transposed, half of them each.

  Returns:
    A generator; close() it, or exhaust it, to stop its threads and processes.

  Raises:
    CodecError: an argument is out of range.
  """
  _check(seed, size, batch, start, stop, shard, workers, scales)
  crops = Crops(source, seed, size, scales, turns)
  share = batch // shard[1]
  examples = range(shard[0] * share, (shard[0] + 1) * share)
  steps = range(start, FOREVER if stop is None else stop)
  return by_grain(crops, steps, examples, workers)


def _check(
  seed: int,
  size: int,
  batch: int,
  start: int,
  stop: int | None,
  shard: tuple[int, int],
  workers: int,
  scales: tuple[float, float],
) -> None:
  for name, value, least in (
    ('seed', seed, 0), ('size', size, 1), ('batch', batch, 1), ('start', start, 0),
    ('workers', workers, 0), ('stop', start if stop is None else stop, start),
  ):  # fmt: skip
    if value < least:
      raise CodecError(f'{name}={value} is less than {least}')
  if not 0 <= shard[0] < shard[1]:
    raise CodecError(f'shard={shard} is not one of (0, n) to (n - 1, n)')
  if batch % shard[1]:
    raise CodecError(f'batch={batch} does not divide into {shard[1]} shards')
  if not 0 < scales[0] <= scales[1] <= 1:
    raise CodecError(f'scales={scales} are not 0 < low <= high <= 1')


def example(crops: Crops, step: int, i: int) -> Image:
  """Returns example i of the global batch of a step, u8[size, size, 3].

  Raises:
    CodecError: the image drawn is smaller than the crop.
  """
  rng = np.random.default_rng((crops.seed, step, i))
  image = crops.source[int(rng.integers(len(crops.source)))]
  short, size = min(image.shape[:2]), crops.size
  if short < size:
    shape = f'{image.shape[1]}x{image.shape[0]}'
    raise CodecError(f'an image of {shape} pixels has no crop of {size}: leave it out')
  low, high = (max(scale, size / short) for scale in crops.scales)
  window = min(size / rng.uniform(low, high), short)
  # Whole pixels, so that at scale 1 nothing is resampled.
  top, left = (int(rng.integers(side - int(np.ceil(window)) + 1)) for side in image.shape[:2])
  crop = _resized(image, top, left, window, size)
  crop = crop[:, ::-1] if rng.integers(2) else crop
  if crops.turns:
    crop = crop[::-1] if rng.integers(2) else crop
    crop = crop.swapaxes(0, 1) if rng.integers(2) else crop
  return np.ascontiguousarray(crop)


def _resized(image: Image, top: int, left: int, window: float, size: int) -> Image:
  """Returns a square of the image, resized to `size` by a triangle filter with antialiasing."""
  if window == size:
    return image[top : top + size, left : left + size]
  box = (left, top, left + window, top + window)
  picture = PILImage.fromarray(image)
  return np.asarray(picture.resize((size, size), PILImage.Resampling.BILINEAR, box=box))


def by_grain(crops: Crops, steps: range, examples: range, workers: int = 0) -> Batches:
  """Yields the batches, made in threads of this process or in `workers` processes."""
  import grain
  from absl import flags

  if not flags.FLAGS.is_parsed():
    # Without this, grain's workers cannot read the defaults of grain's flags.
    flags.FLAGS.mark_as_parsed()
  share = len(examples)
  numbers = grain.MapDataset.range(steps.start * share, steps.stop * share)
  made = numbers.map(functools.partial(_numbered, crops, examples)).batch(share)
  threads = 1 if workers else cores()
  ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=AHEAD * threads)
  dataset = made.to_iter_dataset(ahead)
  if workers:
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=AHEAD)
    dataset = dataset.mp_prefetch(options)
  iterator = iter(dataset)
  try:
    for batch in iterator:  # noqa: UP028 (it is closed below, once)
      yield batch
  finally:
    iterator.close()


def _numbered(crops: Crops, examples: range, number: int) -> Image:
  """Returns the example of a number in the sequence of this shard's examples."""
  step, k = divmod(int(number), len(examples))
  return example(crops, step, examples[k])
