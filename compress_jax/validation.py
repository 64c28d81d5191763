"""How good a model in training is, by real files of a few images."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from compress_jax.codec import Codec, Image, Released
from compress_jax.losses import PEAK, weight_of

LAMBDAS = (0.0018, 0.0067, 0.025)  # Where a model of every rate is looked at.


class Found(NamedTuple):
  """What files of a model are like."""

  score: float  # The mean of weighted bpp + lambda * MSE, as in training; less is better.
  values: dict[str, float]  # bpp and PSNR at each lambda, and the score.
  decoded: dict[str, Image]  # The first image at each lambda.


def validate(codecs: Mapping[float, Codec], released: Released, images: Sequence[Image]) -> Found:
  """Encodes and decodes images by the codec of each lambda.

  Args:
    codecs: by lambda.
    released: of the model in training.
    images: of any size, at least one.
  """
  values: dict[str, float] = {}
  decoded: dict[str, Image] = {}
  costs = []
  for lmbda, codec in codecs.items():
    files = [codec.encode(released, image) for image in images]
    found = [codec.decode(released, file) for file in files]
    pairs = zip(files, images, strict=True)
    bpp = np.mean([8 * len(file) / _pixels(image) for file, image in pairs])
    mse = np.mean([_mse(image, x_hat) for image, x_hat in zip(images, found, strict=True)])
    values[f'bpp_{lmbda:g}'] = float(bpp)
    values[f'psnr_{lmbda:g}'] = 10 * math.log10(PEAK**2 / max(float(mse), 1e-9))
    decoded[f'{lmbda:g}'] = found[0]
    costs.append(float(weight_of(lmbda) * (bpp + lmbda * mse)))
  score = float(np.mean(costs))
  return Found(score, {'score': score, **values}, decoded)


def _pixels(image: Image) -> int:
  return image.shape[0] * image.shape[1]


def _mse(image: Image, x_hat: Image) -> float:
  return float(np.mean((image.astype(np.float64) - x_hat) ** 2))
