import sys
import types

import numpy as np
import pytest

import compress_jax.model_zoo as pre
from compress_jax import baselines, bitstream, methods, recipes
from compress_jax.codec import Codec, CodecError, Method
from compress_jax.evaluation import fingerprint
from compress_jax.files import models
from tests.helpers import small_models


@pytest.fixture
def fake_method(monkeypatch):
  def factory(*, lmbda, colour='rgb'):
    return Codec(
      lambda released, image: repr((lmbda, colour)).encode(), lambda released, data: data
    )

  monkeypatch.setitem(
    sys.modules, 'fake_method', types.SimpleNamespace(METHOD=Method(factory, (1e-5, 10)))
  )
  fake = methods.METHODS['kmeans']._replace(module='fake_method')
  monkeypatch.setitem(methods.METHODS, 'kmeans', fake)


def test_the_factory_gets_lambda_and_options(fake_method):
  codec, released = pre.pretrained('kmeans', lmbda=0.5, colour='gray')
  assert codec.encode(released, None) == b"(0.5, 'gray')"


def test_a_wrong_choice_is_told_the_right_ones(fake_method):
  with pytest.raises(CodecError, match="no method 'jpg'; there are: kmeans"):
    pre.pretrained('jpg')
  with pytest.raises(CodecError, match="gmm has no option 'channels': its model has them all"):
    pre.pretrained('gmm', channels=8)
  with pytest.raises(CodecError, match="kmeans has no option 'color'; it has: colour"):
    pre.pretrained('kmeans', color='rgb')
  for lmbda in (0, -1, float('nan'), float('inf'), '0.1'):
    with pytest.raises(CodecError, match=r'lambda is .*; it must be between'):
      pre.pretrained('kmeans', lmbda=lmbda)


@pytest.mark.parametrize('name', methods.METHODS)
def test_a_file_knows_its_method(name):
  data = bitstream.pack(bitstream.Header(methods.METHODS[name].number, 1, 1), b'')
  assert methods.of_file(data) == name


def test_a_file_of_no_known_method_is_refused():
  with pytest.raises(CodecError, match='method number 7'):
    methods.of_file(bitstream.pack(bitstream.Header(7, 1, 1), b''))


@pytest.mark.parametrize('name', baselines.CODECS)
def test_a_recipe_makes_the_codec_that_it_names(name):
  image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
  quality = baselines.CODECS[name].qualities[-1]
  codec, released = recipes.make(recipes.anchor(name, quality))
  file = codec.encode(released, image)
  assert file == baselines.CODECS[name].factory(quality=quality).encode((), image)
  np.testing.assert_array_equal(pre.decoder(name)(file), codec.decode(released, file))


@pytest.mark.parametrize('name', ['jpeg', 'jpeg2000', 'webp', 'avif', 'jxl'])
def test_an_anchor_can_be_asked_for_a_size(name):
  y, x = np.mgrid[:128, :192]
  waves = 127 + 60 * np.sin(x / 7) + 60 * np.cos(y * x / 900)
  image = np.stack([waves, waves.T.reshape(waves.shape), 255 - waves], -1).astype(np.uint8)
  codec, _ = recipes.make(recipes.anchor_of_size(name, 4000))
  file = codec.encode((), image)
  assert 3400 < len(file) < 4600
  assert codec.decode((), file).shape == image.shape


def test_the_qualities_of_jpeg_xl_are_equal_steps_of_the_logarithm_of_its_distance():
  def distance(quality):  # As in libjxl's encode.cc.
    if quality >= 30:
      return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality**2 - 23 / 20 * quality + 25

  distances = np.array([distance(quality) for quality in recipes.QUALITIES['jxl']])
  np.testing.assert_allclose(distances[1:] / distances[:-1], 0.95, atol=1e-9)
  assert distances[0] == 25 and 0.1 < distances[-1] < 0.2


@pytest.mark.parametrize('share', [0.25, 0.5, 0.75])
def test_jpeg_xl_meets_a_size_across_the_knee_of_its_curve(share):
  """Its sizes fall for a few qualities near distance 10, where it leaves half the resolution."""
  image = np.ascontiguousarray(small_models.photographs()['coffee'][100:228, 200:360])
  small, large = (len(baselines.jxl(quality=q).encode((), image)) for q in (2, 60))
  size = round(small ** (1 - share) * large**share)
  codec, _ = recipes.make(recipes.anchor_of_size('jxl', size))
  assert len(codec.encode((), image)) == pytest.approx(size, rel=0.04)


def test_the_fingerprint_covers_what_a_module_imports_and_nothing_else():
  def names(module):
    return {path.name for path in fingerprint.sources(module)}

  assert names('compress_jax.baselines') == {
    'baselines.py',
    'codec.py',
    'errors.py',
    'extras.py',
  }
  assert {'evaluate.py', 'journal.py', 'measure.py', 'codec.py'} <= names(
    'compress_jax.evaluation.evaluate'
  )
  assert 'baselines.py' not in names('compress_jax.evaluation.evaluate')


