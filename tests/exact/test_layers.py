"""Integer layers: float64 gives what integers give, in any order, on any thread count."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax.codec import CodecError
from compress_jax.exact import layers, selftest
from compress_jax.exact.layers import LINEAR, Layer
from compress_jax.layers import blocks as float_layers
from tests.helpers.integer_layers import (
  SLOPES,
  integer_conv,
  integer_dense,
  integers,
)

ROOT = Path(__file__).parents[2]
CLASSES, PER_CLASS = 20, 500  # 10,000 layers; those of a class share their shapes.


class Cases(NamedTuple):
  """Layers of one shape, and inputs."""

  x: np.ndarray  # f64[B, n, K]
  weight: np.ndarray  # f64[B, K, Cout]
  bias: np.ndarray  # f64[B, Cout]
  common: Layer  # Shift, slope and limit of all.

  def layer(self, i):
    return self.common._replace(weight=self.weight[i], bias=self.bias[i])

  def expected(self):
    return integer_dense(self.x, self.common._replace(weight=self.weight, bias=self.bias))


class Product:
  """A weight matrix that is multiplied in another way."""

  __array_ufunc__ = None
  dtype = np.dtype(np.float64)

  def __init__(self, weight, rule):
    self.weight, self.rule = weight, rule

  def astype(self, kind):
    assert kind == np.float64
    return self

  def __rmatmul__(self, x):
    return self.rule(x, self.weight)


def random_cases(seed, count=PER_CLASS):
  """Every slope, shifts from 0 on, sums up to 2^53 or as far as the slope allows."""
  rng = np.random.default_rng(seed)
  slope = SLOPES[seed % len(SLOPES)]
  room = 52 if slope in (0, LINEAR) else 36  # 2^37 * 13107 is the most below 2^53.
  n, inputs, outputs = (int(v) for v in rng.integers(1, (5, 129, 17)))
  x_bits = int(rng.integers(1, 24))
  weight_bits = int(rng.integers(1, room - 7 - x_bits + 1))
  shift = rng.integers(0, x_bits + weight_bits, outputs)
  common = Layer(np.zeros(0), np.zeros(0), shift, slope, int(2 ** rng.integers(1, room)))
  return Cases(
    integers(rng, (count, n, inputs), x_bits),
    integers(rng, (count, inputs, outputs), weight_bits),
    integers(rng, (count, outputs), int(rng.integers(1, room))),
    common,
  )


def check(cases, product=np.matmul):
  """Asserts that float64 with a way to multiply gives the integers of int64."""
  got = []
  for i, x in enumerate(cases.x):
    layer = cases.layer(i)
    got.append(layers.dense(x, layer._replace(weight=Product(layer.weight, product))))
  np.testing.assert_array_equal(np.stack(got).astype(np.int64), cases.expected())


def permuted(x, weight):
  order = np.random.default_rng(len(weight)).permutation(len(weight))
  return x[:, order] @ weight[order]


def one_by_one(x, weight):
  return np.cumsum(x[:, :, None] * weight, 1)[:, -1]


def every_third(x, weight):
  return sum(x[:, i::3] @ weight[i::3] for i in range(3))


@pytest.mark.parametrize('seed', range(CLASSES))
def test_float64_gives_the_integers_of_int64(seed):
  check(random_cases(seed))


@pytest.mark.parametrize('seed', range(CLASSES))
def test_the_jax_twin_gives_them_too(seed):
  cases = random_cases(seed)

  def twin(x, weight, bias):
    return layers.dense(x, cases.common._replace(weight=weight, bias=bias), jnp)

  with jax.enable_x64(True):
    got = jax.jit(jax.vmap(twin))(cases.x, cases.weight, cases.bias)
  np.testing.assert_array_equal(np.asarray(got).astype(np.int64), cases.expected())


@pytest.mark.parametrize('product', [permuted, one_by_one, every_third])
def test_the_order_of_sums_does_not_matter(product):
  for seed in range(CLASSES):
    check(random_cases(seed, 50), product)


@pytest.mark.parametrize(
  'product',
  [
    lambda x, weight: np.nextafter(x @ weight, -np.inf),
    lambda x, weight: (x.astype(np.float32) @ weight.astype(np.float32)).astype(np.float64),
    lambda x, weight: x[:, 1:] @ weight[1:],
  ],
  ids=['one unit in the last place', 'float32', 'a row left out'],
)
def test_the_check_notices_wrong_sums(product):
  with pytest.raises(AssertionError):
    for seed in range(CLASSES):
      check(random_cases(seed, 50), product)


@pytest.mark.parametrize('change', ['shift', 'slope', 'limit'])
def test_the_check_notices_a_wrong_layer(monkeypatch, change):
  dense = layers.dense

  def disturbed(x, layer):
    return dense(x, layer._replace(**{change: getattr(layer, change) + 1}))

  monkeypatch.setattr(layers, 'dense', disturbed)
  with pytest.raises(AssertionError):
    for seed in range(CLASSES):
      check(random_cases(seed, 50))


def narrow_cases(seed):
  """f64[n, K] and small weights f32[K, Cout], with sums on both sides of 2^24."""
  rng = np.random.default_rng(seed)
  n, inputs, outputs = (int(v) for v in rng.integers(1, (9, 200, 17)))
  x_bits = int(rng.integers(1, 22))
  weight = layers.stored(integers(rng, (inputs, outputs), int(rng.integers(1, 11))))
  assert weight.dtype == np.float32
  return integers(rng, (n, inputs), x_bits), weight


def test_products_of_small_weights_are_exact_in_either_type():
  kinds = set()
  for seed in range(200):
    x, weight = narrow_cases(seed)
    found = layers.product(x, weight)
    kinds.add(found.dtype.name)
    np.testing.assert_array_equal(found.astype(np.int64), x.astype(int) @ weight.astype(int))
  assert kinds == {'float32', 'float64'}


@pytest.mark.parametrize(
  'x,weight,kind',
  [
    ([[2**23, 2**23 - 1]], [[1], [1]], np.float32),
    ([[2**23, 2**23, 1]], [[1], [1], [1]], np.float64),  # 2^24 + 1, which float32 lacks.
    ([[-(2**14), 1]], [[1023], [16383]], np.float64),  # A weight beyond the small ones.
    ([[2**14, -1]], [[1023], [1]], np.float32),
    ([[2**14, -(2**14) - 1]], [[1023], [1023]], np.float64),  # The sum of the terms is small.
  ],
)
def test_float32_multiplies_where_no_order_of_the_terms_reaches_2_24(x, weight, kind):
  x, weight = np.array(x, np.float64), layers.stored(np.array(weight))
  found = layers.product(x, weight)
  assert found.dtype == kind
  np.testing.assert_array_equal(found, x.astype(int) @ weight.astype(int))


def test_bounds_hold_for_all_sums():
  for seed in range(50):
    x, weight = narrow_cases(seed)
    terms = np.abs(x[:, :, None] * weight.astype(np.float64)).sum(1)
    bound = np.abs(x) @ layers.peaks(weight)
    assert (terms <= bound[:, None]).all() and (bound <= 1024 * np.abs(x).sum(1)).all()


@pytest.mark.parametrize('shift', [-5, 0, 3])
def test_a_negative_shift_multiplies(shift):
  x, weight = narrow_cases(3)
  layer = Layer(weight, np.ones(weight.shape[1]), np.full(weight.shape[1], shift), LINEAR, 2**40)
  expected = np.floor((x @ weight.astype(np.float64) + 1) * 2.0**-shift)
  np.testing.assert_array_equal(layers.dense(x, layer), expected)
  (again,) = layers.from_arrays(layers.to_arrays((layer,), 'net'), 'net')
  assert again.weight.dtype == np.float32
  np.testing.assert_array_equal(layers.dense(x, again), expected)


def test_jit_and_eager_agree():
  x, layer = selftest.wide()

  def twin(x, weight):
    return layers.dense(x, layer._replace(weight=weight), jnp)

  with jax.enable_x64(True):
    eager, compiled = twin(x, layer.weight), jax.jit(twin)(x, layer.weight)
  np.testing.assert_array_equal(eager, integer_dense(x, layer))
  np.testing.assert_array_equal(compiled, integer_dense(x, layer))


def test_float32_is_refused():
  x, layer = selftest.wide()
  with pytest.raises(AssertionError, match='enable_x64'):
    layers.dense(jnp.asarray(x), layer, jnp)


@pytest.mark.parametrize('threads', ['1', '2'])
def test_threads_do_not_matter(threads):
  code = """
