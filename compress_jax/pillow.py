"""A plugin of Pillow: importing this module lets it open and save `.cjx` files.

  import compress_jax.pillow
  from PIL import Image

  Image.open('photo.jpg').save('photo.cjx', method='gmm', lmbda=0.01)
  image = Image.open('photo.cjx')  # Size and mode are known; pixels are decoded when needed.

Pillow looks for no plugins by itself, so a program has to import this module. JAX is imported
when a file is decoded or encoded, not before.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile

from compress_jax import bitstream, methods
from compress_jax.errors import CodecError

FORMAT = 'CJX'
METHOD = 'gmm'  # The method of `save` where the caller names none.


class CjxImageFile(ImageFile.ImageFile):
  """A `.cjx` file as Pillow opens it: of mode L if it is marked as grey, else RGB.

  `info` holds the method, the level (0 to 255) and the id of the model in hexadecimal digits.
  """

  format = FORMAT
  format_description = 'compress_jax'

  def _open(self) -> None:
    assert self.fp is not None
    with _errors_of_pillow():
      header = bitstream.opening(self.fp.read(bitstream.HEAD)).header
      name = methods.name_of(header.method)
    self._size = header.width, header.height
    self._mode = 'L' if header.flags & bitstream.GREY else 'RGB'
    self.info = {'method': name, 'level': header.level, 'model_id': header.model_id.hex()}
    self.tile = [ImageFile._Tile(FORMAT, (0, 0, *self.size), 0, (name,))]

  def verify(self) -> None:
    """Raises OSError where the file is damaged, without decoding it; closes the file."""
    if self.fp is None:
      raise RuntimeError('verify must be called directly after open')
    self.fp.seek(0)
    with _errors_of_pillow():
      bitstream.unpack(self.fp.read())
    super().verify()


class CjxDecoder(ImageFile.PyDecoder):
  """Decodes a whole file; its argument is the name of the method."""

  _pulls_fd = True

  def decode(self, buffer: Any) -> tuple[int, int]:
    """Sets the pixels of the image; returns how many bytes are left, and the status."""
    del buffer
    assert self.fd is not None
    with _errors_of_pillow():
      pixels = _decoder(self.args[0])(self.fd.read())
    grey = self.mode == 'L'  # All channels are equal then.
    self.set_as_raw((pixels[..., 0] if grey else pixels).tobytes())
    return -1, 0


@functools.cache
def _decoder(method: str) -> Callable[[bytes], np.ndarray]:
  from compress_jax.model_zoo import decoder

  return decoder(method)


@contextmanager
def _errors_of_pillow() -> Iterator[None]:
  """Turns what is wrong with a file or an image into the error that users of Pillow catch."""
  try:
    yield
  except CodecError as error:
    raise OSError(str(error)) from error


def _save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
  """Writes an image as `Image.save` asks for it.

  Keywords of `save` are `method`, `lmbda`, `model` and the options of the method, as in
  `compress_jax.pretrained`, and `flatten`, a colour to put behind transparent pixels. Others are
  ignored, as all writers of Pillow do.

  Raises:
    OSError: the image cannot be coded, or there is no such method or model.
  """
  del filename
  from compress_jax.images.reading import from_pillow
  from compress_jax.model_zoo import pretrained

  method = image.encoderinfo.get('method', METHOD)
  with _errors_of_pillow():
    names = _options(method)
    options = {name: value for name, value in image.encoderinfo.items() if name in names}
    codec, released = pretrained(method, **options)
    pixels = from_pillow(image, flatten=image.encoderinfo.get('flatten'))
    data = codec.encode(released, pixels)
  file.write(data)  # Encoding has succeeded, so no partial file is left.


def _options(method: str) -> set[str]:
  """Returns the keywords of `pretrained` for a method."""
  from compress_jax.model_zoo import ENCODING

  found = methods.method(method)
  of_method = ENCODING if found.coding_of else inspect.signature(found.codec).parameters
  return {'lmbda', 'model', *of_method}


def _accept(prefix: bytes) -> bool:
  return prefix.startswith(bitstream.MAGIC)


Image.register_open(FORMAT, CjxImageFile, _accept)
Image.register_decoder(FORMAT, CjxDecoder)
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, '.cjx')
Image.register_mime(FORMAT, 'image/x-cjx')
