"""Better latents for the image at hand, for the same decoder.

Stochastic Gumbel annealing: Y. Yang, R. Bamler, S. Mandt, "Improving inference for neural image
compression", NeurIPS 2020, section 3.2. The latents of the analysis are where gradient steps on
bits per pixel + lambda * MSE begin; hyper-latents stay what they are.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from compress_jax.codec import Array, CodecError, Key, Params
from compress_jax.exact import escapes
from compress_jax.relaxed import Tree

Synthesis = Callable[[Params, Array], Array]  # y_hat f32[1, h, w, C] to x_hat f32[1, H, W, 3].
Bits = Callable[[Tree, Array], Array]  # Symbols f32[h, w, C] to f32[].

LARGEST = 2**22  # Pixels: gradients need all activations of the image at a time.
_DISTANCE = 10.0  # Symbols that all steps together may go, at Adam's full speed.
_FASTEST = 0.05  # Symbols per step.
_WARM, _RATE, _STEPS = 0.5, 1e-3, 2000  # Section 4 and its appendix: tau = exp(-1e-3 (t - 700)),
_HOLD = 700  # at most 0.5, over 2,000 steps; fewer steps run through the same temperatures.
_EDGE = 1e-4  # Distance from a whole number at which atanh is cut.


class Given(NamedTuple):
  """An image, and what its latents are judged by."""

  decoder: Params
  tree: Tree  # `Relaxed.arrays` of the image.
  unit: Array  # f32[C]: one symbol, in latents.
  mean: Array  # f32[h, w, C]: what the decoder adds to symbols.
  image: Array  # u8[H, W, 3]
  lmbda: Array  # Minimise bits per pixel + lmbda * MSE, on the 0..255 scale.


def refine(
  bits: Bits, synthesise: Synthesis, given: Given, start: Array, q: np.ndarray, steps: int
) -> np.ndarray:
  """Symbols i64[h, w, C] that cost less than q, or q where none were found.

  Args:
    bits: what symbols cost, from `relaxed`.
    synthesise: the decoder's network.
    given: the image.
    start: f32[h, w, C], the latents of the analysis in symbols, not rounded.
    q: i64[h, w, C], what the encoder would write.
    steps: of gradient descent.

  Raises:
    CodecError: the image is too large.
  """
  height, width = given.image.shape[:2]
  if height * width > LARGEST:
    raise CodecError(f'refinement takes images of up to {LARGEST:,} pixels, not {width}x{height}')
  found = np.asarray(_descend(bits, synthesise, given, start, jax.random.key(0), steps))
  rounded = np.clip(np.rint(found.astype(np.float64)), -escapes.LIMIT, escapes.LIMIT)
  before, after = (
    float(_price(bits, synthesise, given, np.float32(symbols))) for symbols in (q, rounded)
  )
  return rounded.astype(np.int64) if after < before else q


def _cost(bits: Bits, synthesise: Synthesis, given: Given, q: Array) -> Array:
  """bits per pixel + lambda * MSE of symbols f32[h, w, C]."""
  height, width = given.image.shape[:2]
  with jax.default_matmul_precision('highest'):
    x_hat = synthesise(given.decoder, ((q + given.mean) * given.unit)[None])[0]
  error = given.image.astype(jnp.float32) - 255 * jnp.clip(x_hat[:height, :width], 0, 1)
  return bits(given.tree, q) / (height * width) + given.lmbda * jnp.mean(error**2)


_price = jax.jit(_cost, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _descend(
  bits: Bits, synthesise: Synthesis, given: Given, start: Array, key: Key, steps: Array
) -> Array:
  """Symbols f32[h, w, C] after so many steps."""
  optimizer = optax.adam(jnp.minimum(_DISTANCE / steps, _FASTEST))

  def sampled(v: Array, i: Array) -> Array:
    tau = jnp.minimum(jnp.exp(_RATE * (_HOLD - i * (_STEPS / steps))), _WARM)
    q = softly_rounded(v, tau, jax.random.fold_in(key, i))
    return _cost(bits, synthesise, given, q)

  def step(i: Array, state: tuple[Array, optax.OptState]) -> tuple[Array, optax.OptState]:
    v, moments = state
    updates, moments = optimizer.update(jax.grad(sampled)(v, i), moments)
    return optax.apply_updates(v, updates), moments

  return jax.lax.fori_loop(0, steps, step, (start, optimizer.init(start)))[0]


def softly_rounded(v: Array, tau: Array, key: Key) -> Array:
  """A relaxed sample between floor and ceiling of f32[...]: equation 8 of the paper.

  At temperature tau the nearer of the two is the likelier by exp(atanh of the distances / tau).
  """
  below = jnp.floor(v)
  distance = jnp.clip(v - below, _EDGE, 1 - _EDGE)
  logits = -jnp.arctanh(jnp.stack([distance, 1 - distance])) / tau
  noise = jax.random.gumbel(key, logits.shape)
  return below + jax.nn.softmax((logits + noise) / tau, 0)[1]
