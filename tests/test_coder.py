"""The range coder: what goes in comes out, at the ideal length; damage is noticed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress_jax import coder
from compress_jax.codec import CodecError


def random_tables(rng, n, k):
  return np.floor(rng.random((n, k)) ** 4 * 1e6) + (rng.random((n, k)) < 0.3)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 300), st.integers(2, 70))
def test_decoding_gives_back_the_symbols(seed, n, k):
  rng = np.random.default_rng(seed)
  tables, symbols = random_tables(rng, n, k) + 1, rng.integers(0, k, n)
  writer = coder.Writer()
  writer.put(symbols, tables)
  reader = coder.Reader(writer.finish())
  np.testing.assert_array_equal(reader.get(tables), symbols)
  reader.finish()


def test_length_is_the_ideal_one():
  rng = np.random.default_rng(0)
  tables = random_tables(rng, 20_000, 40) + 1
  symbols = np.array([rng.choice(40, p=row / row.sum()) for row in tables])
  writer = coder.Writer()
  writer.put(symbols, tables)
  data = writer.finish()
  bits = coder.ideal_bits(symbols, tables).sum()
  assert bits / 8 - 1 <= len(data) <= bits / 8 * 1.0005 + 8
  reader = coder.Reader(data)
  reader.get(tables)
  assert reader.bits == pytest.approx(bits)


def test_escapes_and_bits_come_back():
  values = np.arange(2047)
  writer = coder.Writer()
  writer.put_escapes(values)
  writer.put_bits(1234, 11)
  reader = coder.Reader(writer.finish())
  np.testing.assert_array_equal(reader.get_escapes(2047), values)
  assert reader.get_bits(11) == 1234
  reader.finish()


def test_wider_escapes_come_back():
  values = np.array([0, 1, 2, 2**16, 2**17 - 2, 5])
  writer = coder.Writer()
  writer.put_escapes(values, widths=17)
  writer.put_escapes(values[:0], widths=17)
  reader = coder.Reader(writer.finish())
  np.testing.assert_array_equal(reader.get_escapes(6, widths=17), values)
  assert len(reader.get_escapes(0, widths=17)) == 0
  reader.finish()


def test_escapes_are_their_widths_and_then_their_bits():
  writer, by_hand = coder.Writer(), coder.Writer()
  writer.put_escapes(np.array([0, 5, 2]))  # One more than each: 1, 110, 11 in binary.
  by_hand.put(np.array([0, 2, 1]), np.ones(11))
  by_hand.put(np.array([1]), np.ones(2))
  by_hand.put(np.array([0, 1]), np.ones(2))
  assert writer.finish() == by_hand.finish()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 300), st.integers(2, 3000))
def test_one_table_for_all_is_a_table_for_each(seed, n, k):
  rng = np.random.default_rng(seed)
  table, symbols = random_tables(rng, 1, k)[0] + np.eye(k)[0], rng.integers(0, k, n)
  one, each = coder.Writer(), coder.Writer()
  one.put(symbols, table)
  each.put(symbols, np.broadcast_to(table, (n, k)))
  data = one.finish()
  assert data == each.finish()
  np.testing.assert_array_equal(coder.Reader(data).get(table, n), symbols)
  many = np.broadcast_to(table, (n, k))
  np.testing.assert_array_equal(coder.ideal_bits(symbols, table), coder.ideal_bits(symbols, many))


@pytest.mark.parametrize('row', [[1, -1, 1], [0, 0, 0], [np.nan, 1, 1]])
def test_impossible_counts_are_refused(row):
  table = np.array([[1.0, 1.0, 1.0], row])
  with pytest.raises((AssertionError, ValueError)):
    coder.Writer().put(np.array([0, 0]), table)


def test_a_symbol_of_count_zero_can_be_coded():
  table = np.array([1e6, 0.0, 1e6])
  writer = coder.Writer()
  writer.put(np.array([0, 1, 2]), table)
  np.testing.assert_array_equal(coder.Reader(writer.finish()).get(table, 3), [0, 1, 2])


def test_reading_past_the_end_is_an_error():
  reader = coder.Reader(b'\x12\x34\x56\x78')
  with pytest.raises(CodecError, match='ends early'):
    for _ in range(1000):
      reader.get(np.ones(4), 1)


def test_rare_symbols_of_large_tables_are_not_taken_for_the_end():
  table = np.ones(4000)
  table[0] = 1e12
  symbols = np.arange(4000)
  writer = coder.Writer()
  writer.put(symbols, table)
  data = writer.finish()
  reader = coder.Reader(data)
  np.testing.assert_array_equal(reader.get(table, 4000), symbols)
  reader.finish()
  assert reader.bits == pytest.approx(8 * len(data), rel=0.001)


def test_bytes_left_over_are_an_error():
  writer = coder.Writer()
  writer.put(np.zeros(3, np.int64), np.ones(4))
  reader = coder.Reader(writer.finish() + b'\x01\x02\x03\x04\x05\x06\x07\x08\x09')
  reader.get(np.ones(4), 3)
  with pytest.raises(CodecError, match='left over'):
    reader.finish()


def test_no_symbol_is_free_after_the_floor():
  table = coder.entropy_floor(np.array([[1e9, 0, 0, 0], [5, 5, 5, 5]]))
  share = table / table.sum(-1, keepdims=True)
  assert share.max(-1)[0] < 1 - 2.0**-11
  assert (share > 0).all()
  np.testing.assert_array_equal(table, np.rint(table))


def test_geometric_counts_fall_by_a_constant_factor():
  counts = coder.geometric(3.0, 20)
  np.testing.assert_allclose(counts[1:] / counts[:-1], 0.75, rtol=1e-3)
