"""Photographs coded by shipped codebooks: luma at full size, chroma at half.

The module holds the model of one operating point, its arrays by name, and the payload that it
codes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from compress_jax import bitstream, coder
from compress_jax.codec import CodecError, Image
from compress_jax.methods.kmeans import blocks, restore, shapes

POINT_BITS = 3
_SCALARS = ('step', 'alpha', 'tau', 'seen')  # The fields of Shapes that are one number.
CHROMA_WEIGHT = 4 * blocks.YCBCR_WEIGHT[1:]  # A sample stands for four pixels.
# Blocks are chosen one at a time by bits + weight * error, which ignores that a good block makes
# later ones cheaper. Counting errors 1.6 times gives the least cost of the whole file (validation
# photographs, lambda 0.0009 to 0.1).
_ERROR_WEIGHT = 1.6


class Model(NamedTuple):
  """The codebooks, counts and filter of one operating point."""

  luma: shapes.Shapes  # 3 contexts.
  chroma: shapes.Shapes  # 9 contexts.
  taps: np.ndarray  # i64[restore.CLASSES, len(restore.OFFSETS)], filter after decoding.

  def is_sound(self) -> bool:
    """Returns whether the shapes of all arrays fit together and every count is positive."""
    parts = ((self.luma, 1, 3), (self.chroma, 2, 9))
    return self.taps.shape == (restore.CLASSES, len(restore.OFFSETS)) and all(
      shapes.is_sound(part, channels, contexts) for part, channels, contexts in parts
    )


class Planes(NamedTuple):
  """The luma and chroma planes of a photograph."""

  luma: blocks.Plane  # i32[H, W, 1], sides multiples of 8.
  chroma: blocks.Plane  # i32[H/2, W/2, 2]


def analysis(image: Image) -> Planes:
  """Returns the planes of u8[H, W, 3], edges repeated up to multiples of 8."""
  ycbcr = blocks.rgb_to_ycbcr(blocks.pad_to(image, 2 * blocks.SIDE))
  return Planes(ycbcr[..., :1], blocks.halve(ycbcr[..., 1:]))


def synthesis(planes: Planes, height: int, width: int, taps: np.ndarray) -> Image:
  """Returns the filtered image u8[H, W, 3] of decoded planes."""
  luma = restore.restore(planes.luma, taps)
  ycbcr = np.concatenate([luma, blocks.double(planes.chroma)], -1)
  return blocks.ycbcr_to_rgb(ycbcr[:height, :width])


def _no_class(luma: blocks.Plane) -> np.ndarray:
  return np.zeros((luma.shape[0] // blocks.SIDE, luma.shape[1] // blocks.SIDE), np.int64)


def luma_class(labels: np.ndarray) -> np.ndarray:
  """Returns i64[H/8, W/8]: 0, 1 or 2 where 0, 1-2 or 3-4 of four luma shapes are not flat."""
  used = (labels > 0).astype(np.int64)
  count = used[0::2, 0::2] + used[1::2, 0::2] + used[0::2, 1::2] + used[1::2, 1::2]
  return (count + 1) // 2


def choose(
  planes: Planes,
  model: Model,
  lmbda: float,
  writer: coder.Writer | None = None,
  statistics: tuple[shapes.Statistics, shapes.Statistics] | tuple[None, None] = (None, None),
) -> tuple[float, Planes]:
  """Codes the planes; returns their length in bits and the decoded planes.

  Chroma without columns (of a grey photograph) is left out.
  """
  luma = shapes.choose(
    planes.luma, model.luma, _no_class(planes.luma), lmbda * np.ones(1), writer, statistics[0]
  )
  if not planes.chroma.size:
    return luma.bits, planes._replace(luma=luma.plane)
  extra, weight = luma_class(luma.labels), lmbda * CHROMA_WEIGHT
  chroma = shapes.choose(planes.chroma, model.chroma, extra, weight, writer, statistics[1])
  return luma.bits + chroma.bits, Planes(luma.plane, chroma.plane)


def encode(image: Image, models: Sequence[Model], lambdas: Sequence[float], lmbda: float) -> bytes:
  """Returns the payload of u8[H, W, 3] by that model near `lmbda` whose file costs least."""
  weight = _ERROR_WEIGHT * lmbda
  planes = analysis(image)
  grey = bool(bitstream.grey_flag(image))
  if grey:
    planes = planes._replace(chroma=planes.chroma[:, :0])
  payloads = []
  for i in _around(lambdas, weight):
    writer = coder.Writer()
    writer.put_bits(i, POINT_BITS)
    writer.put_bits(grey, 1)
    bits, decoded = choose(planes, models[i], weight, writer)
    luma = restore.restore(decoded.luma, models[i].taps)
    error = ((luma - planes.luma) ** 2).sum() + float(
      (((decoded.chroma - planes.chroma) ** 2).sum((0, 1)) * CHROMA_WEIGHT).sum()
    )
    payloads.append((bits + lmbda * error, writer))
  return min(payloads, key=lambda p: p[0])[1].finish()


def _around(lambdas: Sequence[float], lmbda: float) -> list[int]:
  """Returns the indices of the trained points on both sides of `lmbda`, or one within 10 %."""
  distance = [abs(math.log(trained / lmbda)) for trained in lambdas]
  order = sorted(range(len(lambdas)), key=distance.__getitem__)
  return order[:1] if distance[order[0]] < 0.1 else order[:2]


def decode(
  payload: bytes, height: int, width: int, models: Sequence[Model]
) -> tuple[Image, Mapping[str, float]]:
  """Returns u8[H, W, 3], and the bits of each part.

  Raises:
    CodecError: the payload is damaged.
  """
  reader = coder.Reader(payload)
  point = reader.get_bits(POINT_BITS)
  if point >= len(models):
    raise CodecError(f'no operating point has the number {point}: the file is damaged')
  grey = reader.get_bits(1)
  rows, columns = (side + -side % (2 * blocks.SIDE) for side in (height, width))
  flat = np.zeros((rows // blocks.SIDE, columns // blocks.SIDE), np.int64)
  labels, luma = shapes.read(reader, rows, columns, models[point].luma, flat)
  bits = {'luma': reader.bits}
  chroma = np.full((rows // 2, columns // 2, 2), 128, np.int32)
  if not grey:
    extra = luma_class(labels)
    _, chroma = shapes.read(reader, rows // 2, columns // 2, models[point].chroma, extra)
  bits['chroma'] = reader.bits - bits['luma']
  reader.finish()
  return synthesis(Planes(luma, chroma), height, width, models[point].taps), bits


def to_arrays(model: Model, prefix: str) -> dict[str, np.ndarray]:
  """Returns the integers of a model by name, for a model file."""
  out = {f'{prefix}.taps': model.taps.astype(np.int16)}
  for name, part in (('luma', model.luma), ('chroma', model.chroma)):
    out[f'{prefix}.{name}.codewords'] = part.codewords.astype(np.int16)
    out[f'{prefix}.{name}.counts'] = part.counts.astype(np.uint16)
    out[f'{prefix}.{name}.means'] = part.means.astype(np.uint16)
    scalars = [getattr(part, field) for field in _SCALARS]
    out[f'{prefix}.{name}.constants'] = np.array(scalars, np.int32)
  return out


def from_arrays(arrays: Mapping[str, np.ndarray], prefix: str) -> Model:
  """Returns the model of named arrays: the inverse of `to_arrays`."""

  def part(name: str) -> shapes.Shapes:
    get = lambda field: arrays[f'{prefix}.{name}.{field}']  # noqa: E731
    step, alpha, tau, seen = (int(value) for value in get('constants'))
    counts, means = get('counts').astype(np.float64), get('means').astype(np.float64)
    return shapes.Shapes(
      get('codewords').astype(np.int64), counts, means, step, alpha, tau, float(seen)
    )

  return Model(part('luma'), part('chroma'), arrays[f'{prefix}.taps'].astype(np.int64))
