"""From float weights to a model that codes files, on the command line."""

import json

import jax
import numpy as np
import pytest
from PIL import Image as PILImage

from compress_jax.cli import main
from compress_jax.codec import CodecError
from compress_jax.files import models
from compress_jax.learned import released, stablehlo
from compress_jax.methods.cae import codec as cae
from compress_jax.model_zoo import load_model
from compress_jax.training import float_weights

OPTIONS = {'widths': (4, 4, 4), 'levels': 2}
CODEC = cae.codec(**OPTIONS)


def random_params(seed=0):
  shapes = jax.eval_shape(CODEC.init, jax.random.key(0))
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda v: rng.normal(size=v.shape).astype(np.float32), shapes)


PARAMS = random_params()


def write_weights(path, params=PARAMS, method='cae', **config):
  models.write(
    path,
    released.flatten(params, 'params'),
    {'method': method, 'options': OPTIONS, **config},
    overwrite=True,
  )
  return path


def export(source, target, *flags):
  return main.main(
    ['compress-jax', '--mode=export', f'--input={source}', f'--output={target}', *flags]
  )


def failure(capsys):
  """The one line that an error is."""
  out, err = capsys.readouterr()
  assert out == '' and err.startswith('compress-jax: error: ') and err.count('\n') == 1, err
  return err.removeprefix('compress-jax: error: ')


@pytest.fixture
def weights(tmp_path):
  return write_weights(tmp_path / 'weights.safetensors')


def test_the_model_is_what_export_makes_of_the_weights(weights, tmp_path, capsys):
  target = tmp_path / 'model.safetensors'
  assert export(weights, target) == 0
  expected = CODEC.export(PARAMS, [])
  assert capsys.readouterr().out == f'{target}: cae model {expected.model_id.hex()}\n'
  arrays, config = models.read(target)
  ratios = config.pop('lambda_ratios')
  assert config == {'method': 'cae', 'options': {'widths': [4, 4, 4], 'levels': 2}}
  assert len(ratios) == 9 and load_model('cae', str(target))[1].ratios == tuple(ratios)
  assert arrays.keys() == released.to_arrays(expected).keys()


def test_the_id_that_is_printed_is_that_of_the_model_in_the_file(weights, tmp_path, capsys):
  target = tmp_path / 'model.safetensors'
  export(weights, target)
  options, found = load_model('cae', str(target))
  assert options['widths'] == [4, 4, 4]
  assert found.model_id.hex() in capsys.readouterr().out


def test_half_rounds_the_weights_to_16_bits_and_halves_the_file(weights, tmp_path):
  full, half = tmp_path / 'full', tmp_path / 'half'
  assert export(weights, full) == export(weights, half, '--set=half=True') == 0
  arrays = models.read(half)[0]
  for name, value in released.flatten({'synthesis': PARAMS['synthesis']}, 'decoder').items():
    assert arrays[name].dtype == np.float16
    np.testing.assert_array_equal(arrays[name], value.astype(np.float16))
  floats = sum(v.nbytes for k, v in models.read(full)[0].items() if 'coding' not in k)
  assert full.stat().st_size - half.stat().st_size == pytest.approx(floats / 2, rel=0.02)


def test_a_model_is_overwritten_only_by_force(weights, tmp_path, capsys):
  target = tmp_path / 'model'
  target.write_text('precious')
  assert export(weights, target) == 1
  assert '--force' in failure(capsys)
  assert target.read_text() == 'precious'
  assert export(weights, target, '--force') == 0
  assert len(target.read_bytes()) > 1000


@pytest.mark.parametrize('missing', ['input', 'output'])
def test_a_missing_flag_is_named(missing, capsys):
  flags = [f'--{name}=x' for name in ('input', 'output') if name != missing]
  assert main.main(['compress-jax', '--mode=export', *flags]) == 2
  assert f'--{missing}' in failure(capsys)


@pytest.mark.parametrize('option', ['half=maybe', 'half=1', 'quality=3'])
def test_other_options_are_refused(option, weights, tmp_path, capsys):
  assert export(weights, tmp_path / 'model', f'--set={option}') == 1
  assert 'half and deflate, each True or False' in failure(capsys)


def test_files_without_float_weights_are_refused(weights, tmp_path, capsys):
  target = tmp_path / 'model'
  for source in (tmp_path / 'none', PILImage.__file__):
    assert export(source, target) == 1
    assert 'is not a model file' in failure(capsys)
  models.write(tmp_path / 'other', {'coding.x': np.ones(1)}, {'method': 'cae'})
  assert export(tmp_path / 'other', target) == 1
  assert 'no float weights' in failure(capsys)
  assert export(write_weights(tmp_path / 'k', method='kmeans'), target) == 1
  assert 'kmeans has no float weights' in failure(capsys)
  assert export(write_weights(tmp_path / 'n', method='nothing'), target) == 1
  assert "no method 'nothing'" in failure(capsys)
  assert not target.exists()


WRONG = {
  'no options': {'options': None},
  'an option that is not there': {'options': {'colour': 1}},
  'options that do not fit the weights': {'options': {'widths': (4, 4, 8)}},
}


