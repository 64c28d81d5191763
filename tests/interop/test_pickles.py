"""Pickles as data: what pickle writes comes back, and nothing in it is ever run."""

import contextlib
import functools
import io
import os
import pickle
import pickletools
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress_jax.codec import CodecError
from compress_jax.interop import pickles
from tests.helpers import torch_format as torch

CANARY = 'canary'


def load(data, **names):
  names = {f'known.{key}': action for key, action in names.items()}
  return pickles.load(io.BytesIO(data), names=names, reference=lambda identity: ('id', identity))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
OBJECTS = st.recursive(
  SCALARS,
  lambda inner: (
    st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner)
  ),
)


@settings(max_examples=150, deadline=None)
@given(OBJECTS, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_what_pickle_writes_comes_back(value, protocol):
  if protocol >= 2:
    assert load(pickle.dumps(value, protocol)) == value


@given(st.binary(max_size=300), st.integers(3, pickle.HIGHEST_PROTOCOL))
def test_bytes_come_back(value, protocol):
  assert load(pickle.dumps(value, protocol)) == value


FORMS = {
  b'I42\n': 42,
  b'I01\n': True,
  b'L42L\n': 42,
  b'F0.5\n': 0.5,
  b'V\\u00e9t\n': 'ét',
  b'\x8d\x02\0\0\0\0\0\0\0hi': 'hi',
  b'\x8e\x02\0\0\0\0\0\0\0hi': b'hi',
  b'K\x07p9\nN\x85g9\n\x86': ((None,), 7),
}


@pytest.mark.parametrize('form', FORMS)
def test_forms_that_pickle_writes_rarely_are_read(form):
  assert load(torch.program(form)) == FORMS[form]


def test_objects_that_contain_themselves_come_back():
  value = [1]
  value.append(value)
  got = load(pickle.dumps(value, 2))
  assert got[1] is got


def test_pickles_in_one_stream_are_read_one_after_the_other():
  stream = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps('two', 2) + b'rest')
  read = functools.partial(pickles.load, names={}, reference=lambda identity: identity)
  assert [read(stream), read(stream), stream.read()] == [1, 'two', b'rest']


def test_known_names_are_called_and_persistent_ids_are_looked_up():
  total = torch.call(torch.name('known', 'sum'), torch.integer(2), torch.integer(40))
  assert load(torch.program(total), sum=lambda a, b: a + b) == 42
  assert load(torch.program(torch.text('key') + b'Q')) == ('id', 'key')


class Attack:
  def __init__(self, function, *arguments):
    self.parts = function, arguments

  def __reduce__(self):
    return self.parts


ATTACKS = {
  'system': Attack(os.system, f'touch {CANARY}'),
  'eval': Attack(eval, f'open({CANARY!r}, "w")'),
  'exec': Attack(exec, f'open({CANARY!r}, "w")'),
  'open': Attack(open, CANARY, 'w'),
  'getattr': Attack(getattr, 'text', 'format'),
  'Popen': Attack(subprocess.Popen, ['touch', CANARY]),
  'partial': Attack(functools.partial, os.system, f'touch {CANARY}'),
  '__import__': Attack(__import__, 'antigravity'),
  'load': Attack(np.load, CANARY),
}


