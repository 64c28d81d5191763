"""Recipes: codecs at an operating point, in words that a worker process can be sent."""

import bisect
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compress_jax import baselines, methods
from compress_jax.codec import Codec, CodecError, Image, Released
from compress_jax.evaluation import budget
from compress_jax.evaluation.fingerprint import code_hash
from compress_jax.evaluation.measure import Recipe
from compress_jax.learned import lambdas
from compress_jax.model_zoo import LAMBDA, ZOO, pretrained
from compress_jax.runtime.compilation_cache import enable_cache

# The libraries that decide a file, besides the sources and tables of this package.
LIBRARIES = ('jax', 'jaxlib', 'numpy', 'constriction')
# Suffixes of the formats that are not named by theirs.
SUFFIXES = {'jpeg': '.jpg', 'jpeg2000': '.j2k'}


def jxl_quality(distance: float) -> float:
  """Returns the quality that libjxl turns into a distance from 0.1 to 25.

  It is the inverse of libjxl's JxlEncoderDistanceFromQuality, which is quadratic below quality 30.
  """
  if distance <= 6.4:
    return 100 - (distance - 0.1) / 0.09
  return (1.15 - math.sqrt(1.15**2 - 4 * 53 / 3000 * (25 - distance))) / (2 * 53 / 3000)


# Qualities of each codec in small steps, increasing in size; 1..95 for those not named.
QUALITIES: dict[str, tuple[float, ...]] = {
  'jpeg2000': tuple(0.03 * 1.05**i for i in range(120)),  # Bits per pixel.
  # The steps are equal in the logarithm of the distance. That of the size is nearly linear in it.
  'jxl': tuple(jxl_quality(25 * 0.95**i) for i in range(96)),
  'png': (9,),
}
CLASSICAL_LIBRARIES = {'jxl': ('pillow', 'pillow-jxl-plugin')}  # Pillow alone where not named.


def recipe(method: str, *, lmbda: float = LAMBDA, label: str = '', **options: Any) -> Recipe:
  """Returns the recipe of a method of this package at an operating point, for `evaluate`."""
  code = code_hash(methods.METHODS[method].module, LIBRARIES)
  model = Path(model_file(options) or ZOO / f'{method}.safetensors')
  for file in (model, lambdas.beside(model)):
    if file.exists():
      code += hashlib.sha256(file.read_bytes()).hexdigest()
  hashable = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
  return Recipe(
    method, label or method, 'lambda', lmbda, tuple(sorted(hashable.items())), '.cjx', code
  )


def model_file(options: Mapping[str, Any]) -> str | None:
  """Returns the model file that options of a method name; None if it is the one that ships."""
  file: str | None = options.get('model') or options.get('tables')
  return file


def anchor(name: str, quality: float) -> Recipe:
  """Returns the recipe of a classical codec at a quality, for `evaluate`.

  Raises:
    CodecError: no such codec, or it cannot run here.
  """
  return _classical(name, 'quality', quality)


def anchor_of_size(name: str, size: int) -> Recipe:
  """Returns the recipe of a classical codec at the quality that gives about `size` bytes."""
  return _classical(name, 'size', size)


def _classical(name: str, scale: str, point: float) -> Recipe:
  if name not in baselines.CODECS:
    raise CodecError(f'no codec {name!r}; there are: {", ".join(baselines.CODECS)}')
  if reason := baselines.missing(name):
    raise CodecError(reason)
  code = code_hash('compress_jax.baselines', CLASSICAL_LIBRARIES.get(name, ('pillow',)))
  format = name.partition('-')[0]
  return Recipe(name, name, scale, point, (), SUFFIXES.get(format, f'.{format}'), code)


def make(recipe: Recipe) -> tuple[Codec, Released]:
  """Returns the codec of a recipe; worker processes call it."""
  enable_cache()  # The metrics compile too.
  if recipe.scale == 'lambda':
    return pretrained(recipe.method, lmbda=recipe.point, **dict(recipe.options))
  factory = baselines.CODECS[recipe.method].factory
  if recipe.scale == 'quality':
    return factory(quality=recipe.point), ()
  return _sized(recipe, factory), ()


def _sized(recipe: Recipe, factory: Callable[..., Codec]) -> Codec:
  points = QUALITIES.get(recipe.method, tuple(range(1, 96)))

  def encode(released: Released, image: Image) -> bytes:
    def encode_at(quality: float) -> bytes:
      return factory(quality=quality).encode(released, image)

    start = None
    if recipe.method == 'jpeg2000':  # Its quality is the rate in bits per pixel.
      bpp = 8 * recipe.point / (image.shape[0] * image.shape[1])
      start = min(bisect.bisect(points, bpp), len(points) - 1)
    return budget.nearest_size(encode_at, points, int(recipe.point), start=start)

  return factory(quality=points[0])._replace(encode=encode)
