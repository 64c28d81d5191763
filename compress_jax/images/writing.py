"""Writing of lossless image files."""

import io
from pathlib import Path

from PIL import Image as PILImage

from compress_jax.codec import CodecError, Image
from compress_jax.files.atomic import write_atomically

LOSSLESS: dict[str, tuple[str, dict[str, object]]] = {
  # Level 6, the default, takes twice as long for about the same bytes.
  '.png': ('PNG', {'compress_level': 3}),
  '.ppm': ('PPM', {}),
  '.bmp': ('BMP', {}),
  '.tif': ('TIFF', {'compression': 'tiff_adobe_deflate'}),
  '.tiff': ('TIFF', {'compression': 'tiff_adobe_deflate'}),
  '.webp': ('WEBP', {'lossless': True}),
}


def image_bytes(image: Image, suffix: str = '.png') -> bytes:
  """Returns the file of an image in a lossless format; grey where its channels are all equal.

  Raises:
    CodecError: the suffix is no lossless format, or the format cannot hold the image.
  """
  if suffix.lower() not in LOSSLESS:
    raise CodecError(f'cannot write {suffix or "files without a suffix"} without loss; use .png')
  format, options = LOSSLESS[suffix.lower()]
  grey = bool((image == image[..., :1]).all())
  out = io.BytesIO()
  try:
    PILImage.fromarray(image[..., 0] if grey else image).save(out, format, **options)
  except Exception as error:  # Pillow's plugins have no common error.
    raise CodecError(f'{format} cannot store this image ({error})') from error
  return out.getvalue()


def save_image(path: str | Path, image: Image, *, overwrite: bool = False) -> None:
  """Writes u8[H, W, 3] to a lossless format chosen by the suffix; no partial file is left."""
  write_atomically(path, image_bytes(image, Path(path).suffix), overwrite=overwrite)
