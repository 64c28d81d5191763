"""Mixture tables are exact, close to the mixture they stand for, and code what they should."""

import contextlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from compress_jax import coder
from compress_jax.codec import CodecError
from compress_jax.exact import escapes, mixture, static, tables
from compress_jax.exact.mixture import SIZES, Mixture

LAYOUTS = pytest.mark.parametrize(
  'layout', [mixture.SYMBOLS, mixture.BINS], ids=['symbols', 'bins']
)
SIGMAS = 0.11 * 2.0 ** (np.arange(180) / 16)


def random_mixture(rng, n, k, *, top=180):
  """Components of unlike scales, means a few of them apart, weights over all of EXP."""
  index = rng.integers(0, top, (n, k))
  mean = np.rint(256 * (rng.normal(0, 30, (n, 1)) + rng.normal(0, 1, (n, k)) * SIGMAS[index]))
  weight = tables.EXP[np.minimum(rng.exponential(150, (n, k)), 1024).astype(int)]
  weight[:, 0] = 2**15
  return Mixture(mean, index, weight)


def every_pair():
  """One Gaussian of every scale at every fraction of a symbol."""
  index, mean = np.meshgrid(np.arange(180), np.arange(256), indexing='ij')
  n = index.size
  return Mixture(mean.reshape(n, 1).astype(float), index.reshape(n, 1), np.full((n, 1), 2.0**15))


def draw(rng, model):
  """i64[n]: a symbol of each mixture."""
  share = model.weight.cumsum(1) / model.weight.sum(1, keepdims=True)
  chosen = (share > rng.random((len(share), 1))).argmax(1)[:, None]
  mean = np.take_along_axis(model.mean, chosen, 1)[:, 0] / 256
  sigma = SIGMAS[np.take_along_axis(model.index, chosen, 1)[:, 0].astype(int)]
  return np.rint(rng.normal(mean, sigma)).astype(np.int64)


