"""A plan to train a cae that compiles quickly, its parameters and a batch."""

import functools

import jax
import numpy as np

from compress_jax.methods.cae import codec as cae
from compress_jax.training import plans
from tests.helpers.modules import jit

WIDTHS, LEVELS = (4, 4, 5), 3
OPTIONS = {'widths': WIDTHS, 'levels': LEVELS, 'linear': True}
PLAN = plans.Plan(
  method='cae',
  options=OPTIONS,
  stage='rate-distortion',
  start=None,
  lmbda=None,
  distortion='mse',
  lpips=None,
  data=[],
  seed=0,
  steps=100,
  batch=2,
  crop=16,
  lr=1e-3,
  precision='float32',
  minutes=None,
)
X = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(1), 2)


@functools.cache
def start():
  return jit(cae.codec(**OPTIONS).init)(jax.random.key(0))
