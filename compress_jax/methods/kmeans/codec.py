"""The codec of eigen-value based K-means vector quantisation.

K. Somasundaram, M. Mary Shanthi Rani, "Eigen value based K-means clustering for
image compression", International Journal of Applied Information Systems 3(7), 2012.

4x4 blocks are split at the mean of their largest covariance eigenvalue into a
detailed and a plain class; K-means in each class starts from its blocks of
highest eigenvalue; a last K-means over all blocks starts from both results. Two
modes: `image` writes the codebook of the image into the file, `universal` uses
codebooks that this project trained and ships.
"""

from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path

from compress_jax import bitstream
from compress_jax.codec import Codec, CodecError, Image, Method, Released, level_of
from compress_jax.methods import METHODS
from compress_jax.methods.kmeans import blocks, per_image, universal
from compress_jax.methods.kmeans.codebook import MAX_SIZE
from compress_jax.methods.kmeans.tables import PATH, Tables, load

NUMBER = METHODS['kmeans'].number
LAMBDA_RANGE = (1e-5, 1.0)
_IMAGE, _UNIVERSAL = 0, 1  # Header flags, beside that of grey images.
_MODES = ('universal', 'image')
_SPLITS = ('half', 'proportional')


def _check(name: str, value: object, allowed: object, fits: bool) -> None:
  if not fits:
    raise CodecError(f'{name} is {value!r}; it must be {allowed}')


def _one_of(name: str, value: object, names: Iterable[str]) -> None:
  choices = tuple(names)
  _check(name, value, f'one of {", ".join(choices)}', value in choices)


def codec(
  *,
  lmbda: float = 0.013,
  codebook: str = 'universal',
  eigen: str = 'covariance',
  split: str = 'half',
  colour: str = 'rgb',
  size: int | None = None,
  refine: int = 2,
  tables: str | None = None,
) -> Codec:
  """Returns a codec of block vector quantisation by eigen-value K-means.

  Args:
    lmbda: minimise bits per pixel + lmbda * MSE on the 0..255 scale.
    codebook: 'universal' ships with this package and costs no bits; 'image' is made
      for each image and coded in its file. The options below are for 'image'.
    eigen: the eigenvalue of a block: 'covariance' or 'gram' of its grey rows,
      'colour' covariance of its pixels, or 'trace', the sum of 'covariance'.
    split: each class's share of the seeds: 'half', or 'proportional' to its blocks.
    colour: blocks are compared in 'rgb', 'ycbcr', or as 'gray', which drops colour.
    size: number of codewords; None tries several sizes and keeps the cheapest.
    refine: rounds of entropy-constrained assignment and new codewords after K-means;
      0 is the published algorithm: every block takes its nearest codeword.
    tables: a model file that `--mode=train` wrote, in place of the shipped one. Decoding needs
      the same file.

  Raises:
    CodecError: an option has none of these values, or `tables` is no model file.
  """
  _one_of('codebook', codebook, _MODES)
  _one_of('eigen', eigen, blocks.EIGENVALUES)
  _one_of('split', split, _SPLITS)
  _one_of('colour', colour, per_image.SPACES)
  _check('size', size, f'1 to {MAX_SIZE}', size is None or _is_int(size, 1, MAX_SIZE))
  _check('refine', refine, '0 to 20', _is_int(refine, 0, 20))
  low, high = LAMBDA_RANGE
  _check('lambda', lmbda, f'{low:g} to {high:g}', _is_number(lmbda) and low <= lmbda <= high)
  _check('tables', tables, 'the name of a file', tables is None or isinstance(tables, str))
  model = load(PATH if tables is None else Path(tables))

  eigenvalue = blocks.EIGENVALUES[eigen]
  options = per_image.Options(lmbda, model.prior, size, eigenvalue, split, refine)

  def encode(released: Released, image: Image) -> bytes:
    del released
    height, width = bitstream.check_image(image)
    if codebook == 'universal':
      payload = universal.encode(image, model.models, model.lambdas, lmbda)
      flags, model_id = _UNIVERSAL, model.universal_id
    else:
      payload = per_image.encode(image, per_image.SPACES[colour], options)
      flags, model_id = _IMAGE, model.image_id
    flags |= bitstream.grey_flag(image)
    header = bitstream.Header(NUMBER, height, width, level_of(lmbda), flags, model_id)
    return bitstream.pack(header, payload)

  def decode(released: Released, data: bytes) -> Image:
    del released
    return _decode(data, model)[0]

  def split_bytes(released: Released, data: bytes) -> Mapping[str, float]:
    del released
    parts = {name: bits / 8 for name, bits in _decode(data, model)[1].items()}
    return {'header': len(data) - sum(parts.values()), **parts}  # With CRC and rounding.

  return Codec(encode=encode, decode=decode, split=split_bytes)


def _is_int(value: object, low: int, high: int) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: object) -> bool:
  return isinstance(value, Real) and not isinstance(value, bool)


def _decode(data: bytes, model: Tables) -> tuple[Image, Mapping[str, float]]:
  """Returns the image, bit for bit the same on every machine, and the bits of each part."""
  header, payload = bitstream.unpack(data)
  if header.method != NUMBER:
    raise CodecError(f'the file was written by method number {header.method}, not by kmeans')
  shipped = header.flags & _UNIVERSAL
  model_id = model.universal_id if shipped else model.image_id
  if header.model_id != model_id:
    raise CodecError(
      f'the file needs the kmeans tables {header.model_id.hex()}, but these are {model_id.hex()}'
    )
  if shipped:
    image, bits = universal.decode(payload, header.height, header.width, model.models)
  else:
    image, bits = per_image.decode(payload, header.height, header.width, model.prior)
  return bitstream.as_grey(image) if header.flags & bitstream.GREY else image, bits


METHOD = Method(codec, LAMBDA_RANGE)
