"""Codecs by name, ready to code files: our methods and the classical anchors."""

import bisect
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from compress_jax import baselines, methods
from compress_jax.codec import Codec, CodecError, Image, Released
from compress_jax.evaluation import budget
from compress_jax.evaluation.fingerprint import code_hash
from compress_jax.evaluation.measure import Recipe
from compress_jax.files import models
from compress_jax.learned import lambdas
from compress_jax.learned.released import from_arrays, misfit
from compress_jax.runtime.compilation_cache import enable_cache

ZOO = Path(__file__).parent / 'zoo'
LAMBDA = 0.013
LAMBDA_RANGE = (1e-5, 10.0)  # What makes sense of bpp + lambda * MSE with MSE in 0..255^2.
# What decides a file besides our own sources and tables.
LIBRARIES = ('jax', 'jaxlib', 'numpy', 'constriction')
SUFFIXES = {'jpeg': '.jpg', 'jpeg-default': '.jpg', 'jpeg2000': '.j2k'}
QUALITIES: dict[str, tuple[float, ...]] = {  # Finely, rising in size; 1..95 where not named.
  'jpeg2000': tuple(0.03 * 1.05**i for i in range(120)),  # Bits per pixel.
  'png': (9,),
}
ENCODING = {'refine', 'rdoq'}  # Options of learned methods beside those of a model: how to encode.
CLASSICAL_LIBRARIES = ('pillow',)


def pretrained(
  method: str, *, lmbda: float = LAMBDA, model: str | None = None, **options: Any
) -> tuple[Codec, Released]:
  """The codec of a method and what it codes with.

  Args:
    method: a name in METHODS.
    lmbda: minimise bits per pixel + lmbda * MSE, on the 0..255 scale.
    model: a model file in place of the one that is shipped.
    **options: keywords of the method's factory; those of a learned method are in its model,
      but for `refine` and `rdoq`, which are the encoder's alone.

  Raises:
    CodecError: unknown method or option, a value that is out of range, or no such model.
  """
  module = methods.method(method)
  factory = module.codec
  if hasattr(module, 'coding_of'):
    if options.keys() - ENCODING:
      odd = min(options.keys() - ENCODING)
      raise CodecError(f'{method} has no option {odd!r}: its model has them all')
    settings, released = load_model(method, model)
    _check_lambda(lmbda, lambda_range(method, released))
    complaint = f'{_path(method, model)} holds no model of its options'
    try:
      codec = factory(lmbda=lmbda, **{**settings, **options})
    except (TypeError, ValueError, LookupError) as error:
      raise CodecError(f'{complaint}: {error}') from error
    return _explaining(codec, factory, complaint), released
  _check_lambda(lmbda, lambda_range(method))
  if model is not None:
    options = {**options, 'tables': model}
  check_options(method, factory, options)
  codec = factory(lmbda=lmbda, **options)
  return codec, codec.export((), [])


def load_model(method: str, path: str | None = None) -> tuple[dict[str, Any], Released]:
  """The factory's options and the weights of a learned method: ours, or of a model file.

  Raises:
    CodecError: not a model of this method.
  """
  chosen = _path(method, path)
  both = chosen, lambdas.beside(chosen)
  return _load_model(method, chosen, *(p.stat().st_mtime_ns if p.exists() else 0 for p in both))


def _path(method: str, path: str | None) -> Path:
  return Path(path) if path else ZOO / f'{method}.safetensors'


