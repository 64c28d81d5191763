"""A search for better symbols of a single image, for the same decoder.

Like Y. Yang, R. Bamler, S. Mandt, "Improving inference for neural image compression", NeurIPS 2020,
it closes the amortization and discretization gaps by gradients of bits per pixel + lambda * MSE.
Unlike their stochastic Gumbel annealing, it changes whole symbols and leaves hyper-latents as they
are. Their method needs thousands of steps: most symbols are zeros, whose noise hides the
predictions that networks make from them. After a hundred steps it is still worse than rounding by
`rdoq`.

A pass tries many steps of +1 and -1 at a time, those that lower the cost by a model of second
order. It reverts them in the cells around which the cost rose.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress_jax.codec import Array, CodecError, Key, Params
from compress_jax.exact import escapes
from compress_jax.layers.quantization import Price

Synthesis = Callable[[Params, Array], Array]  # y_hat f32[1, h, w, C] to x_hat f32[1, H, W, 3].
# (seen, symbols, magnitudes) -> Price: the bits of each symbol, where the networks see the symbols
# f32[h, w, C] and their magnitudes. Files are coded by `exact` alone. These estimates agree with
# files except for very improbable symbols, whose escapes need fewer bits than the floor of the
# likelihoods. The difference is 0.2 % or less for the models that ship.
Rate = Callable[[Any, Array, Array], Price]
LARGEST = 2**22  # Largest number of pixels: gradients need all activations of the image.
_SHARE = 0.5  # Initial share of a cell's promising steps that a pass tries.
_GROWTH, _DECAY = 1.2, 0.5  # Factors of that share after a pass that lowered or raised the cost.
_LEAST = 0.02  # Least value of that share.
_PROBES = 1024  # Least number of cells over which the curvature of a channel is averaged.


class Seen(NamedTuple):
  """The inputs from which a float model predicts an image's symbols, beside the symbols."""

  params: Params  # Parameters of the entropy model, and `log_gains`.
  z_hat: Array  # f32[h', w', H], decoded hyper-latents; empty where there are none.
  level: Array  # i32[]


class Given(NamedTuple):
  """An image, and all that the cost of its symbols depends on."""

  decoder: Params
  seen: Any  # The first argument of the rate, such as `Seen`.
  unit: Array  # f32[C], the length of one symbol in latents.
  mean: Array  # f32[h, w, C], the mean that the decoder adds to symbols.
  image: Array  # u8[H, W, 3]
  lmbda: Array  # Minimise bits per pixel + lmbda * MSE, on the 0..255 scale.


class _State(NamedTuple):
  q: Array  # f32[h, w, C], integers.
  costs: Array  # f32[h, w], the share of each cell in bits per pixel + lambda * MSE.
  up: Array  # f32[h, w, C], the change of the cost by +1.
  down: Array  # f32[h, w, C], the change of the cost by -1.
  share: Array  # f32[h, w], the share of promising steps that the next pass tries.


