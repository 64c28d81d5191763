"""The channel context of gmm: what sees what, and that floats and integers agree."""

import contextlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax import codec as levels
from compress_jax import coder
from compress_jax.codec import CodecError, Latents
from compress_jax.exact import checkerboard, floats
from compress_jax.methods.gmm import channels as networks
from compress_jax.methods.gmm import channels_coding as coding
from compress_jax.methods.gmm import channels_export, serial_coding
from compress_jax.methods.gmm import codec as gmm
from tests.helpers import small_models
from tests.helpers.codings import tiny

GROUPS = (2, 1, 3)


@pytest.mark.parametrize('height,width', [(1, 1), (1, 6), (5, 4), (3, 7)])
def test_the_two_passes_share_the_positions(height, width):
  first, second = checkerboard.passes(height, width)
  assert sorted([*first, *second]) == list(range(height * width))
  assert all(sum(divmod(place, width)) % 2 == 0 for place in first)
  board = np.zeros(height * width)
  board[first] = 1
  np.testing.assert_array_equal(networks.anchors(height, width).ravel(), board)


@pytest.mark.parametrize('taps', [checkerboard.WINDOW, checkerboard.ANCHORS])
def test_neighbours_are_gathered_by_their_offsets_with_zeros_beyond(taps):
  y = np.random.default_rng(0).normal(size=(4, 5, 3))
  border = checkerboard.padded(4, 5, 3)
  checkerboard.inner(border)[:] = y
  at = np.array([0, 7, 19])
  found = checkerboard.gather(border, at, taps).reshape(3, len(taps), 3)
  for i, place in enumerate(at):
    for j, (dr, dc) in enumerate(taps):
      row, column = place // 5 + dr, place % 5 + dc
      inside = 0 <= row < 4 and 0 <= column < 5
      np.testing.assert_array_equal(found[i, j], y[row, column] if inside else np.zeros(3))


def random_context(seed=0, two_passes=None):
  """A context with random weights, and its parameters."""
  context = networks.ChannelContext(GROUPS, 2, (8, 8), 0.01, two_passes)
  features, y = jnp.zeros((1, 6, 7, 4)), jnp.zeros((1, 6, 7, sum(GROUPS)))
  params = context.init(jax.random.key(seed), features, [y, y])['params']
  rng = np.random.default_rng(seed)
  return context, jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)


@pytest.mark.parametrize('group', range(len(GROUPS)))
@pytest.mark.parametrize('second', [False, True])
def test_predictions_depend_on_what_is_coded_before_them_alone(group, second):
  context, params = random_context()
  rng = np.random.default_rng(1)
  features = jnp.asarray(rng.normal(size=(1, 6, 7, 4)), jnp.float32)
  y = rng.normal(size=(1, 6, 7, sum(GROUPS))).astype(np.float32)
  start = sum(GROUPS[:group])
  span = slice(start, start + GROUPS[group])
  odd = np.indices((6, 7)).sum(0) % 2 == 1
  step = np.where(odd, second, not second).astype(bool)
  other = y.copy()  # All that is not known yet at this step is different.
  other[..., span][:, odd if second else np.ones_like(odd)] += 5
  other[..., span.stop :] += 5

  def run(y):
    return context.apply({'params': params}, features, [jnp.asarray(y), jnp.abs(y)])

  before, after = (np.asarray(run(values))[0, ..., span] for values in (y, other))
  np.testing.assert_allclose(after[step], before[step], rtol=1e-5, atol=1e-4)
  if second:  # The anchors around do count.
    moved = y.copy()
    moved[..., span][:, ~odd] += 5
    assert np.abs(np.asarray(run(moved))[0, ..., span][step] - before[step]).min() > 1e-3


def test_groups_of_one_pass_see_the_groups_before_alone():
  context, params = random_context(two_passes=1)
  assert [k for k in params if 'anchors' in params[k]] == ['group0']
  _, full = random_context()
  shapes = jax.tree.map(np.shape, networks.with_passes(full, 1))
  assert shapes == jax.tree.map(np.shape, params)
  y = np.random.default_rng(1).normal(size=(1, 6, 7, sum(GROUPS))).astype(np.float32)
  features = jnp.ones((1, 6, 7, 4))
  other = y.copy()
  other[..., 2:] += 5

  def run(y):
    return context.apply({'params': params}, features, [jnp.asarray(y), jnp.abs(y)])

  np.testing.assert_array_equal(run(other)[..., 2:3], run(y)[..., 2:3])
  assert np.abs(run(other)[..., 3:] - run(y)[..., 3:]).min() > 1e-3