@pytest.mark.parametrize('name', WRONG)
def test_weights_with_a_wrong_config_are_refused(name, tmp_path):
  source = write_weights(tmp_path / 'weights', **WRONG[name])
  assert export(source, tmp_path / 'model') == 1


@pytest.mark.parametrize('part', ['analysis', 'synthesis', 'prior'])
def test_weights_that_are_no_numbers_are_refused(part, tmp_path):
  params = {**PARAMS, part: jax.tree.map(lambda v: v * np.nan, PARAMS[part])}
  source = write_weights(tmp_path / 'weights', params)
  with np.errstate(invalid='ignore'):
    assert export(source, tmp_path / 'model') == 1


@pytest.mark.parametrize('part', ['synthesis', 'prior', 'log_gains'])
def test_weights_that_lack_a_part_are_refused(part, tmp_path):
  params = {name: value for name, value in PARAMS.items() if name != part}
  assert export(write_weights(tmp_path / 'weights', params), tmp_path / 'model') == 1


@pytest.mark.parametrize('name', ['a.pth', 'a.pth.tar', 'a.pt'])
def test_checkpoints_of_torch_are_read_as_compressai(name, tmp_path, monkeypatch):
  monkeypatch.setattr(float_weights.compressai, 'read', lambda path: (path.name, {'channels': 128}))
  expected = name, {'method': 'gmm', 'options': {'channels': 128}}
  assert float_weights.weights(tmp_path / name) == expected


def test_calibration_takes_a_few_images_of_all_folders_cropped(tmp_path):
  for i in range(20):
    folder = tmp_path / ('one' if i < 10 else 'two')
    folder.mkdir(exist_ok=True)
    PILImage.new('RGB', (530 if i == 0 else 20, 16), (i, i, i)).save(folder / f'{i:02}.png')
  images = float_weights.calibration([str(tmp_path / 'one'), str(tmp_path / 'two')])
  assert len(images) == 8
  assert images[0].shape == (16, 512, 3)
  colours = [image[0, 0, 0] for image in images]
  assert colours == sorted(set(colours)) and colours[-1] >= 10
  assert len(float_weights.calibration([str(tmp_path / 'two')])) == 8


def test_calibration_without_folders_takes_the_photographs_at_hand():
  images = float_weights.calibration(None)
  assert 3 <= len(images) <= 8
  assert all(max(image.shape[:2]) <= 512 and image.dtype == np.uint8 for image in images)


def test_a_folder_without_images_is_refused(tmp_path):
  with pytest.raises(CodecError, match='no images'):
    float_weights.calibration([str(tmp_path)])


def test_lambdas_of_a_model_are_measured_without_exporting_it_again(weights, tmp_path, capsys):
  target = tmp_path / 'model.safetensors'
  export(weights, target)
  arrays, config = models.read(target)
  ratios = config.pop('lambda_ratios')
  models.write(target, arrays, config, overwrite=True)
  before = target.read_bytes()
  assert load_model('cae', str(target))[1].ratios == ()
  capsys.readouterr()
  assert export(target, tmp_path / 'model.lambdas.json') == 0
  assert 'lambdas of the cae model' in capsys.readouterr().out
  assert target.read_bytes() == before
  assert load_model('cae', str(target))[1].ratios == tuple(ratios)
  assert export(target, tmp_path / 'model.lambdas.json') == 1
  assert '--force' in failure(capsys)


def test_lambdas_of_what_is_no_model_are_refused(weights, tmp_path, capsys):
  assert export(weights, tmp_path / 'weights.lambdas.json') == 1
  assert 'holds float weights only' in failure(capsys)
  assert not (tmp_path / 'weights.lambdas.json').exists()


def test_stablehlo_is_a_folder_of_programs_and_the_model(weights, tmp_path, capsys):
  model, folder = tmp_path / 'model.safetensors', tmp_path / 'new' / 'programs'
  assert export(weights, model) == export(model, folder, '--format=stablehlo') == 0
  options, found = load_model('cae', str(folder / 'model.safetensors'))
  assert capsys.readouterr().out.endswith(f'programs of the cae model {found.model_id.hex()}\n')
  own = load_model('cae', str(model))
  assert (options, found.model_id, found.ratios) == (own[0], own[1].model_id, own[1].ratios)
  about = json.loads((folder / 'programs.json').read_text())
  assert about == {'method': 'cae', 'model_id': found.model_id.hex(), 'cell': 8, 'channels': 4}
  made = stablehlo.programs(CODEC, own[1])
  assert (folder / 'analysis.stablehlo').read_bytes() == made.analysis
  assert (folder / 'synthesis.stablehlo').read_bytes() == made.synthesis
  assert export(model, folder, '--format=stablehlo') == 1
  assert '--force' in failure(capsys)
  assert export(model, folder, '--format=stablehlo', '--force') == 0


def test_stablehlo_is_of_a_model_alone(weights, tmp_path, capsys):
  folder = tmp_path / 'programs'
  assert export(weights, folder, '--format=stablehlo') == 1
  assert 'holds float weights only' in failure(capsys)
  assert export('kmeans', folder, '--format=stablehlo') == 1
  assert 'no model of a learned method' in failure(capsys)
  assert export('cae', folder, '--format=stablehlo', '--set=half=True') == 2
  assert 'export a model first' in failure(capsys)
  assert not folder.exists()