def refine(
  rate: Rate,
  synthesise: Synthesis,
  given: Given,
  q: np.ndarray,
  passes: int,
  progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
  """Returns symbols i64[h, w, C] that cost no more than q.

  Args:
    rate: returns the bits of symbols.
    synthesise: the decoder's network.
    given: the image and its context.
    q: i64[h, w, C], the symbols to start from.
    passes: the number of passes; each considers all symbols.
    progress: is called after each pass with the number of passes that are done and of all passes.

  Raises:
    CodecError: the image is too large.
  """
  height, width = given.image.shape[:2]
  if height * width > LARGEST:
    raise CodecError(f'refinement takes images of up to {LARGEST:,} pixels, not {width}x{height}')
  key = jax.random.key(0)
  start = jnp.asarray(q, jnp.float32)
  bend = curvature(synthesise, given, start, key)
  costs, up, down = _slopes(rate, synthesise, given, bend, start)
  state = _State(start, costs, up, down, jnp.full(costs.shape, _SHARE))
  for i in range(passes):
    state = _pass(rate, synthesise, given, bend, state, jax.random.fold_in(key, i))
    if progress:
      jax.block_until_ready(state)
      progress(i + 1, passes)
  return np.asarray(state.q).astype(np.int64)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pass(
  rate: Rate, synthesise: Synthesis, given: Given, bend: Array, state: _State, key: Key
) -> _State:
  """Performs one pass; returns the same symbols if it lowers no cost."""
  q = state.q
  gain = jnp.minimum(state.up, state.down)
  gain *= jax.random.uniform(key, q.shape, minval=0.5)  # So that passes try different steps.
  count = jnp.ceil(state.share * (gain < 0).sum(-1, dtype=jnp.float32)).astype(jnp.int32)[..., None]
  bar = jnp.take_along_axis(jnp.sort(gain, -1), jnp.maximum(count - 1, 0), -1)
  chosen = (gain < 0) & (gain <= bar)
  tried = q + jnp.where(chosen, jnp.where(state.up < state.down, 1.0, -1.0), 0.0)
  tried = jnp.clip(tried, -escapes.LIMIT, escapes.LIMIT)
  worse = _around(_costs(rate, synthesise, given, tried) - state.costs) >= 0
  share = state.share * jnp.where(worse, _DECAY, _GROWTH)
  share = jnp.where(chosen.any(-1), jnp.clip(share, _LEAST, 1), state.share)
  merged = jnp.where(worse[..., None], q, tried)
  costs, up, down = _slopes(rate, synthesise, given, bend, merged)
  new_state = _State(merged, costs, up, down, share)
  better = new_state.costs.sum() < state.costs.sum()
  kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), new_state, state)
  return kept._replace(share=share)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _slopes(
  rate: Rate, synthesise: Synthesis, given: Given, bend: Array, q: Array
) -> tuple[Array, Array, Array]:
  """Returns the costs f32[h, w] of cells, and the changes f32[h, w, C] of their sum by +1 and -1.

  The changes are exact in the bits of the changed symbol, of first order in the bits of others, and
  of second order in the errors.
  """
  pixels = _pixels(given)

  def bits(q_seen: Array, magnitudes: Array) -> tuple[Array, list[Array]]:
    price = rate(given.seen, q_seen, magnitudes)
    now = price(q)
    return now.sum(), [now, price(q + 1) - now, price(q - 1) - now]

  by, (now, more, less) = jax.grad(bits, (0, 1), has_aux=True)(q, jnp.abs(q))
  errors, pull = jax.vjp(lambda q: _errors(synthesise, given, q), q)
  (slope,) = pull(jnp.ones_like(errors))

  def added(changed: Array, step: int) -> Array:
    others = step * by[0] + (jnp.abs(q + step) - jnp.abs(q)) * by[1]
    return (changed + others) / pixels + step * slope + bend

  return now.sum(-1) / pixels + errors, added(more, 1), added(less, -1)


def _costs(rate: Rate, synthesise: Synthesis, given: Given, q: Array) -> Array:
  """Returns the share f32[h, w] of each cell in bits per pixel + lambda * MSE."""
  bits = rate(given.seen, q, jnp.abs(q))(q)
  return bits.sum(-1) / _pixels(given) + _errors(synthesise, given, q)


def _errors(synthesise: Synthesis, given: Given, q: Array) -> Array:
  """Returns the share f32[h, w] of each cell in lambda * MSE."""
  height, width = given.image.shape[:2]
  rows, columns = q.shape[:2]
  x_hat = _picture(synthesise, given, q)
  error = jnp.zeros(x_hat.shape[:2])
  squared = ((given.image.astype(x_hat.dtype) - x_hat[:height, :width]) ** 2).mean(-1)
  error = error.at[:height, :width].set(squared)
  cells = error.reshape(rows, len(error) // rows, columns, -1).sum((1, 3))
  return cells * (given.lmbda / _pixels(given))


def _picture(synthesise: Synthesis, given: Given, q: Array) -> Array:
  """Returns the decoded image f32[cell * h, cell * w, 3] on the 0..255 scale."""
  with jax.default_matmul_precision('highest'):
    x_hat = synthesise(given.decoder, ((q + given.mean) * given.unit)[None])[0]
  return 255 * jnp.clip(x_hat, 0, 1)


@functools.partial(jax.jit, static_argnums=0)
def curvature(synthesise: Synthesis, given: Given, q: Array, key: Key) -> Array:
  """Returns the second-order change f32[C] of lambda * MSE by a step of 1 in each channel.

  It is the diagonal of J^T J, averaged over cells, estimated by the squares of J^T v for random
  signs v (after M. F. Hutchinson, Communications in Statistics 18(3), 1989).
  """
  picture, pull = jax.vjp(lambda q: _picture(synthesise, given, q), q)

  def probe(key: Key) -> Array:
    (pulled,) = pull(jax.random.rademacher(key, picture.shape, picture.dtype))
    return (pulled**2).mean((0, 1))

  count = -(-_PROBES // (q.shape[0] * q.shape[1]))
  diagonal = jax.lax.map(probe, jax.random.split(key, count)).mean(0)
  return diagonal * (given.lmbda / (3 * _pixels(given)))


def _around(values: Array) -> Array:
  """Returns the sum f32[h, w] of values over each cell and the eight around it."""
  return jax.lax.reduce_window(values, 0.0, jax.lax.add, (3, 3), (1, 1), 'SAME')


def _pixels(given: Given) -> int:
  height, width = given.image.shape[:2]
  return height * width
