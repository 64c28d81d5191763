"""Conversion of trained float parameters to the inputs of the integer export, and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compress_jax.codec import Params
from compress_jax.exact import hyper, rates
from compress_jax.exact.export import FloatLayer
from compress_jax.layers import quantization
from compress_jax.layers.blocks import phases
from compress_jax.layers.entropy import Factorized

_FIT_STEPS, _FIT_LR = 1500, 1e-2  # Steps and learning rate of `fitted_prior`.


def layer(params: Params, *, slope: float = 1.0, shuffle: bool = False) -> FloatLayer:
  """Returns the float layer of a Conv, or with `shuffle` of the Conv in a SubPixel."""
  return FloatLayer(np.asarray(params['kernel']), np.asarray(params['bias']), slope, shuffle)


def deconv_layer(params: Params, *, slope: float = 1.0) -> FloatLayer:
  """Returns the float layer of a Deconv: the sub-pixel convolution that equals it."""
  kernel = np.asarray(phases(jnp.asarray(params['kernel'])))
  return FloatLayer(kernel, np.tile(np.asarray(params['bias']), 4), slope, shuffle=True)


def rates_of(log_gains: np.ndarray) -> rates.Rates:
  """Returns the gains of all 256 levels, interpolated between trained ones f32[levels, C]."""
  return rates.rates_of(np.asarray(quantization.gains(jnp.asarray(log_gains), jnp.arange(256))))


def prior_of(prior: Factorized, params: Params) -> hyper.Prior:
  """Returns the integer tables of a factorised density."""
  variables = {'params': params}
  median = np.asarray(prior.apply(variables, method=prior.medians))
  at = hyper.symbols_of_prior()[:, None] + median
  mass = jax.jit(prior.apply)(variables, jnp.asarray(at, jnp.float32)[None, None])
  return hyper.prior_of(np.asarray(mass)[0, 0].T, median)


def conv_params(layer: FloatLayer) -> Params:
  """Returns the parameters of a Conv from its float layer; inverts `layer`."""
  return {'kernel': layer.kernel, 'bias': layer.bias}


def deconv_params(layer: FloatLayer, size: int) -> Params:
  """Returns the parameters of a Deconv from its float layer; inverts `deconv_layer`.

  Args:
    layer: the float layer.
    size: taps of the Deconv's kernel along each axis.
  """
  inputs, outputs = layer.kernel.shape[2], layer.bias.size // 4
  shifted = layer.kernel.reshape(3, 3, inputs, 2, 2, outputs)
  # Each tap occurs once in `phases`: in the phase of its parity, at one of the shifts.
  tap = np.arange(size) - size // 2
  phase = tap % 2
  shift = (tap + phase) // 2 + 1
  kernel = shifted[shift[:, None], shift, :, phase[:, None], phase]
  return {'kernel': kernel, 'bias': layer.bias.reshape(4, -1).mean(0)}


def log_gains_of(table: rates.Rates, levels: int) -> np.ndarray:
  """Returns the logarithms of trained gains f32[levels, C] from tables; inverts `rates_of`."""
  places = np.arange(256) * (levels - 1) / 255  # The interpolation of `quantization.gains`.
  shares = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(levels)))
  gains = np.log(table.gain * 2.0**-rates.GAIN_BITS)
  log_gains: np.ndarray = np.linalg.lstsq(shares, gains)[0]
  return log_gains.astype(np.float32)


def fitted_prior(prior: Factorized, tables: hyper.Prior) -> Params:
  """Returns parameters of a factorised density that fits the probabilities of integer tables."""
  median = tables.median * 2.0**-hyper.BITS
  params = prior.init(jax.random.key(0), jnp.zeros((1, 1, 1, prior.channels)))['params']
  if prior.quantiled:
    params['quantiles'] = params['quantiles'].at[:, 1].set(median)
  at = jnp.asarray((tables.low[:, None] + np.arange(tables.counts.shape[1] - 1)).T + median)
  share = jnp.asarray((tables.counts / tables.counts.sum(1, keepdims=True))[:, :-1].T)
  import optax  # Programs that only code files do not need it.

  optimizer = optax.adam(optax.cosine_decay_schedule(_FIT_LR, _FIT_STEPS))

  def surprise(params: Params) -> jax.Array:
    mass: Any = prior.apply({'params': params}, at[None, None])
    surprise: jax.Array = -(share * jnp.log(mass[0, 0] + 1e-9)).sum(0).mean()
    return surprise

  def update(_: int, state: tuple[Params, Any]) -> tuple[Params, Any]:
    params, optimizer_state = state
    grads = jax.grad(surprise)(params)
    with jax.numpy_dtype_promotion('standard'):  # optax mixes integers and floats.
      changes, optimizer_state = optimizer.update(grads, optimizer_state)
    return optax.apply_updates(params, changes), optimizer_state

  start = params, optimizer.init(params)
  fitted: Params = jax.jit(lambda: jax.lax.fori_loop(0, _FIT_STEPS, update, start)[0])()
  return jax.tree.map(np.asarray, fitted)
