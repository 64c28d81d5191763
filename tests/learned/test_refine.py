"""Refined latents cost less, and the decoder is none the wiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from compress_jax import bitstream
from compress_jax.cli import command, comparison, main
from compress_jax.codec import CodecError, level_of
from compress_jax.learned import codec as learned
from compress_jax.learned import refine
from compress_jax.model_zoo import pretrained
from tests.helpers import small_models
from tests.helpers.slow import but_for

LAMBDA = 0.013


def load(name, passes, lmbda=LAMBDA):
  """A small model, or the gmm that ships, which has the channel context and sees magnitudes."""
  if name == 'shipped':
    return pretrained('gmm', lmbda=lmbda, refine=passes)
  method = 'gmm' if name == 'channels' else name
  return pretrained(method, lmbda=lmbda, model=small_models.path(name), refine=passes)


def image(height=64, width=96):
  return small_models.strips()[0][:height, :width]


def cost(file, decoded, original):
  error = np.mean((decoded.astype(float) - original) ** 2)
  return 8 * len(file) / original[..., 0].size + LAMBDA * error


@pytest.mark.parametrize(
  'name', but_for(['cae', 'gan', 'gmm', 'channels', 'shipped'], 'cae', 'gan', 'gmm', 'channels')
)
def test_the_bits_that_refinement_counts_are_those_of_the_file(name, monkeypatch):
  codec, released = load(name, 1)
  counted = []

  def observed(rate, synthesise, given, q, passes, progress=None):
    symbols = jnp.asarray(q, jnp.float32)
    counted.append(float(rate(given.seen, symbols, jnp.abs(symbols))(symbols).sum()))
    return q

  monkeypatch.setattr(learned, 'refined', observed)
  file = codec.encode(released, small_models.strips()[0])
  assert 8 * codec.split(released, file)['y'] == pytest.approx(counted[0], rel=0.01, abs=64)


SHAPES = [('cae', (61, 43)), ('gan', (64, 96)), ('gmm', (64, 96)), ('channels', (90, 61))]


@pytest.mark.parametrize('name,shape', but_for(SHAPES, SHAPES[0]))
def test_refined_files_cost_less_and_decode_as_all_others(name, shape):
  x = image(*shape)
  plain, released = load(name, 0)
  coarser, refined = load(name, 0, 0.8 * LAMBDA)[0], load(name, 6)[0]
  files = [codec.encode(released, x) for codec in (plain, coarser, refined)]
  *before, after = (cost(file, plain.decode(released, file), x) for file in files)
  assert after < 0.99 * min(before)
  assert bitstream.unpack(files[2])[0].level == level_of(0.8 * LAMBDA)
  told = []
  again = refined.encode_all(released, [x], progress=lambda *at: told.append(at))
  assert again == [files[2]]  # Nothing about it is random.
  assert told == [('analysis', 1, 1), *(('refinement', i, 6) for i in range(1, 7))]
  refined.decode_all(released, again, progress=lambda *at: told.append(at))
  assert told[7:] == [('synthesis', 1, 1)]
  latents = refined.latents(released, files[2])
  np.testing.assert_array_equal(latents.q, refined.quantise(released, x).q)


def test_images_that_are_too_large_are_refused(monkeypatch):
  monkeypatch.setattr(refine, 'LARGEST', 64 * 96 - 1)
  codec, released = load('cae', 1)
  with pytest.raises(CodecError, match='images of up to 6,143 pixels, not 96x64'):
    codec.encode(released, image())


# Of a decoder that one knows: symbols times sizes of four orthogonal patterns, in cells of 4 x 4.

SIZES = np.array([0.3, 0.1, 0.05, 0.02], np.float32)


def plain(decoder, y_hat):
  patterns = jnp.asarray([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
  rows, columns = y_hat.shape[1:3]
  pixels = (y_hat * decoder) @ patterns  # One value for each 2 x 2 pixels.
  cells = jnp.broadcast_to(
    pixels.reshape(rows, columns, 2, 1, 2, 1, 1), (rows, columns, *4 * (2,), 3)
  )
  return 0.5 + cells.transpose(0, 2, 3, 1, 4, 5, 6).reshape(1, 4 * rows, 4 * columns, 3)


def given_of(q, lmbda, noise=8):
  """An image whose best symbols are near q."""
  unit, mean = jnp.ones(q.shape[-1]), jnp.zeros(q.shape)
  added = np.random.default_rng(1).normal(0, noise, (4 * q.shape[0], 4 * q.shape[1], 3))
  x = 255 * np.asarray(plain(SIZES, jnp.asarray(q, jnp.float32)[None]))[0] + added
  image = jnp.asarray(np.clip(np.rint(x), 0, 255).astype(np.uint8))
  return refine.Given(jnp.asarray(SIZES), (), unit, mean, image, jnp.float32(lmbda))


def alone(known, seen, sizes):
  """Each symbol for itself: a bit, and two more for each step from zero."""
  return lambda q: 1 + 2 * jnp.abs(q)


def in_company(known, seen, sizes):
  """Symbols beside zeros of the cell to the left are dear, and so are zeros beside others."""
  left = jnp.pad(sizes, ((0, 0), (1, 0), (0, 0)))[:, :-1].sum(-1, keepdims=True)
  return lambda q: jnp.abs(q) * 4 / (1 + left) + 0.5 * left * jnp.exp(-(q**2))


def total(rate, given, q):
  bits = rate(given.seen, q, jnp.abs(q))(q).sum() / given.image[..., 0].size
  x_hat = 255 * jnp.clip(plain(given.decoder, q[None])[0], 0, 1)
  return float(bits + given.lmbda * jnp.mean((given.image - x_hat) ** 2))


@pytest.mark.parametrize('lmbda', [0.0005, 0.01])
def test_symbols_for_themselves_reach_the_best_there_is(lmbda):
  q = np.random.default_rng(0).integers(-1, 2, (3, 4, 4))
  given = given_of(q, lmbda)
  found = refine.refine(alone, plain, given, q, 30)
  least = total(alone, given, jnp.asarray(found, jnp.float32))
  for place in np.ndindex(*q.shape):  # No other symbol anywhere would be cheaper.
    for other in range(-3, 4):
      changed = found.copy()
      changed[place] = other
      assert total(alone, given, jnp.asarray(changed, jnp.float32)) >= least * (1 - 1e-5), place
  told = []
  again = refine.refine(alone, plain, given, found, 5, lambda *at: told.append(at))
  assert told == [(i, 5) for i in range(1, 6)]
  np.testing.assert_array_equal(again, found)


@pytest.mark.parametrize('passes', [1, 3, 10])
def test_a_pass_never_costs_more_where_symbols_price_each_other(passes):
  q = np.random.default_rng(0).integers(-2, 3, (4, 5, 4))
  given = given_of(q, 0.002)
  cost = lambda q: total(in_company, given, jnp.asarray(q, jnp.float32))  # noqa: E731
  found = [cost(refine.refine(in_company, plain, given, q, n)) for n in (0, passes)]
  assert found[0] == cost(q)
  assert found[1] < (0.95 if passes > 1 else 0.99) * found[0]


def at_a_distance(known, seen, sizes):
  """Symbols that are not zero are dear four cells to the right, which no gradient tells."""
  dear = jnp.roll((sizes > 0).any(-1, keepdims=True), 4, 1)
  return lambda q: 0 * q + 100 * dear


@pytest.mark.parametrize('passes', [1, 2, 10])
def test_what_costs_more_elsewhere_is_taken_back(passes):
  q = np.zeros((3, 8, 4), int)
  target = q.copy()
  target[1, 2] = 1
  given = given_of(target, 0.002, noise=0)  # One cell that would move, and gain by it.
  np.testing.assert_array_equal(refine.refine(at_a_distance, plain, given, q, passes), q)


def linear(known, seen, sizes):
  """Bits that are linear in the symbols and magnitudes beside them."""
  return lambda q: jnp.abs(q) + 0.3 * jnp.roll(seen, 1, 1) - 0.2 * jnp.roll(sizes, 1, 0)


def test_slopes_are_what_single_steps_add():
  q = jnp.asarray(np.random.default_rng(0).integers(-1, 2, (2, 3, 4)), jnp.float32)
  given = given_of(q, 0.01)
  bend = 0.01 * (255 * SIZES / 2) ** 2 * 16 / given.image[..., 0].size
  point = refine._evaluated(linear, plain, given, q)
  up, down = (refine._foreseen(point, step) + bend for step in (1, -1))
  now = total(linear, given, q)
  assert float(point.costs.sum()) == pytest.approx(now, rel=1e-5)
  for place in np.ndindex(*q.shape):
    assert total(linear, given, q.at[place].add(1)) - now == pytest.approx(
      float(up[place]), abs=1e-4
    )
    assert total(linear, given, q.at[place].add(-1)) - now == pytest.approx(
      float(down[place]), abs=1e-4
    )


def test_contributions_of_steps_add_up_to_the_change_of_the_cost():
  rng = np.random.default_rng(0)
  q = jnp.asarray(rng.integers(-1, 2, (4, 5, 4)), jnp.float32)
  steps = jnp.asarray(rng.integers(-1, 2, q.shape), jnp.float32)
  # Bits that are linear but for magnitudes, whose sign no step changes.
  steps = jnp.where(q == 0, jnp.abs(steps), jnp.where(jnp.abs(q + steps) > 0, steps, 0))
  given = given_of(q, 0.01)
  before, after = (refine._evaluated(linear, plain, given, x) for x in (q, q + steps))
  found = refine._contributions(before, after, steps)
  change = float(after.costs.sum() - before.costs.sum())
  assert (found[steps == 0] == 0).all()
  assert abs(change) > 0.1
  assert float(found.sum()) == pytest.approx(change, rel=0.02)


def test_errors_are_those_of_the_pixels_that_the_image_has():
  q = np.random.default_rng(0).integers(-1, 2, (3, 4, 4))
  given = given_of(q, 0.01)
  given = given._replace(image=given.image[:9, :14])
  found = refine._errors(plain, given, jnp.asarray(q, jnp.float32))
  x_hat = 255 * plain(SIZES, jnp.asarray(q, jnp.float32)[None])[0, :9, :14]
  assert found.shape == (3, 4)
  assert float(found.sum()) == pytest.approx(
    float(0.01 * jnp.mean((given.image - x_hat) ** 2)), rel=1e-5
  )


def test_curvature_is_that_of_the_pictures_of_single_symbols():
  q = np.zeros((8, 8, 4))
  given = given_of(q, 0.01)
  found = refine.curvature(plain, given, jnp.zeros(q.shape), jax.random.key(0))
  # 16 pixels of 3 colours, each moved by half a pattern's size; errors are means over the image.
  expected = 0.01 * 16 * 3 * (255 * SIZES / 2) ** 2 / (3 * 32 * 32)
  np.testing.assert_allclose(found, expected, rtol=0.05)


def parsed(*arguments):
  return command.parse(main.define_flags(), '', ['run.py', *arguments])


def test_the_flag_is_an_option_of_learned_methods():
  assert command.options(parsed('--method=gmm', '--refine=7')) == {'refine': 7}
  assert command.options(parsed('--method=gmm')) == {}
  with pytest.raises(flags.Error, match='--refine is for cae, gan and gmm'):
    command.options(parsed('--method=kmeans', '--refine=7'))


def test_refined_methods_are_compared_when_they_are_named():
  (recipe,) = comparison.compared(['gmm-refined'], [LAMBDA], {}, 0)
  assert (recipe.method, recipe.codec) == ('gmm', 'gmm-refined')
  assert dict(recipe.options) == {'refine': 10}


@pytest.mark.parametrize('passes', [-1, 2.5, True, '3', None])
def test_passes_are_a_whole_number(passes):
  with pytest.raises(CodecError, match=f'refine={passes} must be a whole number of passes'):
    pretrained('cae', refine=passes)


def test_thawed_parameters_may_be_donated():
  codec, released = load('cae', 0)
  params = codec.thaw(released)
  expected = jax.tree.map(np.asarray, params)
  jax.tree.map(lambda value: value.delete(), params)
  jax.tree.map(
    np.testing.assert_array_equal, jax.tree.map(np.asarray, codec.thaw(released)), expected
  )
