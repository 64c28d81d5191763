"""Batches for the local devices: crops of images in device memory, or a stream from the host."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np

from compress_jax.codec import CodecError, Image
from compress_jax.images import crops, difficulty
from compress_jax.images.sources import Source
from compress_jax.training import streams, trainer

_LEAST_HARD = 0.1  # Lower bound of an image's weight, so that flat images are still drawn.
RESIDENT = 2**30  # Bytes of images that a device holds; larger sets are streamed.


class Augmentation(NamedTuple):
  """Departures from the usual distribution of crops."""

  turns: bool = False  # Crops lie in all eight ways: see `crops.crops`.
  sharp_scales: bool = False  # Images that are not sharp are shrunk until they are.
  hard_images: bool = False  # Images are drawn by their area times their hardness.


USUAL = Augmentation()


class Feed(NamedTuple):
  """The training data in the form that `trainer.make_train_step` and `fit.fit` expect."""

  data: Any  # Arrays on the devices, or an iterator of u8[N, inner, B / N, size, size, 3].
  draw: trainer.Draw | None  # Makes crops of arrays on the devices; None for an iterator.
  about: str  # A description for the log.


def feed(
  source: Source,
  *,
  seed: int,
  size: int,
  batch: int,
  inner: int,
  first: int,
  workers: int,
  stream: bool | None,
  augmentation: Augmentation = USUAL,
) -> Feed:
  """Returns the feed of crops of `source` from step `first` on.

  Args:
    source: images of at least size x size pixels.
    seed: seed of the stream; crops on the device are drawn by the step's keys.
    size: side of a crop in pixels.
    batch: examples of the global batch.
    inner: steps per dispatch.
    first: the step to start with.
    workers: number of processes that read a stream; 0 reads in threads.
    stream: whether to stream; None decides by the size of the images.
    augmentation: departures from the usual distribution of crops.

  Raises:
    CodecError: images are to be measured for the augmentation, but do not stay on the device.
  """
  turns = augmentation.turns
  held = None if stream else _held(source, RESIDENT if stream is None else None)
  if held is not None:
    about = f'{len(held)} images, {sum(image.nbytes for image in held) / 2**20:.0f} MiB'
    data = trainer.replicated(stored(held, augmentation))
    return Feed(data, partial(crops.crops, size=size, turns=turns), f'{about} on the device')
  if augmentation.sharp_scales or augmentation.hard_images:
    raise CodecError(
      'sharp_scales and hard_images are for images that stay on the device, up to 1 GiB: '
      'leave them out, or give less --data, without --stream'
    )
  shard = jax.process_index(), jax.process_count()
  batches = streams.batches(
    source,
    seed=seed,
    size=size,
    batch=batch,
    start=first,
    shard=shard,
    workers=workers,
    turns=turns,
  )
  return Feed(_grouped(batches, inner), None, f'{len(source)} images, streamed')


def stored(images: list[Image], augmentation: Augmentation) -> crops.Store:
  """Returns the store of images, with the scales and weights that the augmentation asks for."""
  highest = weights = None
  if augmentation.sharp_scales:
    highest = [min(difficulty.sharpness(image), 1.0) for image in images]
  if augmentation.hard_images:
    weights = [max(difficulty.hardness(image), _LEAST_HARD) for image in images]
  return crops.store(images, highest=highest, weights=weights)


def indices(batch: int) -> np.ndarray:
  """Returns i32[N, B]: the examples of the global batch that each of N local devices computes."""
  local = jax.local_device_count()
  each = trainer.shares(batch, jax.process_count(), local)
  first = jax.process_index() * local * each
  return first + np.arange(local * each, dtype=np.int32).reshape(local, each)


def _held(source: Source, limit: int | None) -> list[Image] | None:
  """Returns all images, or None if they exceed `limit` bytes."""
  held, total = [], 0
  for i in range(len(source)):
    held.append(source[i])
    total += held[-1].nbytes
    if limit is not None and total > limit:
      return None
  return held


def _grouped(batches: Iterator[np.ndarray], inner: int) -> Iterator[np.ndarray]:
  """Yields u8[N, inner, B / N, ...], the batches u8[B, ...] of one dispatch."""
  local = jax.local_device_count()
  while len(group := list(islice(batches, inner))) == inner:
    stacked = np.stack(group)
    shape = inner, local, stacked.shape[1] // local, *stacked.shape[2:]
    yield np.ascontiguousarray(stacked.reshape(shape).swapaxes(0, 1))
