"""Arrays in pickles of NumPy come back bit for bit, and nothing in the file is ever run."""

import io
import pickle

import numpy as np
import pytest

from compress_jax.codec import CodecError
from compress_jax.interop import numpy_pickles
from tests.helpers import torch_format as torch

TABLE = {
  'AlexNet_0': {'Conv_0': {'kernel': np.arange(24, dtype=np.float32).reshape(2, 3, 4)}},
  'fortran': np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
  'big': np.arange(3, dtype='>i4'),
  'flags': np.array([True, False]),
  'half': np.array([0.5, -2], np.float16),
  'scalar': np.array(7, np.int64),
  'empty': np.zeros((0, 3), np.float32),
}


def load(data, **options):
  return numpy_pickles.load(io.BytesIO(data), **options)


@pytest.mark.parametrize('protocol', [3, 4])
def test_what_numpy_pickles_comes_back_by_its_path(protocol):
  found = load(pickle.dumps(TABLE, protocol))
  wanted = {**TABLE, 'AlexNet_0/Conv_0/kernel': TABLE['AlexNet_0']['Conv_0']['kernel']}
  del wanted['AlexNet_0']
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array)
    assert found[name].dtype == array.dtype and not found[name].flags.writeable


def test_the_name_that_numpy_1_wrote_is_known_too():
  data = pickle.dumps({'a': np.arange(3)}, 3)
  old = data.replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
  np.testing.assert_array_equal(load(old)['a'], [0, 1, 2])


def array_of(kind, state):
  """An array of a dtype `kind` with a state of opcodes."""
  array = torch.call(torch.name('numpy.core.multiarray', '_reconstruct'))
  dtype = torch.call(torch.name('numpy', 'dtype'), torch.text(kind))
  return torch.program(torch.table(a=array + torch.tuple_of(*state(dtype)) + b'b'))


def bytes_of(data):
  return b'C' + bytes([len(data)]) + data


def state(shape, data):
  sides = torch.tuple_of(*map(torch.integer, shape))
  return lambda dtype: (torch.integer(1), sides, dtype, torch.FALSE, bytes_of(data))


HOSTILE = {
  'another name': (torch.program(torch.call(torch.name('os', 'system'))), "refused.*'os.system'"),
  'objects': (array_of('O', state((1,), b'12345678')), "refused.*'O'"),
  'too few bytes': (array_of('f4', state((2**30, 2**30), b'1234')), '4 bytes are no array'),
  'a negative side': (array_of('f4', state((-1, -1), b'1234')), 'not described'),
  'no state': (torch.program(torch.table(a=torch.call(torch.name('numpy', 'dtype')))), 'refused'),
  'an array without numbers': (
    torch.program(torch.table(a=torch.call(torch.name('numpy.core.multiarray', '_reconstruct')))),
    'is no array',
  ),
  'something else': (pickle.dumps([1, 2]), 'pickle of a list'),
  'a number in the table': (pickle.dumps({'a': 1}), 'a of the pickle is no array'),
  'a call of ndarray': (torch.program(torch.call(torch.name('numpy', 'ndarray'))), 'refused'),
  'a reference': (torch.program(torch.text('a') + b'Q'), 'damaged'),
  'nothing': (b'', 'damaged'),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_what_is_no_table_of_arrays_is_refused_in_one_line(case):
  data, message = HOSTILE[case]
  with pytest.raises(CodecError, match=message):
    load(data)


def test_a_type_nested_as_deep_as_its_file_is_long_is_refused():
  nested = torch.text('f4') + b'\x85' * 100_000  # One tuple in another.
  data = torch.program(torch.call(torch.name('numpy', 'dtype'), nested))
  with pytest.raises(CodecError, match='refused: an array holds tuple, not numbers'):
    load(data)


def test_a_table_that_holds_itself_is_refused():
  with pytest.raises(CodecError, match='is no array'):
    load(torch.program(b'}q\x00' + torch.text('a') + b'h\x00s'))


def test_the_limit_of_bytes_grows_by_an_argument_and_that_of_operations_does_not(monkeypatch):
  monkeypatch.setattr(numpy_pickles.pickles, 'MAX_BYTES', 100)
  data = pickle.dumps({'a': np.zeros(1000)}, 3)
  with pytest.raises(CodecError, match='more than 7000 bytes'):
    load(data, max_bytes=7000)
  assert load(data, max_bytes=9000)['a'].shape == (1000,)
  many = pickle.dumps([1] * 200, 3)
  with pytest.raises(CodecError, match='or 100 operations'):
    load(many, max_bytes=9000)


def test_every_shortened_file_is_refused():
  data = pickle.dumps({'a': np.arange(3)}, 3)
  for size in range(len(data)):
    with pytest.raises(CodecError):
      load(data[:size])
