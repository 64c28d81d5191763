"""Which lambda's steps give the cheapest files at a lambda, as measured for a model.

A model of every rate learns steps for each lambda, and its encoder then rounds by rate and
distortion: of its files, that with the steps of lambda is near the least bpp + lambda * MSE, not at
it. A table of ratios, one for each of KNOTS, leads from a lambda to the one whose steps are. It
decides what the encoder does and nothing that the decoder needs: the file holds the level.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy  # Its interpolate is loaded on first use: half a second that most runs save.

from compress_jax.codec import LAMBDA_RANGE, Codec, CodecError, Image, Released

Ratios = tuple[float, ...]  # Of each knot; empty: every lambda takes its own steps.
KNOTS = tuple(float(lmbda) for lmbda in np.geomspace(*LAMBDA_RANGE, 9))
FIELD = 'lambda_ratios'  # In the config of a model file, and in the file beside one.
_MEASURED = 17  # Lambdas whose files are made.
_FARTHEST = 4.0  # Ratio, and its inverse.


def steps_of(lmbda: float, ratios: Ratios) -> float:
  """The lambda whose steps give the cheapest files at `lmbda`."""
  if not ratios:
    return lmbda
  return lmbda * math.exp(np.interp(math.log(lmbda), np.log(KNOTS), np.log(ratios)))


def highest(ratios: Ratios) -> float:
  """The lambda that takes the steps of the highest one, or that one itself."""
  return LAMBDA_RANGE[1] / min((1.0, *ratios[-1:]))


def measured(
  codec_at: Callable[[float], Codec], released: Released, images: Sequence[Image]
) -> Ratios:
  """The ratios of a model, by real files of a few images.

  Args:
    codec_at: the codec of the model's options at a lambda.
    released: the model, without ratios.
    images: no test images; their means count, as where codecs are compared.
  """
  lambdas = np.geomspace(*LAMBDA_RANGE, _MEASURED)
  points = [_point(codec_at(float(lmbda)), released, images) for lmbda in lambdas]
  return ratios_of(lambdas, *np.transpose(points))


def _point(codec: Codec, released: Released, images: Sequence[Image]) -> tuple[float, float]:
  """Mean bits per pixel and mean squared error."""
  bpp, mse = 0.0, 0.0
  for image in images:
    file = codec.encode(released, image)
    error = codec.decode(released, file).astype(np.float64) - image
    bpp += 8 * len(file) / (image.shape[0] * image.shape[1]) / len(images)
    mse += float(np.mean(error**2)) / len(images)
  return bpp, mse


def ratios_of(lambdas: np.ndarray, bpp: np.ndarray, mse: np.ndarray) -> Ratios:
  """The ratios of files with the steps of rising lambdas, interpolated between these.

  Args:
    lambdas: f64[n], rising.
    bpp: f64[n], positive.
    mse: f64[n]
  """
  fit = scipy.interpolate.PchipInterpolator
  at = np.linspace(math.log(lambdas[0]), math.log(lambdas[-1]), 2049)
  rate = np.exp(fit(np.log(lambdas), np.log(bpp))(at))
  error = np.exp(fit(np.log(lambdas), np.log(np.maximum(mse, 1e-9)))(at))
  found = [int(np.argmin(rate + knot * error)) for knot in KNOTS]
  best = [float(np.exp(at[i])) / knot for i, knot in zip(found, KNOTS, strict=True)]
  # At an end of the range nothing beyond was measured: there the ratio goes on as beside it.
  if found[0] == 0:
    best[0] = min(best[:2])
  if found[-1] == len(at) - 1:
    best[-1] = max(best[-2:])
  return tuple(round(min(max(ratio, 1 / _FARTHEST), _FARTHEST), 3) for ratio in best)


def beside(model: Path) -> Path:
  """Where the ratios of a model file are that does not hold them itself."""
  return model.with_suffix('.lambdas.json')


def written(ratios: Ratios, model_id: bytes) -> bytes:
  """The content of that file."""
  return json.dumps({'model': model_id.hex(), FIELD: ratios}).encode() + b'\n'


def of_model(path: Path, config: dict[str, Any], model_id: bytes) -> Ratios:
  """The ratios of a model file: those of the file beside it, or its own, or none.

  Raises:
    CodecError: that is not such a file, or one of another model.
  """
  side = beside(path)
  if not side.exists():
    return _checked(config[FIELD], path) if config.get(FIELD) else ()
  try:
    found = json.loads(side.read_bytes())
    model, ratios = found['model'], found[FIELD]
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
