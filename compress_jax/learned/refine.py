"""A search for better symbols of a single image, for the same decoder.

Like Y. Yang, R. Bamler, S. Mandt, "Improving inference for neural image compression", NeurIPS 2020,
it closes the amortization and discretization gaps by gradients of bits per pixel + lambda * MSE.
Unlike their stochastic Gumbel annealing, it changes whole symbols and leaves hyper-latents as they
are. Their method needs thousands of steps: most symbols are zeros, whose noise hides the
predictions that networks make from them. After a hundred steps it is still worse than rounding by
`rdoq`.

A pass changes symbols, and evaluates the cost and its gradients. The first pass of a trial takes
many steps of +1 and -1 at a time, those that lower the cost by a model of second order. Many of
them do not help beside the others. The mean of the slopes before and after all steps says what each
one contributed (the trapezoidal rule, exact if the cost is quadratic). The second pass takes only
those that lowered the cost. If the cost is still not lower, further passes thin them out in the
same way, and drop all in the cells around which the cost rose.
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
_SHARE, _LEAST = 0.2, 0.02  # Initial and least share of a cell's promising steps that are tried.
_ROUNDS = 3  # How often the steps of a trial are thinned out.
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


class _Point(NamedTuple):
  """Symbols, and how the cost in bits per pixel + lambda * MSE depends on them."""

  q: Array  # f32[h, w, C], integers.
  costs: Array  # f32[h, w], the share of each cell.
  more: Array  # f32[h, w, C], the change of the bits of a symbol by +1.
  less: Array  # f32[h, w, C], the change of the bits of a symbol by -1.
  slopes: Array  # f32[h, w, C], the derivative of all else by a symbol, at equal magnitude.
  by_size: Array  # f32[h, w, C], the derivative of all else by its magnitude.


class _State(NamedTuple):
  point: _Point  # The symbols of the least cost so far.
  steps: Array  # f32[h, w, C], the steps of -1, 0 and 1 that the next pass tries.
  begun: Array  # f32[h, w], the number of steps of the trial at its start.
  left: Array  # f32[h, w], the number of them that have not been given up.
  round: Array  # i32[], how often the trial was thinned out.
  share: Array  # f32[h, w], the share of promising steps that a trial takes up.


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
    passes: the number of passes; most trials take two.
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
  point = _evaluated(rate, synthesise, given, start)
  share = jnp.full(point.costs.shape, _SHARE)
  state = _trial(_State(point, start, share, share, jnp.int32(0), share), bend, key)
  for i in range(passes):
    after = _evaluated(rate, synthesise, given, state.point.q + state.steps)
    state = _judged(state, after, bend, jax.random.fold_in(key, i + 1))
    if progress:
      jax.block_until_ready(state)
      progress(i + 1, passes)
  return np.asarray(state.point.q).astype(np.int64)


@jax.jit
def _judged(state: _State, after: _Point, bend: Array, key: Key) -> _State:
  """Returns the next state, with the symbols after the steps of the state if they cost less."""
  before, steps = state.point, state.steps
  lower = after.costs.sum() < before.costs.sum()
  point = jax.tree.map(lambda old, new: jnp.where(lower, new, old), before, after)
  first = state.round == 0
  good = _contributions(before, after, steps) < 0
  good &= first | (_around(after.costs - before.costs) < 0)[..., None]
  # From the new symbols, a trial goes on by reverting what did not help.
  remaining = jnp.where(good, steps, 0.0) - jnp.where(lower, steps, 0.0)
  left = jnp.where(first, good.sum(-1, dtype=jnp.float32), state.left)
  thinner = state._replace(point=point, steps=remaining, left=left, round=state.round + 1)
  grown = jnp.where(lower, 0.5 + left / jnp.maximum(state.begun, 1), 0.5)
  share = jnp.where(state.begun > 0, jnp.clip(state.share * grown, _LEAST, 1), state.share)
  fresh = _trial(thinner._replace(share=share), bend, key)
  over = (lower & ~first) | (state.round >= _ROUNDS) | ~remaining.any()
  return jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, thinner)


def _trial(state: _State, bend: Array, key: Key) -> _State:
  """Returns the state with the steps of a new trial."""
  point = state.point
  up, down = _foreseen(point, 1) + bend, _foreseen(point, -1) + bend
  up = jnp.where(point.q < escapes.LIMIT, up, jnp.inf)
  down = jnp.where(point.q > -escapes.LIMIT, down, jnp.inf)
  gain = jnp.minimum(up, down)
  promising = gain < 0
  gain *= jax.random.uniform(key, gain.shape, minval=0.5)  # So that trials differ.
  count = jnp.ceil(state.share * promising.sum(-1, dtype=jnp.float32))
  last = jnp.maximum(count.astype(jnp.int32) - 1, 0)[..., None]
  bar = jnp.take_along_axis(jnp.sort(gain, -1), last, -1)
  steps = jnp.where(promising & (gain <= bar), jnp.where(up < down, 1.0, -1.0), 0.0)
  begun = jnp.abs(steps).sum(-1)
  return state._replace(steps=steps, begun=begun, left=begun, round=jnp.int32(0))


def _foreseen(point: _Point, step: int) -> Array:
  """Returns the change f32[h, w, C] of the cost by a step of one symbol, without the curvature."""
  return (point.more if step > 0 else point.less) + _of_others(point, point.q, step)


def _of_others(point: _Point, q: Array, step: Array | int) -> Array:
  """Returns the change f32[h, w, C] of all but the bits of a symbol by its step, of first order."""
  return step * point.slopes + (jnp.abs(q + step) - jnp.abs(q)) * point.by_size


def _contributions(before: _Point, after: _Point, steps: Array) -> Array:
  """Returns the share f32[h, w, C] of each step in the change of the cost by all of them."""
  own = jnp.where(steps > 0, before.more - after.less, before.less - after.more)
  twice = own + _of_others(before, before.q, steps) + _of_others(after, before.q, steps)
  return jnp.where(steps == 0, 0, twice / 2)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evaluated(rate: Rate, synthesise: Synthesis, given: Given, q: Array) -> _Point:
  """Returns the costs of symbols and their derivatives."""
  pixels = _pixels(given)

  def bits(q_seen: Array, magnitudes: Array) -> tuple[Array, list[Array]]:
    price = rate(given.seen, q_seen, magnitudes)
    now = price(q)
    return now.sum(), [now, price(q + 1) - now, price(q - 1) - now]

  by, (now, more, less) = jax.grad(bits, (0, 1), has_aux=True)(q, jnp.abs(q))
  errors, pull = jax.vjp(lambda q: _errors(synthesise, given, q), q)
  (slope,) = pull(jnp.ones_like(errors))
  costs = now.sum(-1) / pixels + errors
  return _Point(q, costs, more / pixels, less / pixels, by[0] / pixels + slope, by[1] / pixels)


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


def curvature(synthesise: Synthesis, given: Given, q: Array, key: Key) -> Array:
  """Returns the second-order change f32[C] of lambda * MSE by a step of 1 in each channel.

  It is the diagonal of J^T J, averaged over cells, estimated by the squares of J^T v for random
  signs v (after M. F. Hutchinson, Communications in Statistics 18(3), 1989).
  """
  count = -(-_PROBES // (q.shape[0] * q.shape[1]))
  # A loop of Python: on CPUs, convolutions in a loop of XLA take three times as long.
  probes = [_probe(synthesise, given, q, key) for key in jax.random.split(key, count)]
  return sum(probes[1:], probes[0]) * (given.lmbda / (3 * _pixels(given) * count))


@functools.partial(jax.jit, static_argnums=0)
def _probe(synthesise: Synthesis, given: Given, q: Array, key: Key) -> Array:
  """Returns the mean f32[C] over cells of the squares of J^T v for random signs v."""
  picture, pull = jax.vjp(lambda q: _picture(synthesise, given, q), q)
  (pulled,) = pull(jax.random.rademacher(key, picture.shape, picture.dtype))
  return (pulled**2).mean((0, 1))


def _around(values: Array) -> Array:
  """Returns the sum f32[h, w] of values over each cell and the eight around it."""
  return jax.lax.reduce_window(values, 0.0, jax.lax.add, (3, 3), (1, 1), 'SAME')


def _pixels(given: Given) -> int:
  height, width = given.image.shape[:2]
  return height * width