@pytest.mark.parametrize('two_passes', [None, 1])
def test_layers_of_groups_come_back(two_passes):
  _, params = random_context(two_passes=two_passes)
  layers = channels_export.group_layers(params, 0.01)
  again = channels_export.group_params(layers, 4, 2, 2)
  assert jax.tree.structure(again) == jax.tree.structure(params)
  assert jax.tree.all(jax.tree.map(np.array_equal, again, params))


@pytest.fixture(scope='module')
def model():
  return small_models.load(small_models.CHANNELS)


@pytest.mark.parametrize('lmbda', [0.0018, 0.05])
def test_a_file_costs_what_the_float_model_says(lmbda):
  codec, released = small_models.load(small_models.CHANNELS, lmbda)
  params = jax.tree.map(jnp.asarray, codec.thaw(released))
  apply = jax.jit(lambda params, x, level: codec.apply(params, x, level, None))
  for image in small_models.strips()[:2]:
    file = codec.encode(released, image)
    bits = apply(params, image[None] / 255, jnp.array([levels.level_of(lmbda)])).bits
    expected = sum(float(value[0]) for value in bits.values()) / 8
    assert abs(len(file) - expected) < 0.01 * expected + 64


@pytest.mark.parametrize('shape', [(1, 1), (16, 16), (17, 90), (90, 33)])
def test_latents_of_any_grid_come_back(model, shape):
  codec, released = model
  image = small_models.photographs()['chelsea'][: shape[0], : shape[1]]
  file = codec.encode(released, image)
  expected, found = codec.quantise(released, image), codec.latents(released, file)
  np.testing.assert_array_equal(found.q, expected.q)
  np.testing.assert_array_equal(found.z, expected.z)
  assert codec.decode(released, file).shape == image.shape


@pytest.mark.parametrize('run', [1, 5, 10**6])
def test_steps_of_any_length_decode_to_the_same_latents(model, run, monkeypatch):
  codec, released = model
  image = small_models.strips()[0]
  expected = codec.quantise(released, image)
  monkeypatch.setattr(coding, 'RUN', run)
  found = codec.latents(released, codec.encode(released, image))
  np.testing.assert_array_equal(found.q, expected.q)


@pytest.mark.parametrize('views', [1, 2])
def test_channels_that_are_zero_everywhere_are_left_out_without_effect(views):
  rng = np.random.default_rng(0)
  border = checkerboard.padded(4, 5, 6)
  checkerboard.inner(border)[..., [1, 2, 5]] = rng.integers(-9, 9, (4, 5, 3))
  weight = rng.integers(-99, 99, (len(checkerboard.WINDOW) * views * 6, 7)).astype(np.float64)
  at = np.arange(20)
  (part,) = coding._parts(border, checkerboard.WINDOW, weight, views)
  assert part.border.shape[2] == views * 3
  whole = checkerboard.gather(serial_coding.seen(border, views), at, checkerboard.WINDOW)
  near = checkerboard.gather(part.border, at, checkerboard.WINDOW)
  np.testing.assert_array_equal(near @ part.weight, whole @ weight)


@pytest.mark.parametrize(
  'largest,kinds',
  [(9, ['f4']), (1000, ['f4'] * 2), (2000, ['f4'] * 5), (2**19, ['f8'])],
)
def test_inputs_of_small_weights_are_divided_into_parts_that_are_exact_in_float32(largest, kinds):
  rng = np.random.default_rng(0)
  border = checkerboard.padded(4, 5, 6)
  checkerboard.inner(border)[:] = largest
  weight = rng.choice([-511, 511], (len(checkerboard.WINDOW) * 6, 7)).astype(np.float32)
  parts = coding._parts(border, checkerboard.WINDOW, weight)
  assert [part.border.dtype.str[1:] for part in parts] == kinds
  assert sum((part.taps for part in parts), ()) == checkerboard.WINDOW  # Their bounds are equal.
  assert all(part.weight.dtype == part.border.dtype for part in parts)
  at = np.arange(20)
  products = [checkerboard.gather(part.border, at, part.taps) @ part.weight for part in parts]
  whole = checkerboard.gather(border, at, checkerboard.WINDOW) @ weight.astype(np.float64)
  np.testing.assert_array_equal(sum(part.astype(np.float64) for part in products), whole)


