"""The interface of every codec: a NamedTuple of pure functions."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from compress_jax.errors import CodecError as CodecError

Array = jax.Array
Key = jax.Array
Image = np.ndarray  # u8[H, W, 3], sRGB.
Params = Any  # A pytree of trained parameters; () where nothing is learned.
# The model that codes files, such as `learned.released.Released`; () where nothing is learned.
Released = Any
Level = Array | int  # i32[B] or one number, 0..255: the operating point of each example.
Metrics = Mapping[str, Array]
# Takes what is under way, such as 'synthesis', how many parts of it are done, and how many it has.
Progress = Callable[[str, int, int], None]

LAMBDA_RANGE = (0.0009, 0.1)  # Level bytes 0 and 255 stand for these.
MIDDLE = math.sqrt(LAMBDA_RANGE[0] * LAMBDA_RANGE[1])  # The geometric mean of the range.


def level_of(lmbda: float) -> int:
  """Returns the level byte nearest to a lambda."""
  low, high = (math.log(edge) for edge in LAMBDA_RANGE)
  return min(max(round(255 * (math.log(lmbda) - low) / (high - low)), 0), 255)


class Rated(NamedTuple):
  """The symbols, decoded latents and bits that an entropy model returns."""

  q: Array  # f32[B, h, w, C], whole symbols.
  y_hat: Array  # f32[B, h, w, C], the latents that the decoder computes from them.
  bits: Mapping[str, Array]  # f32[B] per stream: {'y': ..., 'z': ...}.


class Coded(NamedTuple):
  """A batch of decoded images with their bits, coded without writing a bitstream."""

  x_hat: Array  # f32[B, H, W, 3] in [0, 1].
  y_hat: Array  # f32[B, h, w, C], decoded latents.
  bits: Mapping[str, Array]  # f32[B] per stream: {'y': ..., 'z': ...}.


class Latents(NamedTuple):
  """The integers in a file, the same on every machine."""

  q: np.ndarray  # i64[h, w, C], symbols of the latents.
  z: np.ndarray  # i64[h', w', C'], symbols of the hyper-latents; empty where there are none.
  mean: np.ndarray | float = 0.0  # f64[h, w, C] in 2^-8 symbols, subtracted before rounding.
  y: np.ndarray | None = None  # f32[h, w, C] before gains and rounding, known to the encoder only.


class Rate(Protocol):
  """The entropy model of a learned codec."""

  def __call__(
    self,
    params: Params,
    y: Array,
    level: Level,
    key: Key | None,
    *,
    as_files: bool = False,
  ) -> Rated:
    """Returns symbols, decoded latents and bits of latents.

    Args:
      params: parameters of the codec.
      y: f32[B, h, w, C], latents.
      level: i32[B] or one number.
      key: None rounds latents as files do. With Key[B], or one key, the rate is counted with
        uniform noise in place of rounding, so that it has a gradient.
      as_files: with a key, the bits are still counted for rounded symbols, and the noise gives
        gradients only.
    """


class Apply(Protocol):
  """The forward pass of a learned codec: analysis, entropy model and synthesis."""

  def __call__(
    self,
    params: Params,
    x: Array,
    level: Level,
    key: Key | None,
    *,
    as_files: bool = False,
    mask: Array | None = None,
  ) -> Coded:
    """Returns coded images and their bits; without a key those of the file, within 1 % + 64 B.

    Args:
      params: parameters of the codec.
      x: f32[B, H, W, 3] in [0, 1].
      level: i32[B] or one number.
      key: as in `Rate`.
      as_files: as in `Rate`.
      mask: bool[C], channels that are sent; only for methods with a static entropy model.

    Raises:
      CodecError: x is no batch of images of three channels, or the method takes no mask.
    """


class EncodeAll(Protocol):
  """Several images to files at a time, whose transforms the local devices share."""

  def __call__(
    self, released: Released, images: Sequence[Image], *, progress: Progress | None = None
  ) -> list[bytes]:
    """Returns the files of images u8[H, W, 3]; `progress` is called after each part of the work."""


class DecodeAll(Protocol):
  """Several files to images at a time, whose transforms the local devices share."""

  def __call__(
    self, released: Released, files: Sequence[bytes], *, progress: Progress | None = None
  ) -> list[Image]:
    """Returns the images of files; `progress` is called after each part of the work."""


def no_params(key: Key) -> Params:
  """Returns the parameters of a codec that learns nothing: the default of `init`."""
  del key
  return ()


def no_release(params: Params, images: list[Image]) -> Released:
  """Returns the model of a codec that learns nothing: the default of `export`."""
  del params, images
  return ()


def nothing_learned(*args: Any, **options: Any) -> Any:
  """Raises CodecError: the default of the float functions, for a codec without parameters."""
  raise CodecError('this codec learns nothing: it has no such function')


def one_part(released: Released, data: bytes) -> Mapping[str, float]:
  """Returns the bytes of a file that has one part: the default of `split`."""
  del released
  return {'file': float(len(data))}


class Codec(NamedTuple):
  """A lossy image codec as pure functions of explicit parameters.

  The first two code real files; a codec that learns nothing needs no more.
  """

  encode: Callable[[Released, Image], bytes]
  decode: Callable[[Released, bytes], Image]  # Raises CodecError on any bad file.
  split: Callable[[Released, bytes], Mapping[str, float]] = one_part  # Bytes by purpose.
  # Floats, which train. `apply` is the composition of the three functions before it.
  init: Callable[[Key], Params] = no_params
  analysis: Callable[[Params, Array], Array] = nothing_learned  # f32[B, H, W, 3] to [B, h, w, C].
  rate: Rate = nothing_learned
  synthesis: Callable[[Params, Array, tuple[int, int]], Array] = nothing_learned  # Crops to (H, W).
  apply: Apply = nothing_learned
  # Between float parameters and the model that codes files.
  export: Callable[[Params, list[Image]], Released] = no_release
  thaw: Callable[[Released], Params] = nothing_learned  # The inverse of `export` up to rounding.
  quantise: Callable[[Released, Image], Latents] = nothing_learned  # Latents of an image's file.
  latents: Callable[[Released, bytes], Latents] = nothing_learned  # Latents in a file.
  # The same as `encode` and `decode` for several at a time, whose transforms the local devices
  # share; None if there is no such function.
  encode_all: EncodeAll | None = None
  decode_all: DecodeAll | None = None


class Preset(NamedTuple):
  """The size of a learned method, and the defaults of its training."""

  options: Mapping[str, Any]  # Keyword arguments of the factory.
  steps: int
  batch: int  # Crops per step, over all devices of all processes.
  crop: int  # Side of a crop in pixels.
  lr: float  # Learning rate at the peak of the schedule.


class Method(NamedTuple):
  """A method of compression, as `methods.method` returns it by name."""

  codec: Callable[..., Codec]  # The factory; its keyword arguments are the whole configuration.
  lambda_range: tuple[float, float] = LAMBDA_RANGE
  presets: Mapping[str, Preset] = MappingProxyType({})
  # None if nothing is learned. Returns the module that writes the files of a model, with the
  # NamedTuple `Coding` of its integers and `check`, which raises CodecError where they do not fit.
  coding_of: Callable[[Mapping[str, Any]], Any] | None = None

  def preset(self, name: str) -> Preset:
    """Returns a preset.

    Raises:
      CodecError: there is none of that name.
    """
    if name not in self.presets:
      known = ', '.join(self.presets) or 'none'
      raise CodecError(f'there is no preset {name!r}; there are: {known}')
    return self.presets[name]