def tables_of(model):
  """Yields the members, first symbols and tables of every size of window."""
  low, size_class = mixture.windows(model)
  for i in np.unique(size_class):
    members = np.flatnonzero(size_class == i)
    for part in np.array_split(members, max(len(members) * SIZES[i] // 2**20, 1)):
      rows = mixture.counts(select(model, part), low[part], SIZES[i])
      yield part, low[part], rows


def select(model, rows):
  return Mixture(*(field[rows] for field in model))


def expected_counts(one, low, size):
  """The definition in Python's integers, for one mixture."""

  def mass(edge):
    total = 0
    for m, i, w in zip(*one, strict=True):
      place = ((edge - int(m)) * int(tables.INV[int(i)]) + 2**15 >> 16) + 32768
      total += int(w) * int(tables.PHI[min(max(place, 0), 65536)])
    return total

  masses = [mass(256 * (low + i) - 128) for i in range(size)]
  total = 2**24 * int(sum(one.weight))
  counts = [b - a for a, b in itertools.pairwise(masses)]
  counts.append(total - sum(counts))
  return [count + total // (2**14 * size) + 1 for count in counts]


def check_counts(model):
  """Tables are positive, sum to the mixture's mass, and are the float mixture's."""
  for part, low, rows in tables_of(model):
    size = rows.shape[1]
    total = 2.0**24 * model.weight[part].sum(1)
    floor = np.floor(total / 2**14 / size) + 1
    assert (rows > 0).all()
    np.testing.assert_array_equal(rows.sum(1), total + size * floor)
    edges = low[:, None] + np.arange(size) - 0.5
    share = model.weight[part] / model.weight[part].sum(1, keepdims=True)
    cdf = np.zeros(edges.shape)
    for k in range(share.shape[1]):
      sigma = SIGMAS[model.index[part, k].astype(int)][:, None]
      cdf += share[:, k, None] * special.ndtr((edges - model.mean[part, k, None] / 256) / sigma)
    found = (rows[:, :-1] - floor[:, None]) / total[:, None]
    # Places in PHI are rounded to 2^-13 sigma, INV to 2^-13 of itself; the density is below 0.4.
    np.testing.assert_allclose(found, np.diff(cdf), rtol=0, atol=2 * 0.4 * 2.0**-12)


def check_codes(model, symbols, layout=mixture.SYMBOLS):
  """Symbols come back, at the ideal length."""
  writer = coder.Writer()
  mixture.write(writer, model, symbols, layout)
  data = writer.finish()
  reader = coder.Reader(data)
  np.testing.assert_array_equal(mixture.read(reader, model, layout), symbols)
  reader.finish()
  assert abs(8 * len(data) - reader.bits) <= 5e-4 * reader.bits + 32


@pytest.mark.parametrize('k', [1, 3, 6])
def test_counts_are_those_of_the_definition(k):
  rng = np.random.default_rng(k)
  model = random_mixture(rng, 400, k)
  for part, low, rows in tables_of(model):
    for i in range(0, len(part), 1 + rows.size // 4000):
      expected = expected_counts(select(model, part[i]), int(low[i]), rows.shape[1])
      np.testing.assert_array_equal(rows[i], expected)


def test_counts_of_every_scale_and_fraction():
  check_counts(every_pair())


@pytest.mark.parametrize('k', [3, 6])
def test_counts_of_random_mixtures(k):
  check_counts(random_mixture(np.random.default_rng(k), 80_000 if k == 3 else 20_000, k, top=110))


def test_means_at_the_ends_of_the_range():
  rng = np.random.default_rng(4)
  model = random_mixture(rng, 2000, 3)
  far = model._replace(mean=np.where(rng.random((2000, 3)) < 0.5, -1.0, 1.0) * 2**23)
  for _, _, rows in tables_of(far):
    assert (rows > 0).all()
  check_codes(far, rng.integers(-32767, 32768, 2000))


def test_the_cumulative_mass_runs_from_none_to_all():
  model = random_mixture(np.random.default_rng(5), 1000, 3)
  edges = np.sort(np.random.default_rng(6).integers(-(2**20), 2**20, (1000, 50)), 1).astype(float)
  edges[:, 0], edges[:, -1] = -(2.0**24), 2.0**24
  mass = mixture.cumulative(model, edges)
  assert (np.diff(mass, axis=1) >= 0).all()
  np.testing.assert_array_equal(mass[:, 0], 0)
  np.testing.assert_array_equal(mass[:, -1], 2.0**24 * model.weight.sum(1))


def test_jax_computes_the_same_integers():
  model = random_mixture(np.random.default_rng(7), 500, 3)
  low = mixture.windows(model)[0]
  edges = np.random.default_rng(8).integers(-(2**14), 2**14, (500, 9)).astype(float)
  with jax.enable_x64(True):
    counts = jax.jit(lambda m, at: mixture.counts(m, at, 32, jnp))(model, low)
    mass = jax.jit(lambda m, at: mixture.cumulative(m, at, jnp))(model, edges)
    np.testing.assert_array_equal(counts, mixture.counts(model, low, 32))
    np.testing.assert_array_equal(mass, mixture.cumulative(model, edges))


def test_windows_hold_four_sigma_of_every_component():
  model = random_mixture(np.random.default_rng(9), 20_000, 3, top=170)
  matters = model.weight * 4096 >= model.weight.max(1, keepdims=True)
  low, size_class = mixture.windows(model)
  size = np.array(SIZES)[size_class]
  reach = np.rint(4 * 256 * SIGMAS)[model.index]
  first = np.where(matters, np.floor((model.mean - reach) / 256 + 0.5), np.inf).min(1)
  last = np.where(matters, np.floor((model.mean + reach) / 256 + 0.5), -np.inf).max(1)
  wide = last - first + 1 > SIZES[-1] - 1
  assert (wide | ((low <= first) & (low + size - 2 >= last))).all()
  assert (size[wide] == SIZES[-1]).all()
  # No smaller size would do, and the window is centred.
  assert ((size == SIZES[0]) | (last - first + 1 > size // 2 - 1)).all()
  assert (np.abs((first + last) / 2 - (low + (size - 2) / 2)) <= 0.5).all()


def test_negligible_components_do_not_widen_windows():
  one = Mixture(np.zeros((1, 1)), np.array([[40]]), np.array([[2.0**15]]))
  two = Mixture(np.array([[0.0, 9e5]]), np.array([[40, 170]]), np.array([[2.0**15, 7.0]]))
  assert mixture.windows(one) == mixture.windows(two)


@LAYOUTS
def test_every_symbol_of_a_window_comes_back(layout):
  for index in range(0, 180, 3):
    one = Mixture(np.array([[77.0]]), np.array([[index]]), np.array([[2.0**15]]))
    low, shape = mixture.windows(one, layout)
    symbols = low[0] + np.arange(-2, (layout.bins * layout.width)[shape[0]] + 2)
    symbols = np.concatenate([symbols[:4], symbols[4:-4:17], symbols[-4:], [-32767, 32767]])
    check_codes(select(one, np.zeros(len(symbols), int)), symbols, layout)


@LAYOUTS
def test_symbols_of_every_scale_and_fraction_come_back(layout):
  model = every_pair()
  model = select(model, np.random.default_rng(10).permutation(len(model.mean))[:15_000])
  check_codes(model, draw(np.random.default_rng(11), model), layout)


@LAYOUTS
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 200), st.sampled_from([1, 3, 6]))
def test_any_symbols_come_back(layout, seed, n, k):
  rng = np.random.default_rng(seed)
  model = random_mixture(rng, n, k)
  symbols = np.where(rng.random(n) < 0.9, draw(rng, model), rng.integers(-32767, 32768, n))
  writer = coder.Writer()
  mixture.write(writer, model, symbols, layout)
  reader = coder.Reader(writer.finish())
  np.testing.assert_array_equal(mixture.read(reader, model, layout), symbols)
  reader.finish()


@LAYOUTS
def test_the_length_is_that_of_the_mixture(layout):
  """Measured against scipy's float mixture, escapes and all."""
  rng = np.random.default_rng(12)
  model = random_mixture(rng, 40_000, 3, top=100)
  model = model._replace(index=np.maximum(model.index, 14))  # sigma 0.2 .. 8
  symbols = draw(rng, model)
  probability = np.zeros(len(symbols))
  share = model.weight / model.weight.sum(1, keepdims=True)
  for k in range(3):
    distance = symbols[:, None] - model.mean[:, k : k + 1] / 256 + [-0.5, 0.5]
    sigma = SIGMAS[model.index[:, k]][:, None]
    probability += share[:, k] * np.diff(special.ndtr(distance / sigma))[:, 0]
  writer = coder.Writer()
  mixture.write(writer, model, symbols, layout)
  assert 8 * len(writer.finish()) == pytest.approx(-np.log2(probability).sum(), rel=1e-3)


def excess(index):
  """Expected bits of all fractions of one scale beyond the entropy, and that entropy."""
  model = Mixture(np.arange(256.0)[:, None], np.full((256, 1), index), np.full((256, 1), 2.0**15))
  low, size_class = mixture.windows(model)
  width = int(12 * SIGMAS[index]) + 3
  symbols = np.arange(-width, width + 1)
  edges = np.arange(-width, width + 2) - 0.5 - model.mean / 256
  share = np.diff(special.ndtr(edges / SIGMAS[index]))
  entropy = -special.xlogy(share, share).sum() / np.log(2)
  bits = np.empty(share.shape)
  for row, first in enumerate(low):
    table = mixture.counts(select(model, [row]), low[row : row + 1], SIZES[size_class[row]])[0]
    places = symbols - first
    entries = escapes.entries(places, len(table))
    bits[row] = coder.ideal_bits(entries, table)
    outside = entries == len(table) - 1
    distance = np.where(places < 0, -places, places - len(table) + 2)[outside]
    bits[row, outside] += 1 + np.log2(17) + np.floor(np.log2(distance))
  return (share * bits).sum() - entropy, entropy


@pytest.mark.parametrize('index', [14, 20, 30, 40, 60, 80, 100, 120, 147])
def test_tables_cost_next_to_nothing(index):
  """The Kullback-Leibler divergence for sigma 0.2 .. 64, averaged over fractions."""
  more, entropy = excess(index)
  assert 0 < more < 1e-3 * entropy


@LAYOUTS
def test_no_symbol_is_free(layout):
  n = 1_200_000
  certain = Mixture(np.zeros((1, 1)), np.zeros((1, 1), int), np.full((1, 1), 2.0**15))
  writer = coder.Writer()
  mixture.write(writer, select(certain, np.zeros(n, int)), np.zeros(n, np.int64), layout)
  assert 8 * len(writer.finish()) >= mixture.least_bits(n) > 0
  for size in SIZES:  # All of the mass on one symbol.
    total = 2.0**39
    row = np.floor(np.eye(size)[0] * total) + total / 2**14 / size
    assert -np.log2(row[0] / row.sum()) >= mixture.MIN_BITS


def write_each(model, symbols, bounds):
  writer = coder.Writer()
  for start, stop in itertools.pairwise(bounds):
    mixture.write(writer, select(model, slice(start, stop)), symbols[start:stop])
  return writer.finish()


@pytest.mark.parametrize('group', [2**20, 2**12, 1])
@pytest.mark.parametrize('chunk', [2**14, 100])
def test_writing_steps_at_a_time_changes_nothing(group, chunk, monkeypatch):
  rng = np.random.default_rng(13)
  model = random_mixture(rng, 3000, 3, top=130)
  symbols = draw(rng, model)
  symbols[::200] += rng.integers(-3000, 3000, len(symbols[::200]))
  bounds = np.array([0, 1, 1, 30, 31, 500, 700, 701, 1500, 3000])
  expected = write_each(model, symbols, bounds)
  monkeypatch.setattr(mixture, '_GROUP', group)
  monkeypatch.setattr(mixture, '_CHUNK', chunk)
  writer = coder.Writer()
  mixture.write_steps(writer, model, symbols, bounds)
  assert writer.finish() == expected


def test_the_stream_goes_by_size_then_position_then_escapes():
  """Sizes 8, 4, 8, the second symbol outside its window: written by hand."""
  model = Mixture(np.zeros((3, 1)), np.array([[40], [0], [40]]), np.full((3, 1), 2.0**15))
  low, size_class = mixture.windows(model)
  assert list(low) == [-3, -1, -3] and [SIZES[i] for i in size_class] == [8, 4, 8]
  wide = mixture.counts(select(model, [0]), low[:1], 8)
  narrow = mixture.counts(select(model, [1]), low[1:2], 4)
  by_hand = coder.Writer()
  by_hand.put(np.array([3]), narrow)
  by_hand.put(np.array([3 + 2, 3 - 1]), wide[[0, 0]])
  by_hand.put(np.array([1]), np.ones(2))
  by_hand.put_escapes(np.array([500 - 2]), widths=17)
  writer = coder.Writer()
  mixture.write(writer, model, np.array([2, -500, -1]))
  assert writer.finish() == by_hand.finish()


def test_bins_come_before_the_symbols_within_them():
  """Windows of 16, 1, 16 and 3 symbols, one of 16 and the single one missed: written by hand."""
  index = np.array([[64], [0], [64], [20]])
  model = Mixture(np.zeros((4, 1)), index, np.full((4, 1), 2.0**15))
  low, shape = mixture.windows(model, mixture.BINS)
  assert list(low) == [-8, 0, -8, -1] and list(shape) == [3, 0, 3, 1]
  wide, total = select(model, [0]), 2.0**39
  mass = mixture.cumulative(wide, 256.0 * np.arange(-8, 9)[None] - 128)[0]
  bins = np.append(np.diff(mass[::4]), total - (mass[-1] - mass[0]))
  within = np.diff(mass[8:13])
  by_hand = coder.Writer()
  by_hand.put(np.array([1]), np.array([2.0**14 - 1, 1]))
  by_hand.put(np.array([1 + 1]), mixture.counts(select(model, [3]), low[3:], 4))
  by_hand.put(np.array([2, 4]), np.tile(bins + np.floor(total / 2**14 / 5) + 1, (2, 1)))
  by_hand.put(np.array([2]), (within + np.floor(within.sum() / 2**14 / 4) + 1)[None])
  by_hand.put(np.array([1, 0]), np.ones(2))
  by_hand.put_escapes(np.array([5 - 1, 30 - 8]), widths=17)
  writer = coder.Writer()
  mixture.write(writer, model, np.array([2, -5, 30, 1]), mixture.BINS)
  assert writer.finish() == by_hand.finish()


def test_bins_keep_tables_short():
  longest = {}
  for name, layout in {'symbols': mixture.SYMBOLS, 'bins': mixture.BINS}.items():
    np.testing.assert_array_equal(np.sort(layout.bins * layout.width), layout.bins * layout.width)
    writer, lengths = coder.Writer(), []
    put = writer.put
    writer.put = lambda symbols, rows, put=put, lengths=lengths: (
      lengths.append(rows.shape[-1]), put(symbols, rows))  # fmt: skip
    one = Mixture(np.zeros((1, 1)), np.array([[179]]), np.array([[2.0**15]]))
    mixture.write(writer, one, np.array([300]), layout)
    longest[name] = lengths
  assert longest == {'symbols': [2048], 'bins': [65, 32]}


def test_symbols_beyond_the_limit_are_refused(monkeypatch):
  model = every_pair()
  model = select(model, np.arange(2))
  for symbols in ([0, 32768], [-32768, 0]):
    with pytest.raises(CodecError, match='magnitude 32768 exceeds'):
      mixture.write(coder.Writer(), model, np.array(symbols))
    with monkeypatch.context() as patch:
      patch.setattr(escapes, 'LIMIT', 40_000)
      writer = coder.Writer()
      mixture.write(writer, model, np.array(symbols))
    with pytest.raises(CodecError, match='magnitude 32768 exceeds'):
      mixture.read(coder.Reader(writer.finish()), model)


@LAYOUTS
@pytest.mark.parametrize('seed', range(20))
def test_foreign_bytes_are_an_error_or_symbols(seed, layout):
  rng = np.random.default_rng(seed)
  model = random_mixture(rng, 500, 3)
  reader = coder.Reader(rng.bytes(int(rng.integers(1, 900))))
  with contextlib.suppress(CodecError):
    assert np.abs(mixture.read(reader, model, layout)).max() <= 32767


def test_cut_data_is_an_error():
  rng = np.random.default_rng(14)
  model = random_mixture(rng, 500, 3)
  writer = coder.Writer()
  mixture.write(writer, model, draw(rng, model))
  with pytest.raises(CodecError):
    mixture.read(coder.Reader(writer.finish()[:100]), model)


def spoiled(table):
  """A table with some of its entries exchanged."""
  wrong = getattr(tables, table).copy()
  if table == 'PHI':
    wrong[[36000, 36400]] = wrong[[36400, 36000]]
  else:
    wrong[[20, 52]] = wrong[[52, 20]]
  return wrong


@pytest.mark.parametrize('table', ['PHI', 'INV'])
def test_wrong_counts_are_noticed(table, monkeypatch):
  monkeypatch.setattr(tables, table, spoiled(table))
  with pytest.raises(AssertionError):
    check_counts(every_pair())


@pytest.mark.parametrize('table', ['PHI', 'INV', 'REACH'])
def test_a_reader_with_other_tables_reads_other_symbols(table, monkeypatch):
  rng = np.random.default_rng(15)
  model = random_mixture(rng, 50_000, 1, top=60)
  symbols = draw(rng, model)
  writer = coder.Writer()
  mixture.write(writer, model, symbols)
  reader = coder.Reader(writer.finish())
  monkeypatch.setattr(tables, table, spoiled(table))
  with pytest.raises((AssertionError, CodecError)):
    np.testing.assert_array_equal(mixture.read(reader, model), symbols)


def priors(rng, channels, k=6):
  """Zero-mean scale mixtures, some wide and some narrow."""
  index = np.clip(
    rng.integers(0, 150, (channels, 1)) + rng.integers(-20, 30, (channels, k)), 0, 179
  )
  weight = tables.EXP[rng.integers(0, 300, (channels, k))]
  return Mixture(np.zeros((channels, k)), index, weight)


@pytest.mark.parametrize('n', [0, 1, 700])
def test_static_tables_code_what_they_should(n):
  rng = np.random.default_rng(n)
  prior = priors(rng, 24)
  fixed = static.static_of_mixture(prior)
  symbols = np.stack([draw(rng, select(prior, np.full(n, c))) for c in range(24)], 1)
  if n:
    symbols[0, :2] = -32767, 32767
  writer = coder.Writer()
  static.write_static(writer, fixed, symbols)
  data = writer.finish()
  reader = coder.Reader(data)
  np.testing.assert_array_equal(static.read_static(reader, fixed, n), symbols)
  reader.finish()
  assert abs(8 * len(data) - reader.bits) <= 5e-4 * reader.bits + 32


def test_static_windows_leave_few_escapes():
  index = np.array([[0], [60], [120], [179]])
  fixed = static.static_of_mixture(Mixture(np.zeros((4, 1)), index, np.full((4, 1), 2.0**15)))
  assert fixed.counts.shape == (4, 2048)
  escape = fixed.counts[:, -1] / fixed.counts.sum(1)
  assert (escape < 2 * special.ndtr(-3.98) + 2.0**-23 + 2.0**-12 / 2048).all()


def test_static_tables_are_the_mixtures():
  prior = priors(np.random.default_rng(16), 10)
  fixed = static.static_of_mixture(prior)
  low, size_class = mixture.windows(prior)
  size = fixed.counts.shape[1]
  assert size == SIZES[size_class.max()]
  widest = size_class.argmax()
  assert fixed.low[widest] == low[widest]
  own = np.array(SIZES)[size_class]
  assert (fixed.low <= low).all() and (fixed.low + size >= low + own).all()
  np.testing.assert_array_equal(fixed.counts, mixture.counts(prior, fixed.low, size))


def test_a_damaged_static_stream_is_an_error():
  fixed = static.static_of_mixture(priors(np.random.default_rng(17), 8))
  with pytest.raises(CodecError):
    static.read_static(coder.Reader(b'\x12\x34\x56'), fixed, 5000)
