"""Arrays in fewer bytes: all of them come back, and what is wrong is refused before it is made."""

import numpy as np
import pytest

from compress_jax.codec import CodecError
from compress_jax.files import deflated, models

RNG = np.random.default_rng(0)
ARRAYS = {
  'half': RNG.normal(0, 0.05, (3, 3, 32, 32)).astype(np.float16),
  'zeros': np.where(RNG.random((96, 64)) < 0.3, 0, RNG.integers(-3000, 3000, (96, 64))),
  'short': RNG.integers(-9, 9, (80, 70)).astype(np.int16)[::2, ::-1],
  'noise': np.frombuffer(RNG.bytes(8192), np.int8),
  'small': np.arange(9.0, dtype=np.float32),
  'empty': np.zeros((0, 3), np.int8),
}


def test_arrays_come_back_bit_for_bit_and_take_fewer_bytes():
  packed, forms = deflated.pack(ARRAYS)
  assert set(forms) == {'half', 'zeros', 'short'}  # Noise cannot be smaller, the others are small.
  found = deflated.unpack(packed, forms)
  for name, expected in ARRAYS.items():
    assert found[name].dtype == expected.dtype
    np.testing.assert_array_equal(found[name], expected)
  assert packed['half'].nbytes < 0.95 * ARRAYS['half'].nbytes
  assert packed['zeros'].nbytes < 0.4 * ARRAYS['zeros'].nbytes


def test_a_model_file_of_them_reads_like_any_other(tmp_path):
  plain, small = tmp_path / 'a', tmp_path / 'b'
  models.write(plain, ARRAYS, {'method': 'gan'})
  models.write(small, ARRAYS, {'method': 'gan'}, deflate=True)
  assert small.stat().st_size < 0.6 * plain.stat().st_size
  (one, about), (other, same) = models.read(plain), models.read(small)
  assert about == same == {'method': 'gan'}
  assert one.keys() == other.keys()
  for name in one:
    assert one[name].dtype == other[name].dtype
    np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize(
  'forms,message',
  [
    ({'half': ['float16', [10**12]]}, 'cannot hold'),
    ({'half': ['float16', [3, 3, 32, 31]]}, 'in place of'),
    ({'half': ['float16', [3, 3, 32, 33]]}, 'in place of'),
    ({'half': ['float64', [3, 3, 32, 32]]}, 'no such form'),
    ({'half': ['float16', [3, -3, 32, 32]]}, 'no such form'),
    ({'half': ['float16', ['3']]}, 'no such form'),
    ({'half': ['float16']}, 'not a model file'),
    ({'half': 7}, 'not a model file'),
    ({'other': ['float16', [3]]}, 'not there'),
    ({'small': ['float32', [9]]}, 'not there in bytes'),
    ([1], 'not a model file'),
  ],
)
def test_forms_that_are_not_those_of_the_arrays_are_refused(forms, message, tmp_path):
  packed, _ = deflated.pack(ARRAYS)
  models.write(tmp_path / 'm', packed, {deflated.FIELD: forms})
  with pytest.raises(CodecError, match=message):
    models.read(tmp_path / 'm')


def test_damaged_bytes_are_refused(tmp_path):
  packed, forms = deflated.pack(ARRAYS)
  for change in (lambda d: d[:-9], lambda d: np.append(d, d[:1]), lambda d: d ^ np.uint8(64)):
    models.write(tmp_path / 'm', {**packed, 'half': change(packed['half'])},
                 {deflated.FIELD: forms}, overwrite=True)  # fmt: skip
    with pytest.raises(CodecError, match='half'):
      models.read(tmp_path / 'm')