@pytest.mark.parametrize('protocol', range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize('attack', ATTACKS)
def test_attacks_are_refused_by_name_and_nothing_runs(attack, protocol, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  data = pickle.dumps({'weights': [1.0, ATTACKS[attack]]}, protocol)
  with pytest.raises(CodecError, match=rf'refused: the pickle asks for .*{attack}'):
    load(data)
  assert not list(tmp_path.iterdir())


def test_the_same_attack_succeeds_against_pickle_itself(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pickle.loads(pickle.dumps(ATTACKS['system']))
  assert (tmp_path / CANARY).exists()


TRICKS = {
  'an attribute of a known name': b'\x8c\x05known\x8c\x0csum.__self__\x93.',
  'a module in a module': torch.name('known', 'sum.__globals__') + b'.',
  'a name that is no string': b'\x8c\x05known]\x93.',
  'a call of a value': torch.call(torch.text('known.sum')) + b'.',
  'a call of a tuple that looks like a name': torch.call(torch.tuple_of(torch.text('known.sum')))
  + b'.',
  'a call with a list of arguments': torch.name('known', 'sum') + b']R.',
  'a call of what is only mentioned': torch.call(torch.name('known', 'type')) + b'.',
  'items put into a number': b'K\x01(K\x02e.',
  'items put into a tuple': b')(K\x02K\x03u.',
  'a key without a value': b'}(K\x01u.',
  'an empty stack': b'.',
  'a mark as a value': b'(.',
  'no mark': b'K\x01t.',
  'a memo that was never written': b'h\x05.',
}


@pytest.mark.parametrize('trick', TRICKS)
def test_tricks_are_refused(trick):
  with pytest.raises(CodecError, match=r'refused|damaged'):
    load(b'\x80\x04' + TRICKS[trick], sum=sum, type=None)


# Operation: its argument in the file.
FORBIDDEN = {
  'INST': b'os\nsystem\n',
  'PERSID': b'0\n',
  'STRING': b"'text'\n",
  'BINSTRING': bytes(4),
  'SHORT_BINSTRING': bytes(1),
  'BYTEARRAY8': bytes(8),
  'EXT1': bytes(1),
  'EXT2': bytes(2),
  'EXT4': bytes(4),
  **dict.fromkeys(['OBJ', 'NEWOBJ', 'NEWOBJ_EX', 'NEXT_BUFFER', 'READONLY_BUFFER'], b''),
  **dict.fromkeys(['EMPTY_SET', 'ADDITEMS', 'FROZENSET', 'LIST', 'DICT'], b''),
  **dict.fromkeys(['POP', 'DUP', 'POP_MARK'], b''),
}


@pytest.mark.parametrize('operation', FORBIDDEN)
def test_other_operations_are_refused_by_name(operation):
  code = next(o.code for o in pickletools.opcodes if o.name == operation).encode('latin-1')
  with pytest.raises(CodecError, match=f'refused: the pickle uses {operation}'):
    load(torch.program(b'(K\x01' + code + FORBIDDEN[operation]))


def test_every_operation_is_forbidden_or_needed_for_data():
  needed = set()
  for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
    value = (None, True, False, 1, 300, 70_000, 2**40, 2**3000, 0.5, 'x', 'x' * 300, (), (1,))
    value += ((1, 2), (1, 2, 3), (1,) * 4, [], [1], [1, 2], {}, {1: 2}, {1: 2, 3: 4}, *range(300))
    value += tuple(map(str, range(300))) * 2
    value += (b'x', b'x' * 300, sum) if protocol > 2 else (sum,)
    needed |= {o.name for o, _, _ in pickletools.genops(pickle.dumps(value, protocol))}
  needed |= {'REDUCE', 'BUILD', 'BINPERSID'}
  text_forms = {'INT', 'LONG', 'FLOAT', 'UNICODE', 'GET', 'PUT'}  # Of protocol 0.
  huge = {'BINUNICODE8', 'BINBYTES8'}
  assert {o.name for o in pickletools.opcodes} == {*needed, *text_forms, *huge, *FORBIDDEN}
  assert not needed & set(FORBIDDEN)


def test_state_for_an_object_is_dropped():
  assert load(torch.program(torch.table(a=b'K\x01') + torch.table(items=b'N') + b'b')) == {'a': 1}


def test_a_far_memo_does_not_allocate():
  assert load(b'\x80\x02K\x07r\xff\xff\xff\xffj\xff\xff\xff\xff.') == 7


def test_keys_that_cannot_be_hashed_in_bounded_depth_are_refused():
  nested = b')' + b'\x85' * 50_000
  with pytest.raises(CodecError, match='a key is a tuple'):
    load(torch.program(b'}' + nested + b'K\x01s'))


def test_doubling_lists_are_not_expanded():
  double = b''.join(b']q%c(h%ch%ce' % (i + 1, i, i) for i in range(100))
  body = b']q\x00' + double
  assert len(load(torch.program(body))) == 2
  with pytest.raises(CodecError, match=r'no string|no function'):
    load(torch.program(body + b')R'))


def test_long_pickles_are_refused(monkeypatch):
  monkeypatch.setattr(pickles, 'MAX_BYTES', 1000)
  assert load(torch.program(b']' * 990)) == []
  with pytest.raises(CodecError, match='more than 1000 bytes'):
    load(torch.program(b']' * 1010))


def test_every_beginning_of_a_pickle_is_refused():
  data = pickle.dumps({'a': [1, 2.5, ('x', None)], 'b': 'text'}, 4)
  for i in range(len(data)):
    with pytest.raises(CodecError):
      load(data[:i])


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_give_an_object_or_a_codec_error(data):
  with contextlib.suppress(CodecError):
    load(b'\x80\x04' + data + b'.')
