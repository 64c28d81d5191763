"""Packed networks: the layers' integers, whatever the tiles."""

import itertools

import numpy as np
import pytest

from compress_jax.exact import packed, selftest
from compress_jax.exact.layers import LINEAR, Layer, stored
from tests.helpers.integer_layers import SLOPES, integer_dense, integers


def random_network(rng, widths, slope):
  return tuple(
    Layer(
      integers(rng, (inputs, outputs), 15),
      integers(rng, (outputs,), 40),
      rng.integers(0, 30, outputs) if slope in (0, LINEAR) else rng.integers(10, 30, outputs),
      slope,
      2**15 - 1,
    )
    for inputs, outputs in itertools.pairwise(widths)
  )


@pytest.mark.parametrize('slope', SLOPES)
@pytest.mark.parametrize('n', [1, 5, 16, 17, 40])
@pytest.mark.parametrize('widths', [(1, 1), (1536, 33), (513, 32, 31), (40, 530, 1025, 7)])
def test_packed_layers_give_the_integers_of_int64(widths, n, slope):
  rng = np.random.default_rng(n)
  network = random_network(rng, widths, slope)
  expected = x = integers(rng, (n, widths[0]), 15)
  for layer in network:
    expected = integer_dense(expected, layer)
  np.testing.assert_array_equal(packed.run(packed.pack(network), x), expected)


def test_small_weights_and_negative_shifts_give_them_too():
  rng = np.random.default_rng(0)
  weight = stored(integers(rng, (70, 40), 9))
  layer = Layer(weight, integers(rng, (40,), 20), np.full(40, -3), LINEAR, 2**40)
  x = integers(rng, (20, 70), 14)
  expected = (x.astype(int) @ weight.astype(int) + layer.bias.astype(int)) * 8
  np.testing.assert_array_equal(packed.run(packed.pack((layer,)), x), expected)


def test_sums_up_to_2_53_are_exact():
  x, layer = selftest.wide()
  np.testing.assert_array_equal(packed.run(packed.pack((layer,)), x), integer_dense(x, layer))


def test_no_position_gives_no_rows():
  _, layer = selftest.wide()
  assert packed.run(packed.pack((layer,)), np.zeros((0, 1536))).shape == (0, 64)


def test_convolutions_are_refused():
  with pytest.raises(AssertionError):
    packed.pack(selftest.chain())