def _explaining(codec: Codec, factory: Callable[..., Codec], complaint: str) -> Codec:
  """The codec, which raises CodecError where its model lacks weights that it needs.

  To work out all shapes takes as long as a second: this is done when something went wrong.
  """

  def explaining(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def explained(released: Released, *given: Any) -> Any:
      try:
        return run(released, *given)
      except CodecError:
        raise
      except Exception as error:
        reason = _misfit(codec, factory, released)
        if reason is None:
          raise
        raise CodecError(f'{complaint}: {reason}') from error

    return explained

  names = 'encode', 'decode', 'quantise', 'encode_all', 'decode_all'
  return codec._replace(**{name: explaining(getattr(codec, name)) for name in names})


def _misfit(codec: Codec, factory: Callable[..., Codec], released: Released) -> str | None:
  """What is wrong with the model of a codec; None where it is not the model's fault."""
  try:
    params = jax.eval_shape(codec.init, jax.random.key(0))
  except Exception as error:  # Options that make no network fail in many ways.
    try:
      jax.eval_shape(factory().init, jax.random.key(0))
    except Exception:  # JAX fails here with any model: its settings or devices are to blame.
      return None
    return f'{type(error).__name__} where it is made'
  return misfit(released, params)


@functools.lru_cache(4)
def _load_model(method: str, path: Path, *stamps: int) -> tuple[dict[str, Any], Released]:
  del stamps  # Files that changed are read anew.
  arrays, config = models.read(path)
  if config.get('method') != method:
    raise CodecError(f'{path} is a model of {config.get("method")}, not of {method}')
  if not any(name.startswith('coding.') for name in arrays):
    raise CodecError(f'{path} holds float weights only: --mode=export makes a model of them')
  module = methods.method(method)
  options = config.get('options', {})
  check_options(method, module.codec, options)
  coding = module.coding_of(options)
  released = from_arrays(arrays, coding.Coding, coding.check)
  return options, released._replace(ratios=lambdas.of_model(path, config, released.model_id))


def lambda_range(method: str, released: Released = ()) -> tuple[float, float]:
  """The smallest and largest lambda: the method's own LAMBDA_RANGE, or a wide one.

  With a model, up to the lambda that takes its finest steps.
  """
  low, high = getattr(methods.method(method), 'LAMBDA_RANGE', LAMBDA_RANGE)
  return low, max(high, lambdas.highest(released.ratios)) if released else high


def _check_lambda(lmbda: object, allowed: tuple[float, float]) -> None:
  low, high = allowed
  if not (isinstance(lmbda, int | float) and low <= lmbda <= high):
    raise CodecError(f'lambda is {lmbda}; it must be between {low:g} and {high:g}')


def decoder(method: str, **options: Any) -> Callable[[bytes], Image]:
  """What decodes the files of one of our methods or of a classical codec, of any point."""
  decode = group_decoder(method, **options)
  return lambda file: decode([file])[0]


def group_decoder(method: str, **options: Any) -> Callable[[Sequence[bytes]], list[Image]]:
  """The same for several files at a time, which learned methods spread over the local devices."""
  if method in baselines.CODECS:
    anchor = baselines.CODECS[method]
    codec, released = anchor.factory(quality=anchor.qualities[0]), ()
  else:
    codec, released = pretrained(method, **options)
  if codec.decode_all is not None:
    return functools.partial(codec.decode_all, released)
  return lambda files: [codec.decode(released, file) for file in files]


def check_options(method: str, factory: Callable, options: Mapping[str, Any]) -> None:
  """Raises CodecError for a keyword that `factory` does not have."""
  names = [name for name in inspect.signature(factory).parameters if name != 'lmbda']
  for option in options:
    if option not in names:
      raise CodecError(f'{method} has no option {option!r}; it has: {", ".join(names)}')


def seeded(method: str, options: Mapping[str, Any], seed: int) -> dict[str, Any]:
  """The options with the seed of a program, for methods that have that option."""
  names = inspect.signature(methods.method(method).codec).parameters
  return {'seed': seed, **options} if 'seed' in names else dict(options)


def recipe(method: str, *, lmbda: float = LAMBDA, label: str = '', **options: Any) -> Recipe:
  """One of our methods at an operating point, for `evaluate`."""
  code = code_hash(f'compress_jax.methods.{method}', f'{method}*', LIBRARIES)
  if 'model' in options:
    model = Path(options['model'])
    code += hashlib.sha256(model.read_bytes()).hexdigest()
    if (side := lambdas.beside(model)).exists():
      code += hashlib.sha256(side.read_bytes()).hexdigest()
  hashable = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
  return Recipe(
    method, label or method, 'lambda', lmbda, tuple(sorted(hashable.items())), '.cjx', code
  )


def anchor(name: str, quality: float) -> Recipe:
  """A classical codec at a quality, for `evaluate`.

  Raises:
    CodecError: no such codec.
  """
  return _classical(name, 'quality', quality)


def anchor_of_size(name: str, size: int) -> Recipe:
  """A classical codec at the quality whose file is nearest to `size` bytes."""
  return _classical(name, 'size', size)


def _classical(name: str, scale: str, point: float) -> Recipe:
  if name not in baselines.CODECS:
    raise CodecError(f'no codec {name!r}; there are: {", ".join(baselines.CODECS)}')
  code = code_hash('compress_jax.baselines', None, CLASSICAL_LIBRARIES)
  return Recipe(name, name, scale, point, (), SUFFIXES.get(name, f'.{name}'), code)


def make(recipe: Recipe) -> tuple[Codec, Released]:
  """The codec of a recipe; called in worker processes."""
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
    if recipe.method == 'jpeg2000':  # Its quality is the rate itself.
      bpp = 8 * recipe.point / (image.shape[0] * image.shape[1])
      start = min(bisect.bisect(points, bpp), len(points) - 1)
    return budget.nearest_size(encode_at, points, int(recipe.point), start=start)

  return factory(quality=points[0])._replace(encode=encode)
