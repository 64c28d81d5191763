"""Models as they are shipped: nothing is lost, and the id covers what decides about decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax.codec import CodecError
from compress_jax.exact import layers
from compress_jax.files import models
from compress_jax.learned import released
from tests.helpers.codings import MODULES, tiny

ENCODER = {'analysis': {'down0': {'kernel': (3, 3, 3, 4), 'bias': (4,)}}}
DECODER = {'synthesis': {'up0': {'conv': {'kernel': (3, 3, 4, 12)}}, 'gain': (2,)}}


def weights(shapes, seed=0):
  """Random f32 for every shape of a tree."""
  rng = np.random.default_rng(seed)
  leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda v: isinstance(v, tuple))
  return jax.tree.unflatten(tree, [rng.normal(size=v).astype(np.float32) for v in leaves])


def model(name):
  return released.release(weights(ENCODER), weights(DECODER, 1), tiny(name)[0])


MODELS = {name: model(name) for name in MODULES}
ALL = pytest.mark.parametrize('name', MODULES)


def loaded(name, arrays):
  return released.from_arrays(arrays, MODULES[name].Coding, MODULES[name].check)


def check_same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(a, b)


def test_parameters_are_named_by_their_paths_and_come_back_as_floats_of_32_bits():
  params = weights(DECODER)
  arrays = released.flatten(params, 'decoder')
  assert sorted(arrays) == ['decoder.synthesis.gain', 'decoder.synthesis.up0.conv.kernel']
  others = {'decoder2.x': np.ones(1), 'encoder.synthesis.gain': np.ones(1)}
  halves = {name: value.astype(np.float16) for name, value in arrays.items()}
  found = released.unflatten({**halves, **others}, 'decoder')
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
  check_same(released.halve(params), found)


def check_comes_back(name, arrays):
  found = loaded(name, arrays)
  check_same(found._replace(model_id=0), MODELS[name]._replace(model_id=0))
  assert found.model_id == MODELS[name].model_id
  assert type(found.coding) is MODULES[name].Coding
  again = released.to_arrays(found)
  assert {k: v.dtype for k, v in again.items()} == {k: v.dtype for k, v in arrays.items()}


@ALL
def test_a_model_comes_back_from_its_arrays(name):
  check_comes_back(name, released.to_arrays(MODELS[name]))


@ALL
def test_a_model_comes_back_from_its_file(name, tmp_path):
  models.write(tmp_path / 'm', released.to_arrays(MODELS[name]), {})
  check_comes_back(name, models.read(tmp_path / 'm')[0])


@ALL
def test_weights_that_fit_16_bits_take_16_bits(name):
  halves = MODELS[name]._replace(
    encoder=released.halve(MODELS[name].encoder), decoder=released.halve(MODELS[name].decoder)
  )
  arrays = released.to_arrays(halves)
  for key, value in released.to_arrays(MODELS[name]).items():
    kind = np.float16 if key.startswith(('encoder', 'decoder')) else value.dtype
    assert arrays[key].dtype == kind
    assert value.dtype == kind or value.dtype == np.float32
  check_same(loaded(name, arrays).decoder, halves.decoder)


@ALL
def test_every_value_that_decides_about_decoding_changes_the_id(name):
  arrays = released.to_arrays(MODELS[name])
  decisive = [key for key in arrays if not key.startswith('encoder.')]
  assert len(decisive) > 5 and 'coding.rates.gain' in decisive
  for key in decisive:
    changed = arrays[key].copy()
    flat = changed.reshape(-1)
    flat[len(flat) // 2] += 1
    try:
      found = loaded(name, {**arrays, key: changed})
    except CodecError:
      continue  # A setting of a layer that does not exist.
    assert found.model_id != MODELS[name].model_id, key


@ALL
def test_the_encoder_is_not_part_of_the_id(name):
  arrays = released.to_arrays(MODELS[name])
  for key in arrays:
    if key.startswith('encoder.'):
      assert loaded(name, {**arrays, key: arrays[key] + 1}).model_id == MODELS[name].model_id


def test_shared_tables_are_part_of_the_id(monkeypatch):
  coding = MODELS['cae'].coding
  monkeypatch.setattr(released.tables, 'digest', lambda: '00' * 32)
  other = released.release(MODELS['cae'].encoder, MODELS['cae'].decoder, coding)
  assert other.model_id != MODELS['cae'].model_id


@ALL
def test_a_model_without_one_of_its_tables_is_refused(name):
  arrays = released.to_arrays(MODELS[name])
  networks = {
    field: value for field, value in MODELS[name].coding._asdict().items()
    if isinstance(value, tuple) and value and isinstance(value[0], layers.Layer)
  }  # fmt: skip
  first = [f'coding.{field}.0.weight' for field in networks]
  others = {*networks, 'later', 'groups', *type(MODELS[name].coding)._field_defaults}
  tables = [k for k in arrays if k.startswith('coding.') and k.split('.')[1] not in others]
  assert tables
  for key in (*tables, *first):
    with pytest.raises(CodecError, match=key.removesuffix('.0.weight').replace('.', r'\.')):
      loaded(name, {k: v for k, v in arrays.items() if k != key})


def test_a_model_without_one_of_its_slices_is_refused():
  arrays = released.to_arrays(MODELS['gmm in slices'])
  for lost in ('coding.later.0.', 'coding.later.1.'):
    assert any(key.startswith(lost) for key in arrays)
    with pytest.raises(CodecError, match='do not fit together'):
      loaded('gmm in slices', {k: v for k, v in arrays.items() if not k.startswith(lost)})


@ALL
def test_tables_that_do_not_fit_together_are_refused(name):
  arrays = released.to_arrays(MODELS[name])
  for key in ('coding.rates.gain', 'coding.rates.inverse', 'coding.rates.offset'):
    with pytest.raises(CodecError):
      loaded(name, {**arrays, key: arrays[key][:, :-1]})


@pytest.mark.parametrize(
  'peak,kind',
  [(0, 'i1'), (127, 'i1'), (128, 'i2'), (32767, 'i2'), (32768, 'i4'), (2**31, 'i8'), (2**62, 'i8')],
)
def test_integers_take_the_smallest_type_that_holds_their_magnitudes(peak, kind):
  for value in (peak, -peak):
    found = released.compact(np.array([[0, value]]))
    assert found.dtype == kind
    np.testing.assert_array_equal(found, [[0, value]])
  assert released.compact(np.zeros((0, 0, 0), np.int64)).shape == (0, 0, 0)


def test_weights_beyond_the_range_of_16_bits_are_kept_in_32():
  big = released.release({}, {'w': np.array([1e5, 1.0], np.float32)}, MODELS['cae'].coding)
  with np.errstate(over='ignore'):
    assert released.to_arrays(big)['decoder.w'].dtype == np.float32


def test_a_weight_that_16_bits_cannot_hold_is_not_halved():
  with np.errstate(over='ignore'):
    try:
      found = released.halve({'w': np.array([1e5], np.float32)})
    except CodecError:
      return
  assert np.isfinite(found['w']).all()


def test_an_array_with_the_path_of_one_that_others_are_part_of_is_refused():
  arrays = released.flatten(weights(DECODER), 'decoder')
  with pytest.raises(CodecError, match=r'an array decoder\.synthesis\.up0, and arrays within it'):
    released.unflatten({**arrays, 'decoder.synthesis.up0': np.ones(1)}, 'decoder')


def test_what_is_missing_or_misshapen_is_named():
  # A stand-in for the parameters of a method.
  params = {**weights(ENCODER), **weights(DECODER), 'log_gains': np.zeros((2, 3)), 'rest': {}}
  rates = MODELS['cae'].coding.rates._replace(gain=np.zeros((256, 3), np.int64))
  own = MODELS['cae']._replace(coding=MODELS['cae'].coding._replace(rates=rates))
  assert released.misfit(own, params) is None
  assert released.misfit(own._replace(encoder={}), params).startswith(
    'it lacks the weights encoder'
  )
  swapped = own._replace(encoder=own.decoder, decoder=own.encoder)
  assert 'lacks' in released.misfit(swapped, params)
  params['log_gains'] = np.zeros((2, 4))
  assert released.misfit(own, params) == '3 channels in place of 4'
  params['synthesis']['gain'] = np.zeros(3)
  expected = 'decoder.synthesis.gain has the shape (2,) in place of (3,)'
  assert released.misfit(own, params) == expected
