"""The methods by name: one file and one line here for each."""

import importlib
from types import ModuleType

from compress_jax import bitstream
from compress_jax.codec import CodecError

METHODS = {  # Imported when asked for: each pulls in its own libraries.
  'kmeans': 'compress_jax.methods.kmeans.codec',
  'gan': 'compress_jax.methods.gan.codec',
  'cae': 'compress_jax.methods.cae.codec',
  'gmm': 'compress_jax.methods.gmm.codec',
}
NUMBERS = {'kmeans': 0, 'gan': 1, 'cae': 2, 'gmm': 3}  # In the file header, forever.


def method(name: str) -> ModuleType:
  """The module of a method.

  Raises:
    CodecError: no such method, or one that is planned and not there yet.
  """
  if name in METHODS:
    return importlib.import_module(METHODS[name])
  there = ', '.join(METHODS)
  if name in NUMBERS:
    raise CodecError(f'method {name!r} is not there yet; there are: {there}')
  raise CodecError(f'no method {name!r}; there are: {there}')


def of_file(data: bytes, *, max_pixels: int = bitstream.MAX_PIXELS) -> str:
  """The name of the method that wrote a file.

  Raises:
    CodecError: not a complete `.cjx` file, or one of an unknown method.
  """
  number = bitstream.unpack(data, max_pixels=max_pixels)[0].method
  for name in NUMBERS:
    if NUMBERS[name] == number:
      return name
  raise CodecError(f'the file was written by method number {number}, unknown to this version')
