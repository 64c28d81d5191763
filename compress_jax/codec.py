"""The interface every codec has: a NamedTuple of pure functions."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array
Key = jax.Array
Image = np.ndarray  # u8[H, W, 3], sRGB.
Params = Any  # A pytree of what is trained; () where nothing is learned.
Released = Any  # What codes files: integers, tables, hashes; () where nothing is learned.
Level = Array  # i32[B], the operating point of each example.
Metrics = Mapping[str, Array]

LAMBDA_RANGE = (0.0009, 0.1)  # Of level bytes 0 and 255.
MIDDLE = math.sqrt(LAMBDA_RANGE[0] * LAMBDA_RANGE[1])  # The lambda between them.


class CodecError(ValueError):
  """Everything that a file, an image or an option can do wrong, in one line."""


def level_of(lmbda: float) -> int:
  """The level byte nearest to a lambda."""
  low, high = (math.log(edge) for edge in LAMBDA_RANGE)
  return min(max(round(255 * (math.log(lmbda) - low) / (high - low)), 0), 255)


class Coded(NamedTuple):
  """A batch after coding, without writing a bitstream."""

  x_hat: Array  # f32[B, H, W, 3] in [0, 1].
  y_hat: Array  # Quantised latents.
  bits: Mapping[str, Array]  # f32[B] per stream: {'y': ..., 'z': ...}.


class Latents(NamedTuple):
  """Integers, the same on every machine."""

  q: np.ndarray  # i64[h, w, C], symbols of the latents.
  z: np.ndarray  # i64[h', w', C'], of the hyper-latents; empty where there are none.
  mean: np.ndarray | float = (
    0.0  # f64[h, w, C] in 2^-8 symbols: what was subtracted before rounding.
  )
  y: np.ndarray | None = None  # f32[h, w, C] before gains and rounding; the encoder alone knows.


def no_params(key: Key) -> Params:
  """The `init` of a codec that learns nothing."""
  del key
  return ()


def no_release(params: Params, images: list[Image]) -> Released:
  """The `export` of a codec that learns nothing."""
  del params, images
  return ()


def whole_file(released: Released, data: bytes) -> Mapping[str, float]:
  """The `split` of a codec whose files have one part."""
  del released
  return {'file': float(len(data))}


class Codec(NamedTuple):
  """A lossy image codec as pure functions of explicit parameters.

  The first two code real files; a codec that learns nothing needs no more.
  """

  encode: Callable[[Released, Image], bytes]
  decode: Callable[[Released, bytes], Image]  # Raises CodecError on any bad file.
  split: Callable[[Released, bytes], Mapping[str, float]] = whole_file  # Bytes by purpose.
  init: Callable[[Key], Params] = no_params
  export: Callable[[Params, list[Image]], Released] = no_release
  thaw: Callable[[Released], Params] | None = None  # The inverse of `export`, but for rounding.
  apply: Callable[[Params, Array, Level, Key | None], Coded] | None = None
  # `apply` rounds where its key is None, else noise is drawn from Key[B] or from one key.
  quantise: Callable[[Released, Image], Any] | None = None  # The integers that a file would hold,
  latents: Callable[[Released, bytes], Any] | None = None  # and those that a file holds.
  # Of several at a time: the local devices share their transforms.
  encode_all: Callable[[Released, Sequence[Image]], list[bytes]] | None = None
  decode_all: Callable[[Released, Sequence[bytes]], list[Image]] | None = None
  loss: Callable[..., Any] | None = None
  optimizer: Any | None = None  # optax.GradientTransformation.
