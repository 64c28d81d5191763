"""--lambda means one thing: the files written at it are its cheapest, for every method."""

import json
import shutil

import numpy as np
import pytest

from compress_jax import bitstream, model_zoo
from compress_jax.codec import LAMBDA_RANGE, CodecError, level_of
from compress_jax.files import models
from compress_jax.images import sets
from compress_jax.learned import lambdas
from compress_jax.methods.kmeans import per_image
from compress_jax.training import float_weights
from tests.helpers import small_models
from tests.helpers.slow import but_for

EVERY = (0.0009, 0.0013, 0.0025, 0.0067, 0.013, 0.035, 0.1)
FEW = (0.0009, 0.0018, 0.0067, 0.05)
CODECS = {
  'kmeans-universal': ('kmeans', {}),
  'kmeans-image': ('kmeans', {'codebook': 'image'}),
  'cae': ('cae', {}),
  'gan': ('gan', {}),
  'gmm': ('gmm', {}),
}
HALVES = tuple(0.5 for _ in lambdas.KNOTS)


def costs(method, options, photographs, points):
  """bpp and MSE, means over photographs, of the files of each lambda."""
  found = {}
  for lmbda in points:
    codec, released = model_zoo.pretrained(method, lmbda=lmbda, **options)
    files = [codec.encode(released, image) for image in photographs]
    pairs = list(zip(files, photographs, strict=True))
    bpp = np.mean([8 * len(file) / image[..., 0].size for file, image in pairs])
    mse = np.mean([np.mean((codec.decode(released, f).astype(float) - x) ** 2) for f, x in pairs])
    found[lmbda] = bpp, mse
  return found


@pytest.mark.parametrize('name', but_for(CODECS, 'cae', 'gan'))
def test_no_other_lambda_gives_cheaper_files_than_a_lambda_itself(name, monkeypatch):
  photographs = [sets.centre_crop(x, 128) for x in small_models.photographs().values()]
  points = EVERY
  if name == 'kmeans-image':  # K-means is compiled for every size.
    monkeypatch.setattr(per_image, '_SIZES', [8, 32, 128, 512])
    photographs, points = photographs[:2], FEW
  found = costs(*CODECS[name], photographs, points)
  for lmbda, (bpp, mse) in found.items():
    others = {other: b + lmbda * m for other, (b, m) in found.items() if other != lmbda}
    least = min(others, key=others.__getitem__)
    assert bpp + lmbda * mse <= 1.01 * others[least], (lmbda, least)


@pytest.mark.parametrize('finer', [0.5, 0.8, 1.0, 1.6])
def test_the_ratio_of_files_that_are_optimal_elsewhere_is_found(finer):
  # Of D = s^-a and R = a / (1 - a) s^(1 - a), dR/dD = -s: the least R + lambda D is at s = lambda.
  given = np.geomspace(*LAMBDA_RANGE, 17)
  s, a = finer * given, 0.6
  ratios = lambdas.ratios_of(given, a / (1 - a) * s ** (1 - a), s**-a)
  low, high = LAMBDA_RANGE
  steps = np.clip(np.multiply(ratios, lambdas.KNOTS), low, high)
  np.testing.assert_allclose(steps, np.clip(np.divide(lambdas.KNOTS, finer), low, high), rtol=0.02)
  # Between the first two knots too, where one is beyond the range.
  inner = 1.3 * low
  between = np.clip(lambdas.steps_of(inner, ratios), low, high)
  assert between == pytest.approx(np.clip(inner / finer, low, high), rel=0.12)


def test_between_knots_ratios_are_interpolated_and_beyond_them_kept():
  ratios = tuple(np.geomspace(1, 0.25, len(lambdas.KNOTS)))
  for at, ratio in ((0, 1), (4, 0.5), (8, 0.25)):
    assert lambdas.steps_of(lambdas.KNOTS[at], ratios) == pytest.approx(ratio * lambdas.KNOTS[at])
  middle = np.sqrt(lambdas.KNOTS[0] * lambdas.KNOTS[8])
  assert lambdas.steps_of(middle, ratios) == pytest.approx(0.5 * middle)
  assert lambdas.steps_of(0.4, ratios) == pytest.approx(0.1)
  assert lambdas.steps_of(0.02, ()) == 0.02
  assert lambdas.highest(ratios) == pytest.approx(0.4) and lambdas.highest(()) == 0.1


