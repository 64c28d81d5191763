"""Validation of a model in training by real files of a few images."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from compress_jax.codec import Codec, Image, Released
from compress_jax.training.losses import PEAK, weight_of

LAMBDAS = (0.0018, 0.0067, 0.025)  # Lambdas at which a model of every rate is validated.


class Validation(NamedTuple):
  """Rate, distortion and decoded images of a model's files."""

  score: float  # The mean of weighted bpp + lambda * MSE, as in training; less is better.
  # The score, and the means over images of bpp and PSNR at each lambda.
  values: dict[str, float]
  decoded: dict[str, Image]  # The first image at each lambda.


def validate(
  codecs: Mapping[float, Codec], released: Released, images: Sequence[Image]
) -> Validation:
  """Encodes and decodes images by the codec of each lambda and returns the figures.

  Args:
    codecs: the codecs by lambda.
    released: the model in training.
    images: at least one, of any size.
  """
  values: dict[str, float] = {}
  decoded: dict[str, Image] = {}
  costs = []
  for lmbda, codec in codecs.items():
    files = [codec.encode(released, image) for image in images]
    reconstructions = [codec.decode(released, file) for file in files]
    pairs = zip(files, images, strict=True)
    bpp = np.mean([8 * len(file) / _pixels(image) for file, image in pairs])
    errors = [_mse(image, x_hat) for image, x_hat in zip(images, reconstructions, strict=True)]
    values[f'bpp_{lmbda:g}'] = float(bpp)
    values[f'psnr_{lmbda:g}'] = float(np.mean([_psnr(error) for error in errors]))
    decoded[f'{lmbda:g}'] = reconstructions[0]
    costs.append(float(weight_of(lmbda) * (bpp + lmbda * np.mean(errors))))
  score = float(np.mean(costs))
  return Validation(score, {'score': score, **values}, decoded)


def _pixels(image: Image) -> int:
  return image.shape[0] * image.shape[1]


def _mse(image: Image, x_hat: Image) -> float:
  return float(np.mean((image.astype(np.float64) - x_hat) ** 2))


def _psnr(mse: float) -> float:
  """Returns the PSNR of an image in dB; 138 where nothing is lost."""
  return 10 * math.log10(PEAK**2 / max(mse, 1e-9))
