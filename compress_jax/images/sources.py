"""Training images by index: folders, files and TFDS datasets, opened once, read when drawn.

A spec is a path, or tfds:NAME[/config][:version][@split] as in tfds:clic, tfds:div2k/bicubic_x2
or tfds:tf_flowers@train[:50%]; the default split is train. TFDS reads without TensorFlow, from data
prepared as array_record in $TFDS_DATA_DIR.
"""

import functools
import io
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from compress_jax.codec import CodecError, Image
from compress_jax.images.reading import check_image
from compress_jax.images.sets import NamedImage, find_images, load_image
from compress_jax.runtime.extras import require

TFDS = 'tfds:'

Log = Callable[[str], None]


class Part(NamedTuple):
  """The images of one spec; the functions can be sent to another process."""

  sides: np.ndarray  # i32[N], the shorter side in pixels; 0 if it is unknown before decoding.
  name: Callable[[int], str]
  load: Callable[[int], Image]


class Source:
  """A sequence of images u8[H, W, 3], for any number of readers at once.

  An image that turns out to be unreadable or smaller than `side` when it is drawn is
  replaced by the next one, so every index gives the same image in every run.
  """

  def __init__(self, parts: Sequence[Part], index: np.ndarray, side: int = 1):
    self.parts = tuple(parts)
    self.index = index  # i32[N, 2], the part and the image in it.
    self.side = side

  @property
  def names(self) -> list[str]:
    """Returns the name of each image: its path, or its dataset and number."""
    return [self.parts[part].name(i) for part, i in self.index.tolist()]

  @property
  def sides(self) -> np.ndarray:
    """Returns i32[N], the shorter side of each image; 0 if it is unknown before decoding."""
    return np.array([self.parts[part].sides[i] for part, i in self.index.tolist()], np.int32)

  def __len__(self) -> int:
    return len(self.index)

  def __getitem__(self, i: int) -> Image:
    first = range(len(self))[i]  # IndexError outside, as iteration needs.
    for k in range(len(self)):
      part, image = self.index[(first + k) % len(self)].tolist()
      try:
        pixels = self.parts[part].load(image)
      except CodecError as error:
        _warn_once(f'{error}; the next image takes its place')
        continue
      if min(pixels.shape[:2]) >= self.side:
        return pixels
    raise CodecError(
      f'none of {len(self)} images, {self.parts[0].name(0)} among them, '
      f'can be read and is at least {self.side} pixels high and wide'
    )


@functools.cache
def _warn_once(line: str) -> None:
  """Logs a warning once per process: worker processes have no other channel for messages."""
  logging.getLogger(__name__).warning(line)


def open_source(spec: str, *, log: Log, data_dir: str | None = None) -> Source:
  """Returns the images of one spec, see `open_sources`."""
  return open_sources([spec], log=log, data_dir=data_dir)


def open_sources(specs: Sequence[str], *, log: Log, data_dir: str | None = None) -> Source:
  """Returns the images of several specs, one after the other.

  Args:
    specs: folders, files, and tfds:NAME@SPLIT.
    log: receives a line for each file that is skipped, and their number.
    data_dir: the folder of TFDS's data; by default that of $TFDS_DATA_DIR.

  Raises:
    CodecError: a spec has no images that can be read.
  """
  if not specs:
    raise CodecError('no images named: give a folder, a file or tfds:NAME')
  return _concatenated(
    [_records(spec, data_dir) if spec.startswith(TFDS) else _files(spec, log) for spec in specs]
  )


def from_images(images: Sequence[NamedImage]) -> Source:
  """Returns a source of named images, such as those of `sets.default_images`."""
  named = tuple(images)
  name, load = functools.partial(_named_name, named), functools.partial(_named_load, named)
  return _concatenated([Part(np.zeros(len(named), np.int32), name, load)])


def decodable(source: Source, *, log: Log) -> Source:
  """Returns the images that can be decoded; each other one is logged in a line.

  Raises:
    CodecError: no image can be decoded.
  """

  def fault(pair: list[int]) -> str:
    try:
      source.parts[pair[0]].load(pair[1])
    except CodecError as error:
      return str(error)
    return ''

  with ThreadPoolExecutor() as pool:
    faults = list(pool.map(fault, source.index.tolist()))
  for line in filter(None, faults):
    log(f'skipped {line}')
  keep = np.array([not line for line in faults])
  if not keep.any():
    raise CodecError(f'none of {len(source)} images can be decoded, see above')
  if not keep.all():
    log(f'{int((~keep).sum())} of {len(source)} images skipped: they cannot be decoded')
  return Source(source.parts, source.index[keep], source.side)


def large_enough(source: Source, side: int, *, log: Log) -> Source:
  """Returns the images of at least `side` x `side` pixels; one line logs the number of others.

  Images of unknown size are kept; those that are too small are replaced when they are drawn.

  Raises:
    CodecError: no image is large enough.
  """
  sides = source.sides
  keep = (sides == 0) | (sides >= side)
  if not keep.any():
    raise CodecError(f'none of {len(source)} images is at least {side} pixels high and wide')
  if small := int((~keep).sum()):
    log(f'{small} of {len(source)} images skipped: less than {side} pixels high or wide')
  return Source(source.parts, source.index[keep], max(side, source.side))


