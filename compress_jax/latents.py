"""What the file of a learned method holds."""

from typing import NamedTuple

import numpy as np


class Latents(NamedTuple):
  """Integers, the same on every machine."""

  q: np.ndarray  # i64[h, w, C], symbols of the latents.
  z: np.ndarray  # i64[h', w', C'], of the hyper-latents; empty where there are none.
  mean: np.ndarray | float = (
    0.0  # f64[h, w, C] in 2^-8 symbols: what was subtracted before rounding.
  )
  y: np.ndarray | None = None  # f32[h, w, C] before gains and rounding; the encoder alone knows.