import numpy as np
from compress_jax.exact import selftest
for name, case in selftest.CASES.items():
  assert selftest.digest(case.compute(np, *case.inputs())) == case.golden, name
"""
  limits = dict.fromkeys(('OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS'), threads)
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, env={**os.environ, **limits}, capture_output=True
  )
  assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize('kernel', [1, 3, 5])
@pytest.mark.parametrize('shuffle', [False, True])
@pytest.mark.parametrize('height,width', [(1, 1), (1, 6), (7, 2), (5, 9)])
def test_a_convolution_is_its_definition(kernel, shuffle, height, width):
  rng = np.random.default_rng(kernel)
  weight, bias = integers(rng, (kernel**2 * 3, 8), 15), integers(rng, (8,), 30)
  layer = Layer(weight, bias, rng.integers(8, 20, 8), 655, 2**15 - 1, kernel, shuffle)
  x = integers(rng, (height, width, 3), 15)
  np.testing.assert_array_equal(layers.conv(x, layer), integer_conv(x, layer))


def test_pixels_are_shuffled_as_those_of_float_networks():
  x = np.arange(2 * 3 * 8, dtype=np.float32).reshape(2, 3, 8)
  np.testing.assert_array_equal(
    layers.pixel_shuffle(x), float_layers.pixel_shuffle(jnp.asarray(x[None]))[0]
  )


def test_bands_of_rows_do_not_matter(monkeypatch):
  x = selftest.integers((11, 9, 8), 2**15 - 1, 5)
  whole = layers.run(selftest.chain(), x)
  for band in (1, 20, 100):
    monkeypatch.setattr(layers, '_BAND', band)
    np.testing.assert_array_equal(layers.run(selftest.chain(), x), whole)


def arrays():
  return layers.to_arrays(selftest.chain(), 'hyper')


def test_a_network_comes_back_from_its_arrays():
  for layer, again in zip(selftest.chain(), layers.from_arrays(arrays(), 'hyper'), strict=True):
    for field, value in layer._asdict().items():
      np.testing.assert_array_equal(getattr(again, field), value)
      assert np.asarray(getattr(again, field)).dtype == np.asarray(value).dtype


def test_weights_are_stored_in_16_bits_where_they_fit():
  assert arrays()['hyper.0.weight'].dtype == np.int16
  _, layer = selftest.wide()
  stored = layers.to_arrays((layer,), 'wide')
  assert stored['wide.0.weight'].dtype == np.int32
  np.testing.assert_array_equal(layers.from_arrays(stored, 'wide')[0].weight, layer.weight)


@pytest.mark.parametrize(
  'name,change',
  [
    ('0.weight', lambda a: a.astype(np.float32)),
    ('0.weight', lambda a: a[:-1]),
    ('0.weight', lambda a: a[0]),
    ('0.bias', lambda a: a[1:]),
    ('1.shift', lambda a: a - 90),
    ('1.shift', lambda a: np.full_like(a, np.iinfo(a.dtype).min)),
    ('1.bias', lambda a: a[:0]),
    ('1.shift', lambda a: a + 64),
    ('2.settings', lambda a: a[:3]),
    ('2.settings', lambda a: a * [2, 1, 1, 1]),
    ('2.settings', lambda a: a * [1, 0, 1, 1]),
    ('2.settings', lambda a: np.add(a, [0, 0, 1, 0])),
    ('2.settings', lambda a: np.add(a, [0, 0, 0, 1])),
    ('1.settings', lambda a: a - [0, 0, 2, 0]),
  ],
)
def test_damaged_arrays_are_refused(name, change):
  damaged = arrays()
  damaged[f'hyper.{name}'] = change(damaged[f'hyper.{name}'])
  with pytest.raises(CodecError, match='hyper'):
    layers.from_arrays(damaged, 'hyper')


def test_missing_arrays_are_refused():
  with pytest.raises(CodecError, match='no layers named other'):
    layers.from_arrays(arrays(), 'other')
  damaged = arrays()
  del damaged['hyper.2.bias']
  with pytest.raises(CodecError, match=r'hyper\.2 lacks'):
    layers.from_arrays(damaged, 'hyper')