def _concatenated(parts: Sequence[Part]) -> Source:
  counts = [len(part.sides) for part in parts]
  index = np.stack([np.repeat(np.arange(len(parts)), counts), _counted(counts)], -1)
  return Source(parts, index.astype(np.int32))


def _counted(counts: Sequence[int]) -> np.ndarray:
  return np.concatenate([np.arange(count) for count in counts])


def _named_name(images: Sequence[NamedImage], i: int) -> str:
  return images[i].name


def _named_load(images: Sequence[NamedImage], i: int) -> Image:
  return images[i].load()


def _files(spec: str, log: Log) -> Part:
  """Returns the files of a folder whose header can be read; each other one is logged in a line."""
  skipped: list[str] = []
  paths = [str(path) for path in find_images(Path(spec), report=skipped.append)]
  with ThreadPoolExecutor() as pool:
    headers = list(pool.map(_side, paths))
  skipped += [header for header in headers if isinstance(header, str)]
  good = [(p, side) for p, side in zip(paths, headers, strict=True) if isinstance(side, int)]
  if not good and len(skipped) == 1:
    raise CodecError(skipped[0])
  for line in skipped:
    log(f'skipped {line}')
  if not good:
    raise CodecError(f'{spec}: none of {len(skipped)} images can be read, see above')
  if skipped:
    log(f'{len(skipped)} files or folders of {spec} were skipped, {len(good)} are left')
  kept = tuple(path for path, _ in good)
  sides = np.array([side for _, side in good], np.int32)
  return Part(sides, kept.__getitem__, functools.partial(_load_file, kept))


def _side(path: str) -> int | str:
  """Returns the shorter side of the picture without decoding it, or an error message."""
  try:
    return min(check_image(path))
  except CodecError as error:
    return str(error)


def _load_file(paths: Sequence[str], i: int) -> Image:
  return load_image(paths[i])


def _records(spec: str, data_dir: str | None) -> Part:
  """Returns a split of a prepared TFDS dataset."""
  name, _, split = spec.removeprefix(TFDS).partition('@')
  require('tfds', 'tensorflow_datasets', 'importlib_resources')
  import tensorflow_datasets as tfds

  builder = _builder(tfds, spec, name, data_dir)
  features = builder.info.features
  images = [key for key in sorted(features) if isinstance(features[key], tfds.features.Image)]
  feature = _image_feature(spec, [k for k in images if type(features[k]) is tfds.features.Image])
  # Bytes, not pixels: the same pictures are refused and the same colours read as from files.
  decoders = {key: tfds.decode.SkipDecoding() for key in images}
  try:
    records = builder.as_data_source(split or 'train', decoders=decoders)
  except (ValueError, KeyError) as error:
    splits = ', '.join(sorted(builder.info.splits))
    raise CodecError(f'{spec}: no such split; there are {splits}') from error
  except ImportError as error:
    raise CodecError(f'{spec}: {error.name} is missing: pip install array_record') from error
  shape = features[feature].shape[:2]
  sides = np.full(len(records), 0 if None in shape else min(shape), np.int32)
  load = functools.partial(_load_record, spec, records, feature)
  return Part(sides, functools.partial(_record_name, spec), load)


def _builder(tfds: Any, spec: str, name: str, data_dir: str | None) -> Any:
  """Returns a TFDS builder whose data is prepared and can be read by index.

  Raises:
    CodecError: one line that says how to prepare it.
  """
  try:
    builder = tfds.builder(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as error:
    where = data_dir or '$TFDS_DATA_DIR'
    raise CodecError(f'{spec}: TFDS knows no dataset {name}, and {where} has none') from error
  except Exception as error:  # Builders run code of their own; some need TensorFlow.
    raise CodecError(f'{spec}: {_first_line(error)}') from error
  how = f"tfds.builder({name!r}, file_format='array_record').download_and_prepare()"
  if not builder.is_prepared():
    raise CodecError(f'{spec}: nothing in {builder.data_dir}: prepare it by {how}')
  formats = builder.info.available_file_formats()
  if not formats & set(type(next(iter(formats))).with_random_access()):
    text = ', '.join(sorted(form.value for form in formats))
    raise CodecError(
      f'{spec}: {builder.data_dir} holds {text}, which cannot be read by index: '
      f'move it away and prepare it again by {how}'
    )
  return builder


def _image_feature(spec: str, names: Sequence[str]) -> str:
  for name in ('image', 'hr'):
    if name in names:
      return name
  if len(names) != 1:
    held = ', '.join(names) or 'none'
    raise CodecError(f"{spec}: which feature is the image? It has {held}, none is 'image' or 'hr'")
  return names[0]


def _record_name(spec: str, i: int) -> str:
  return f'{spec} number {i}'


def _load_record(spec: str, records: Any, feature: str, i: int) -> Image:
  stream = io.BytesIO(records[i][feature])
  stream.name = _record_name(spec, i)  # The error messages of load_image use it.
  return load_image(stream)


def _first_line(error: Exception) -> str:
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return (lines or [type(error).__name__])[0]
