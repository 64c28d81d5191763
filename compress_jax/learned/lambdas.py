"""The quantisation steps that give the cheapest files at each lambda, measured for a model.

A model of every rate learns steps for each lambda, and its encoder then rounds by rate and
distortion. The file with the steps of lambda is therefore near the least bpp + lambda * MSE, but
not at it. A table of ratios, one for each of KNOTS, maps a lambda to the one whose steps give the
least cost. Only the encoder uses it; the decoder reads the level in the file.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy  # Loads scipy.interpolate on first use, which saves most runs half a second.

from compress_jax.codec import LAMBDA_RANGE, Codec, CodecError, Image, Released

Ratios = tuple[float, ...]  # One for each knot; empty if each lambda uses the steps learned for it.
KNOTS = tuple(float(lmbda) for lmbda in np.geomspace(*LAMBDA_RANGE, 9))
FIELD = 'lambda_ratios'  # The key in the config of a model file, and in the file beside it.
_MEASURED = 17  # Number of lambdas at which files are measured.
_FARTHEST = 4.0  # The largest ratio, and the inverse of the least.


def steps_of(lmbda: float, ratios: Ratios) -> float:
  """Returns the lambda whose steps give the cheapest files at `lmbda`."""
  if not ratios:
    return lmbda
  return lmbda * math.exp(np.interp(math.log(lmbda), np.log(KNOTS), np.log(ratios)))


def highest(ratios: Ratios) -> float:
  """Returns the lambda at which the steps of the highest lambda are used; at least that one."""
  return LAMBDA_RANGE[1] / min((1.0, *ratios[-1:]))


def measured(
  codec_at: Callable[[float], Codec], released: Released, images: Sequence[Image]
) -> Ratios:
  """Measures the ratios of a model on real files of a few images.

  Args:
    codec_at: returns the codec with the model's options at a lambda.
    released: the model, without ratios.
    images: images that no test uses; ratios minimise the mean cost over them.
  """
  lambdas = np.geomspace(*LAMBDA_RANGE, _MEASURED)
  points = [_point(codec_at(float(lmbda)), released, images) for lmbda in lambdas]
  return ratios_of(lambdas, *np.transpose(points))


def _point(codec: Codec, released: Released, images: Sequence[Image]) -> tuple[float, float]:
  """Returns the mean bits per pixel and the mean squared error of images."""
  bpp, mse = 0.0, 0.0
  for image in images:
    file = codec.encode(released, image)
    error = codec.decode(released, file).astype(np.float64) - image
    bpp += 8 * len(file) / (image.shape[0] * image.shape[1]) / len(images)
    mse += float(np.mean(error**2)) / len(images)
  return bpp, mse


def ratios_of(lambdas: np.ndarray, bpp: np.ndarray, mse: np.ndarray) -> Ratios:
  """Returns the ratios that follow from the rate and the error at several lambdas.

  Rate and error are interpolated between the lambdas.

  Args:
    lambdas: f64[n], in rising order.
    bpp: f64[n], positive bits per pixel with the steps of each lambda.
    mse: f64[n], mean squared errors.
  """
  fit = scipy.interpolate.PchipInterpolator
  at = np.linspace(math.log(lambdas[0]), math.log(lambdas[-1]), 2049)
  rate = np.exp(fit(np.log(lambdas), np.log(bpp))(at))
  error = np.exp(fit(np.log(lambdas), np.log(np.maximum(mse, 1e-9)))(at))
  least = [int(np.argmin(rate + knot * error)) for knot in KNOTS]
  best = [float(np.exp(at[i])) / knot for i, knot in zip(least, KNOTS, strict=True)]
  # Nothing beyond the ends of the range was measured: there the ratio of the next knot is used.
  if least[0] == 0:
    best[0] = min(best[:2])
  if least[-1] == len(at) - 1:
    best[-1] = max(best[-2:])
  return tuple(round(min(max(ratio, 1 / _FARTHEST), _FARTHEST), 3) for ratio in best)


def beside(model: Path) -> Path:
  """Returns the path of the file of ratios that belongs to a model file."""
  return model.with_suffix('.lambdas.json')


def written(ratios: Ratios, model_id: bytes) -> bytes:
  """Returns the content of a file of ratios, with the id of its model."""
  return json.dumps({'model': model_id.hex(), FIELD: ratios}).encode() + b'\n'


def of_model(path: Path, config: dict[str, Any], model_id: bytes) -> Ratios:
  """Returns the ratios of a model: those of the file beside it, else of its config, else ().

  Raises:
    CodecError: a file or a config holds no valid ratios, or the file belongs to another model.
  """
  side = beside(path)
  if not side.exists():
    return _checked(config[FIELD], path) if config.get(FIELD) else ()
  try:
    content = json.loads(side.read_bytes())
    model, ratios = content['model'], content[FIELD]
  except (OSError, ValueError, LookupError, TypeError) as error:
    raise CodecError(f'{side} holds no ratios of lambdas: {error!r}') from error
  if model != model_id.hex():
    raise CodecError(
      f'{side} belongs to the model {model}, not to {model_id.hex()} beside it: remove it, and '
      f'measure it anew by --mode=export --input={path} --output={side}'
    )
  return _checked(ratios, side)


def _checked(ratios: Any, path: Path) -> Ratios:
  sound = isinstance(ratios, list) and len(ratios) == len(KNOTS)
  if not sound or not all(
    isinstance(ratio, int | float) and 1 / _FARTHEST <= ratio <= _FARTHEST for ratio in ratios
  ):
    raise CodecError(
      f'{path} holds no ratios of lambdas: {FIELD} must be {len(KNOTS)} numbers from '
      f'{1 / _FARTHEST:g} to {_FARTHEST:g}'
    )
  return tuple(float(ratio) for ratio in ratios)