@pytest.fixture
def model(tmp_path):
  """A copy of the small cae, whose file has no ratios."""
  path = tmp_path / 'mine.safetensors'
  shutil.copyfile(small_models.path('cae'), path)
  return path


def load(path, lmbda=0.02):
  return model_zoo.pretrained('cae', lmbda=lmbda, model=str(path))


def test_the_file_beside_a_model_decides_the_level_and_nothing_that_decodes(model):
  image = small_models.picture(40, 56)
  plain, released = load(model)
  old = plain.encode(released, image)
  assert bitstream.unpack(old)[0].level == level_of(0.02)
  lambdas.beside(model).write_bytes(lambdas.written(HALVES, released.model_id))
  codec, found = load(model)
  new = codec.encode(found, image)
  assert found.model_id == released.model_id and found.ratios == HALVES
  assert bitstream.unpack(new)[0].level == level_of(0.01)
  assert new == load(small_models.path('cae'), 0.01)[0].encode(released, image)
  np.testing.assert_array_equal(codec.decode(found, old), plain.decode(released, old))
  np.testing.assert_array_equal(plain.decode(released, new), codec.decode(found, new))
  assert (codec.quantise(found, image).q == codec.latents(found, new).q).all()


def test_a_model_file_may_hold_its_ratios_itself(model):
  arrays, config = models.read(model)
  bare = load(model)[1]
  models.write(model, arrays, {**config, lambdas.FIELD: HALVES}, overwrite=True)
  found = load(model)[1]
  assert found.ratios == HALVES and found.model_id == bare.model_id


def test_every_level_of_a_model_stays_in_reach(model):
  lambdas.beside(model).write_bytes(lambdas.written(HALVES, load(model)[1].model_id))
  codec, released = load(model, 0.2)
  file = codec.encode(released, small_models.picture(16, 16))
  assert bitstream.unpack(file)[0].level == 255
  assert model_zoo.lambda_range('cae', released) == (LAMBDA_RANGE[0], 0.2)
  with pytest.raises(CodecError, match=r'lambda is 0.21; it must be between 0.0009 and 0.2'):
    load(model, 0.21)


@pytest.mark.parametrize(
  'content,message',
  [
    ({'model': '00000000', 'lambda_ratios': HALVES}, 'belongs to the model 00000000'),
    ({'lambda_ratios': HALVES}, 'holds no ratios'),
    ({'model': None, 'lambda_ratios': HALVES[1:]}, 'must be 9 numbers'),
    ({'model': None, 'lambda_ratios': [float('nan')] * 9}, 'must be 9 numbers'),
    ({'model': None, 'lambda_ratios': [0.0] * 9}, 'must be 9 numbers'),
    ([], 'holds no ratios'),
  ],
)
def test_a_damaged_table_is_named(model, content, message):
  if isinstance(content, dict) and content.get('model', '') is None:
    content['model'] = load(model)[1].model_id.hex()
  lambdas.beside(model).write_text(json.dumps(content))
  with pytest.raises(CodecError, match=message) as raised:
    load(model)
  assert 'mine.lambdas.json' in str(raised.value)


def test_a_model_of_one_rate_has_no_ratios():
  assert float_weights.measured_ratios('cae', {'levels': 1}, None, []) == ()


def test_measured_ratios_make_the_files_of_a_model_obey_lambda():
  released = small_models.load('cae')[1]
  options = model_zoo.load_model('cae', small_models.path('cae'))[0]
  photographs = list(small_models.photographs().values())
  ratios = float_weights.measured_ratios('cae', options, released, photographs)
  assert len(ratios) == len(lambdas.KNOTS) and set(ratios) != {1.0}
  again = float_weights.measured_ratios(
    'cae', options, released._replace(ratios=HALVES), photographs
  )
  assert again == ratios  # Those that a model has do not count.