def test_the_fingerprint_changes_with_a_source(tmp_path, monkeypatch):
  for file in fingerprint.sources('compress_jax.evaluation.metrics'):
    copy = tmp_path / 'compress_jax' / file.relative_to(fingerprint.ROOT)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(file.read_bytes())
  hashed = fingerprint.code_hash.__wrapped__
  before = hashed('compress_jax.evaluation.metrics', ('numpy',))
  monkeypatch.setattr(fingerprint, 'ROOT', tmp_path / 'compress_jax')
  assert hashed('compress_jax.evaluation.metrics', ('numpy',)) == before
  with open(tmp_path / 'compress_jax' / 'codec.py', 'a') as file:
    file.write('# More.\n')
  assert hashed('compress_jax.evaluation.metrics', ('numpy',)) != before


@pytest.mark.parametrize('option', ['model', 'tables'])
def test_a_recipe_changes_with_its_tables_and_not_with_a_card(option, tmp_path):
  file = tmp_path / 'own.safetensors'
  file.write_bytes(b'one')
  before = recipes.recipe('kmeans', **{option: str(file)})
  (tmp_path / 'own.md').write_text('A card.')
  assert recipes.recipe('kmeans', **{option: str(file)}) == before
  file.write_bytes(b'other')
  assert recipes.recipe('kmeans', **{option: str(file)}) != before


DAMAGE = {
  'lacks the weights encoder.analysis.first.kernel': {'encoder.analysis.first.kernel': None},
  'lacks the weights decoder.synthesis.block0.conv1.bias': {
    'decoder.synthesis.block0.conv1.bias': None,
    'decoder.synthesis.block0.conv1.offset': np.zeros(48, np.float32),
  },
  r'encoder.hyper_analysis.conv1.kernel has the shape \(5, 5, 8, 7\) in place of \(5, 5, 8, 8\)': {
    'encoder.hyper_analysis.conv1.kernel': np.zeros((5, 5, 8, 7), np.float32)
  },
  r'decoder.synthesis.norm0.beta has the shape \(1,\) in place of \(3,\)': {
    'decoder.synthesis.norm0.beta': np.zeros(1, np.float32)
  },
}


@pytest.mark.parametrize('message', DAMAGE)
def test_a_model_without_the_weights_of_its_options_is_refused_in_one_line(message, tmp_path):
  arrays, config = models.read(small_models.path('gan'))
  arrays = {k: v for k, v in {**arrays, **DAMAGE[message]}.items() if v is not None}
  models.write(tmp_path / 'model', arrays, config)
  codec, released = pre.pretrained('gan', model=str(tmp_path / 'model'))
  image = small_models.picture(16, 16)
  file = (small_models.FOLDER / 'gan-0.1-pixel.cjx').read_bytes()
  own = released._replace(model_id=bitstream.unpack(file)[0].model_id)
  with pytest.raises(CodecError, match=f'{tmp_path}/model holds no model of its.*{message}') as one:
    codec.decode(own, file) if 'decoder' in message else codec.encode(released, image)
  assert '\n' not in str(one.value)
  with pytest.raises(CodecError, match=message):
    codec.decode_all(own, [file]) if 'decoder' in message else codec.encode_all(released, [image])


def test_a_model_without_a_whole_network_is_refused(tmp_path):
  arrays, config = models.read(small_models.path('cae'))
  arrays = {k: v for k, v in arrays.items() if not k.startswith('encoder.analysis')}
  models.write(tmp_path / 'model', arrays, config)
  codec, released = pre.pretrained('cae', model=str(tmp_path / 'model'))
  with pytest.raises(CodecError, match='lacks the weights encoder'):
    codec.quantise(released, small_models.picture(8, 8))


def test_a_model_of_other_options_is_refused(tmp_path):
  arrays, config = models.read(small_models.path('cae'))
  options = {**config['options'], 'widths': [8, 16, 11]}
  models.write(tmp_path / 'model', arrays, {**config, 'options': options})
  codec, released = pre.pretrained('cae', model=str(tmp_path / 'model'))
  with pytest.raises(CodecError, match=r'down2.bias has the shape \(12,\) in place of \(11,\)'):
    codec.encode(released, small_models.picture(8, 8))


def test_errors_that_are_not_those_of_a_model_stay_what_they_are():
  codec, released = small_models.load('cae')
  with pytest.raises(TypeError, match='missing'):
    codec.encode(released)


@pytest.mark.parametrize('method,options', [('cae', {'widths': [8, 16]}), ('gan', {'base': 'x'})])
def test_a_model_of_options_that_make_no_network_is_refused(method, options, tmp_path):
  arrays, config = models.read(small_models.path(method))
  models.write(tmp_path / 'model', arrays, {**config, 'options': {**config['options'], **options}})
  with pytest.raises(CodecError, match='holds no model of its options'):
    codec, released = pre.pretrained(method, model=str(tmp_path / 'model'))
    codec.encode(released, small_models.picture(8, 8))
