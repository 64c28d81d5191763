"""The methods by name: each is a folder, and an entry here."""

import importlib
from typing import TYPE_CHECKING, NamedTuple

from compress_jax import bitstream
from compress_jax.errors import CodecError

if TYPE_CHECKING:  # JAX takes a second, which reading headers need not wait for.
  from compress_jax.codec import Method

Interval = tuple[float, float]


class Entry(NamedTuple):
  """Properties of a method that are needed before its module is imported."""

  number: int  # Its number in the header of files, which never changes.
  module: str  # The module of its METHOD; each imports different libraries.
  title: str  # The title of its figure.
  light: str  # Its colour on a light background.
  dark: str  # Its colour on a dark background.
  full: Interval  # Range in dB of BD-rates on complete Kodak images.
  crop: Interval  # Range in dB of BD-rates on crops of Kodak images.


METHODS = {
  'kmeans': Entry(
    *(0, 'compress_jax.methods.kmeans.codec', 'Eigen-value K-means', '#c24e00', '#ff9a5c'),
    *((22.5, 28.5), (22.5, 28.5)),
  ),
  'gan': Entry(
    *(1, 'compress_jax.methods.gan.codec', 'Generative adversarial network', '#a8397a', '#f391c7'),
    *((27.6, 31.7), (26.6, 30.7)),
  ),
  'cae': Entry(
    *(2, 'compress_jax.methods.cae.codec', 'Compressive autoencoder', '#0067a5', '#66b5f5'),
    *((27.0, 35.0), (26.0, 34.0)),
  ),
  'gmm': Entry(
    *(3, 'compress_jax.methods.gmm.codec', 'Gaussian mixture and attention', '#007a5a', '#3fd6a4'),
    *((28.0, 36.5), (27.0, 35.5)),
  ),
}


def method(name: str) -> 'Method':
  """Returns the record of a method.

  Raises:
    CodecError: no such method.
  """
  if name not in METHODS:
    raise CodecError(f'no method {name!r}; there are: {", ".join(METHODS)}')
  record: Method = importlib.import_module(METHODS[name].module).METHOD
  return record


def name_of(number: int) -> str:
  """Returns the name of the method that files call by a number.

  Raises:
    CodecError: this version knows no such method.
  """
  for name, entry in METHODS.items():
    if entry.number == number:
      return name
  raise CodecError(f'the file was written by method number {number}, unknown to this version')


def of_file(data: bytes, *, max_pixels: int = bitstream.MAX_PIXELS) -> str:
  """Returns the name of the method that wrote a file.

  Raises:
    CodecError: not a complete `.cjx` file, or one of an unknown method.
  """
  return name_of(bitstream.unpack(data, max_pixels=max_pixels)[0].method)
