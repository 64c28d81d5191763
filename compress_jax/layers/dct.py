"""The cosine transform of blocks of three colours, from which the linear path starts.

A network that has to learn such a transform from random weights spends its first hours on it. A
linear path beside the network, initialised here, has it from the first step. It is in none of
the papers; presets that use it say so by `linear=True`.
"""

import functools
from typing import NamedTuple

import numpy as np

_CORRELATION = 0.95  # Correlation of neighbouring pixels: the usual model of photographs.
_DEVIATION = 0.25  # Standard deviation of values in [0, 1].
# Sum, difference of red and blue, and green against both: nearly the principal colours of
# photographs (Ohta, Kanade, Sakai, 1980), with their shares of the variance.
_COLOURS = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])
_SHARES = np.array([0.93, 0.055, 0.015])


class Basis(NamedTuple):
  """Orthonormal vectors of a block, in order of decreasing variance."""

  vectors: np.ndarray  # f32[C, cell * cell * 3], pixels in rows, colours last.
  deviations: np.ndarray  # f32[C], standard deviations of a photograph's coefficients.


@functools.cache
def basis(cell: int, channels: int) -> Basis:
  """Returns the `channels` vectors of largest variance for blocks of cell x cell pixels."""
  place, wave = np.arange(cell) + 0.5, np.arange(cell)
  waves = np.cos(np.pi / cell * wave[:, None] * place) * np.sqrt(2 / cell)
  waves[0] /= np.sqrt(2)
  distance = np.abs(np.subtract.outer(wave, wave))
  along = np.einsum('ui,ij,uj->u', waves, _CORRELATION**distance, waves)
  variance = 3 * _DEVIATION**2 * np.einsum('k,u,v->kuv', _SHARES, along, along).ravel()
  vectors = np.einsum('kc,ui,vj->kuvijc', _COLOURS, waves, waves).reshape(variance.size, -1)
  chosen = np.argsort(-variance, kind='stable')[:channels]
  deviations = np.sqrt(variance[chosen])
  return Basis(vectors[chosen].astype(np.float32), deviations.astype(np.float32))


def step(lmbda: float) -> float:
  """Returns the quantiser's step for values in [0, 1] that minimises bpp + lambda * MSE.

  At high rates D = step^2 / 12 and a colour costs -1/2 log2(D) bits, so that three of
  them cost least where D = 3 / (2 ln 2 lambda), on the 0..255 scale.
  """
  return float(np.sqrt(12 * 3 / (2 * np.log(2) * lmbda)) / 255)
