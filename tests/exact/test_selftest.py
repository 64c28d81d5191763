"""The self-test: its golden values are those of integers, and it notices what is off."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax.exact import layers, selftest, tables, wavefront
from tests.helpers.integer_layers import integer_dense, integer_run


@pytest.fixture(autouse=True)
def forget():
  selftest.passes.cache_clear()
  yield
  selftest.passes.cache_clear()


def test_integers_are_those_of_the_generator():
  state, expected = 7, []
  for _ in range(200):
    state = (state + 1442695040888963407) * 6364136223846793005 % 2**64
    high = state >> 32
    end = 100 if high >> 31 else -100
    expected.append(high % 201 - 100 if high >> 29 & 3 else end)
  np.testing.assert_array_equal(selftest.integers((20, 10), 100, 7).ravel(), expected)


def convolutions():
  return integer_run(selftest.chain(), selftest.integers((11, 9, 8), 2**15 - 1, 30))


def sums():
  x, layer = selftest.wide()
  return integer_dense(x, layer)


def context():
  y = selftest.integers((6, 7, 16), 2**15 - 1, 40)
  weight = selftest.integers((12 * 16, 32), 2**15 - 1, 41).reshape(12, 16, 32)
  bias = selftest.integers((32,), 2**30, 42)
  rows = []
  for r, c in sorted(np.ndindex(6, 7), key=lambda at: (at[1] + 3 * at[0], at[0])):
    total = bias.astype(np.int64)
    for (dr, dc), tap in zip(wavefront.TAPS, weight, strict=True):
      if r + dr >= 0 and 0 <= c + dc < 7:
        total = total + y[r + dr, c + dc].astype(np.int64) @ tap.astype(np.int64)
    rows.append(np.clip(total >> 16, -(2**23), 2**23))
  return np.array(rows)


def mixture():
  mean = selftest.integers((300, 3), 2**12, 50).astype(np.int64)
  index = np.abs(selftest.integers((300, 3), tables.N_SCALES - 1, 51)).astype(np.int64)
  weight = np.abs(selftest.integers((300, 3), 2**15, 52)).astype(np.int64)
  edges = np.sort(selftest.integers((300, 20), 2**13, 53)).astype(np.int64)
  distance = edges[:, :, None] - mean[:, None]
  places = (distance * tables.INV.astype(np.int64)[index][:, None] + 2**15 >> 16) + 2**15
  mass = tables.PHI.astype(np.int64)[np.clip(places, 0, 2**16)]
  return (mass * weight[:, None]).sum(-1)


REFERENCES = {
  'convolutions': convolutions,
  'sums': sums,
  'context': context,
  'mixture': mixture,
}


@pytest.mark.parametrize('name', selftest.CASES)
def test_golden_values_are_those_of_integer_arithmetic(name):
  case, reference = selftest.CASES[name], REFERENCES[name]()
  assert len(np.unique(reference)) > 1000
  np.testing.assert_array_equal(case.compute(np, *case.inputs()), reference)
  assert selftest.digest(reference) == case.golden


def test_the_largest_sum_is_close_to_what_float64_holds():
  x, layer = selftest.wide()
  sums = x[0].astype(np.int64) @ layer.weight[:, 0].astype(np.int64)
  assert 0.9 * 2**53 < sums < 2**53


def test_this_device_passes():
  assert selftest.passes(jax.local_devices()[0])


def without_rounding(monkeypatch):
  dense = layers.dense

  def off(x, layer, xp=np):
    return dense(x, layer._replace(bias=layer.bias - 1), xp)

  monkeypatch.setattr(layers, 'dense', off)


def with_another_phi(monkeypatch):
  phi = tables.PHI.copy()
  phi[len(phi) // 2] += 1
  monkeypatch.setattr(tables, 'PHI', phi)


def with_rows_of_inv_swapped(monkeypatch):
  inv = tables.INV.copy()
  inv[[60, 61]] = inv[[61, 60]]
  monkeypatch.setattr(tables, 'INV', inv)


def with_taps_swapped(monkeypatch):
  taps = list(wavefront.TAPS)
  taps[3], taps[4] = taps[4], taps[3]
  monkeypatch.setattr(wavefront, 'TAPS', tuple(taps))


@pytest.mark.parametrize(
  'disturb',
  [
    without_rounding,
    with_another_phi,
    with_rows_of_inv_swapped,
    with_taps_swapped,
  ],
)
def test_what_is_off_by_little_does_not_pass(monkeypatch, disturb):
  disturb(monkeypatch)
  assert not selftest.passes(jax.local_devices()[0])


def test_a_processor_runs_numpy():
  assert selftest.backend() is np


@pytest.mark.parametrize('accelerator', [False, True])
def test_running_large_networks_gives_the_same_on_both(monkeypatch, accelerator):
  monkeypatch.setattr(selftest, 'backend', lambda: jnp if accelerator else np)
  x = selftest.integers((11, 9, 8), 2**15 - 1, 30)
  got = selftest.run(selftest.chain(), x)
  assert isinstance(got, np.ndarray)
  assert selftest.digest(got) == selftest.CASES['convolutions'].golden
  assert jnp.zeros(1).dtype == jnp.float32  # The rest of the program keeps its types.


def test_small_weights_and_negative_shifts_give_the_same_on_both(monkeypatch):
  layer = selftest.chain()[1]
  weight = layers.stored(selftest.integers(layer.weight.shape, 511, 5))
  network = (layer._replace(weight=weight, shift=layer.shift - 17, limit=2**40),)
  assert weight.dtype == np.float32 and network[0].shift.min() < 0
  x = selftest.integers((11, 9, 8), 2**14 - 1, 6)
  expected = integer_run((network[0]._replace(shift=0, limit=2**50),), x)
  found = []
  for module in (np, jnp):
    monkeypatch.setattr(selftest, 'backend', lambda module=module: module)
    found.append(selftest.run(network, x))
  np.testing.assert_array_equal(*found)
  exact = np.floor(expected * np.ldexp(1.0, -network[0].shift))
  np.testing.assert_array_equal(found[0], exact)


def test_many_sizes_run_on_a_device_with_few_programs(monkeypatch):
  monkeypatch.setattr(selftest, 'backend', lambda: jnp)
  network = selftest.chain()[:2]
  selftest._run.clear_cache()
  for height, width in itertools.product((5, 6, 8), (1, 3, 4)):
    x = selftest.integers((height, width, 8), 2**15 - 1, height + width)
    np.testing.assert_array_equal(selftest.run(network, x), integer_run(network, x))
  assert selftest._run._cache_size() == 2  # 8 x 1 and 8 x 4.


def test_a_device_without_float64_does_not_pass(monkeypatch):
  def refuse(*_):
    raise jax.errors.JaxRuntimeError('UNIMPLEMENTED: f64')

  monkeypatch.setattr(jax, 'jit', refuse)
  assert not selftest.passes(jax.local_devices()[0])


class FakeDevice:
  platform = 'gpu'


@pytest.mark.parametrize('good', [False, True])
def test_an_accelerator_has_to_pass(monkeypatch, good):
  monkeypatch.setattr(jax, 'local_devices', lambda: [FakeDevice()])
  monkeypatch.setattr(selftest, 'passes', lambda device: good)
  assert (selftest.backend() is np) != good