@pytest.mark.parametrize('symbols,kinds', [(0, {'f4'}), (30, {'f4'}), (30000, {'f4', 'f8'})])
def test_files_do_not_depend_on_the_type_of_products(symbols, kinds, monkeypatch):
  held, _ = tiny('gmm by channels')
  wide = lambda network: tuple(x._replace(weight=x.weight.astype(float)) for x in network)  # noqa: E731
  slow = held._replace(hyper=wide(held.hyper), groups=tuple(map(wide, held.groups)))
  assert all(
    layer.weight.dtype == np.float32 for layer in itertools.chain(*held.groups, held.hyper)
  )
  rng = np.random.default_rng(symbols)
  grids = (9, 11, 4), (3, 3, 3)
  latents = Latents(*(rng.integers(-symbols, symbols + 1, grid) for grid in grids))
  parts, make, files = [], coding._parts, []
  monkeypatch.setattr(coding, '_parts', lambda *given: [parts.append(make(*given)), parts[-1]][1])
  for one in (slow, held):
    parts.clear()
    writer = coder.Writer()
    coding.write(one, writer, latents, 200)
    files.append(writer.finish())
  assert {part.weight.dtype.str[1:] for part in itertools.chain(*parts)} == kinds
  assert files[0] == files[1]


def test_steps_are_of_2048_positions_at_most():
  sizes = [len(at) for part in checkerboard.passes(64, 65) for at in coding._steps(part)]
  assert sizes == [2048, 32, 2048, 32]


def test_tall_images_are_not_turned(model):
  codec, released = model
  image = small_models.photographs()['chelsea'][:64, :32]
  assert codec.latents(released, codec.encode(released, image)).q.shape[:2] == (4, 2)


@pytest.mark.parametrize('part', ['hyper', 'groups', 'rates'])
def test_a_change_of_any_part_is_noticed(model, part):
  codec, released = model
  file = codec.encode(released, small_models.strips()[0])
  latents = codec.latents(released, file)
  held = released.coding
  if part == 'rates':
    wrong = held.rates._replace(offset=held.rates.offset[::-1])
  else:
    network = getattr(held, part) if part == 'hyper' else held.groups[-1]
    shifted = (*network[:-1], network[-1]._replace(shift=network[-1].shift + 1))
    wrong = shifted if part == 'hyper' else (*held.groups[:-1], shifted)
  changed = released._replace(coding=held._replace(**{part: wrong}))
  with contextlib.suppress(CodecError):  # It may be noticed sooner.
    assert small_models.digest(codec.latents(changed, file)) != small_models.digest(latents)


@pytest.mark.parametrize(
  'change',
  [
    lambda held: held._replace(groups=held.groups[:-1]),
    lambda held: held._replace(groups=held.groups[::-1]),
    lambda held: held._replace(views=1),
    lambda held: held._replace(layout=2),
    lambda held: held._replace(latent_limit=0),
    lambda held: held._replace(latent_limit=2**19),
    lambda held: held._replace(hyper=(*held.hyper[:-1], held.hyper[-1]._replace(limit=2**24))),
    lambda held: held._replace(hyper=held.hyper[:-1]),
  ],
)
def test_parts_that_do_not_fit_together_are_refused(model, change):
  held = model[1].coding
  coding.check(held)
  with pytest.raises(CodecError, match='do not fit together'):
    coding.check(change(held))


def test_thawed_networks_are_those_that_were_exported(model):
  held = model[1].coding
  thawed = channels_export.thawed(held)
  again = channels_export.make(
    thawed,
    held.rates,
    held.prior,
    held.mixtures,
    held.views,
    [(np.random.default_rng(0).normal(0, 3, (8, 8, 12)).astype(np.float32), np.zeros((2, 2, 8)))],
  )
  for one, other in zip(held.groups, again.groups, strict=True):
    for before, after in zip(one, other, strict=True):
      assert before.weight.shape == after.weight.shape
  assert floats.rates_of(floats.log_gains_of(held.rates, 6)).gain.shape == held.rates.gain.shape


@pytest.mark.parametrize(
  'options',
  [
    {'two_passes': 1},
    {'context': 'channels', 'two_passes': 2},
    {'context': 'channels', 'two_passes': -1},
  ],
)
def test_more_groups_of_two_passes_than_there_are_is_refused(options):
  with pytest.raises(CodecError, match=r'two_passes=-?[12] needs'):
    gmm.codec(**options)


def test_an_unknown_context_is_refused():
  with pytest.raises(CodecError, match="context='ring' is not one of serial, channels"):
    gmm.codec(context='ring')
