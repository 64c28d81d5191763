"""Codecs by name, ready to code files, with the models that ship."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from compress_jax import baselines, methods
from compress_jax.codec import Codec, CodecError, Image, Progress, Released
from compress_jax.files import models
from compress_jax.learned import lambdas
from compress_jax.learned.released import from_arrays, misfit

ZOO = Path(__file__).parent / 'zoo'
LAMBDA = 0.013
ENCODING = {'refine', 'rdoq'}  # Options of learned methods that concern only the encoder.


def pretrained(
  method: str, *, lmbda: float = LAMBDA, model: str | None = None, **options: Any
) -> tuple[Codec, Released]:
  """Returns the codec of a method and the model that it codes with.

  Args:
    method: a name in METHODS.
    lmbda: minimise bits per pixel + lmbda * MSE, on the 0..255 scale.
    model: a model file in place of the one that is shipped.
    **options: keyword arguments of the method's factory. Those of a learned method are stored in
      its model, except for `refine` and `rdoq`, which concern only the encoder.

  Raises:
    CodecError: unknown method or option, a value that is out of range, or no such model.
  """
  record = methods.method(method)
  factory = record.codec
  if record.coding_of:
    if options.keys() - ENCODING:
      unknown = min(options.keys() - ENCODING)
      raise CodecError(f'{method} has no option {unknown!r}: its model has them all')
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
  """Returns the factory's options and the weights of a learned method, shipped or from a file.

  Raises:
    CodecError: not a model of this method.
  """
  chosen = _path(method, path)
  files = chosen, lambdas.beside(chosen)
  return _load_model(method, chosen, *(p.stat().st_mtime_ns if p.exists() else 0 for p in files))


def _path(method: str, path: str | None) -> Path:
  return Path(path) if path else ZOO / f'{method}.safetensors'


def _explaining(codec: Codec, factory: Callable[..., Codec], complaint: str) -> Codec:
  """Returns the codec, which raises CodecError where its model lacks weights that it needs.

  Working out all shapes takes up to a second, so it is done only after an error.
  """

  def explaining(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def explained(released: Released, *arguments: Any, **more: Any) -> Any:
      try:
        return run(released, *arguments, **more)
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
  """Returns what is wrong with the model of a codec; None if the model is not the cause."""
  try:
    params = jax.eval_shape(codec.init, jax.random.key(0))
  except Exception as error:  # Options that make no network fail in many ways.
    try:
      jax.eval_shape(factory().init, jax.random.key(0))
    except Exception:  # JAX fails with any model: its settings or devices are the cause.
      return None
    return f'{type(error).__name__} where it is made'
  return misfit(released, params)


@functools.lru_cache(4)
def _load_model(method: str, path: Path, *stamps: int) -> tuple[dict[str, Any], Released]:
  del stamps  # They are part of the cache's key: changed files are read again.
  arrays, config = models.read(path)
  if config.get('method') != method:
    raise CodecError(f'{path} is a model of {config.get("method")}, not of {method}')
  if not any(name.startswith('coding.') for name in arrays):
    raise CodecError(f'{path} holds float weights only: --mode=export makes a model of them')
  record = methods.method(method)
  if record.coding_of is None:
    raise CodecError(f'{method} is not learned: it has no such model')
  options = config.get('options', {})
  check_options(method, record.codec, options)
  coding = record.coding_of(options)
  released = from_arrays(arrays, coding.Coding, coding.check)
  ratios = lambdas.of_model(path, config, released.model_id)
  return options, released._replace(ratios=ratios)


def lambda_range(method: str, released: Released = ()) -> tuple[float, float]:
  """Returns the smallest and largest lambda of a method.

  With a model, the largest is the lambda that uses its finest steps.
  """
  low, high = methods.method(method).lambda_range
  return low, max(high, lambdas.highest(released.ratios)) if released else high


def _check_lambda(lmbda: object, allowed: tuple[float, float]) -> None:
  low, high = allowed
  if not (isinstance(lmbda, int | float) and low <= lmbda <= high):
    raise CodecError(f'lambda is {lmbda}; it must be between {low:g} and {high:g}')


def decoder(method: str, **options: Any) -> Callable[[bytes], Image]:
  """Returns a function that decodes a file of a method or classical codec, of any rate."""
  decode = group_decoder(method, **options)
  return lambda file: decode([file])[0]


def group_decoder(method: str, **options: Any) -> Callable[..., list[Image]]:
  """Returns a function that decodes several files, which learned methods spread over devices.

  It takes the files and, as the keyword `progress`, what `Codec.decode_all` takes by that name.
  """
  if method in baselines.CODECS:
    anchor = baselines.CODECS[method]
    codec, released = anchor.factory(quality=anchor.qualities[0]), ()
  else:
    codec, released = pretrained(method, **options)
  if codec.decode_all is not None:
    return functools.partial(codec.decode_all, released)

  def decode(files: Sequence[bytes], *, progress: Progress | None = None) -> list[Image]:
    images = []
    for i, file in enumerate(files):
      images.append(codec.decode(released, file))
      if progress:
        progress('decoding', i + 1, len(files))
    return images

  return decode


def check_options(method: str, factory: Callable, options: Mapping[str, Any]) -> None:
  """Raises CodecError for a keyword that `factory` does not have."""
  names = [name for name in inspect.signature(factory).parameters if name != 'lmbda']
  for option in options:
    if option not in names:
      raise CodecError(f'{method} has no option {option!r}; it has: {", ".join(names)}')


def seeded(method: str, options: Mapping[str, Any], seed: int) -> dict[str, Any]:
  """Returns the options with the seed of a program, for methods that have that option."""
  names = inspect.signature(methods.method(method).codec).parameters
  return {'seed': seed, **options} if 'seed' in names else dict(options)
