import json
import re

import numpy as np
import pytest
from PIL import Image as PILImage

from compress_jax import baselines, recipes
from compress_jax.cli import comparison, main
from compress_jax.codec import CodecError


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  root = tmp_path_factory.mktemp('images')
  for seed, size in enumerate([(96, 64), (1000, 40)]):
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    PILImage.fromarray(noise).resize(size, PILImage.Resampling.BICUBIC).save(root / f'{seed}.png')
  return root


def report(images, target, *flags):
  given = f'--images={images}', f'--report={target}', '--workers=1', *flags
  return main.main(['compress-jax', *map(str, given)])


def test_one_page_shows_methods_and_classical_codecs_on_any_images(images, tmp_path, capsys):
  target = tmp_path / 'new' / 'page.html'
  flags = '--methods=kmeans-universal,jpeg,jxl', '--lambdas=0.0035,0.013'
  assert report(images, target, *flags) == 0, capsys.readouterr().err
  assert [path.name for path in target.parent.iterdir()] == ['page.html']
  html = target.read_text()
  data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
  assert [codec['id'] for codec in data['codecs']] == ['kmeans-universal', 'jpeg', 'jxl']
  assert data['mean']['kmeans-universal']['at'] in ([0.0035, 0.013], [0.013, 0.0035])
  assert set(data['images']) == set(data['choices']) == {'0', '1'}
  assert 'results.csv' not in html and 'larger than 768 pixels only the middle' in html
  assert str(images) not in html and str(tmp_path) not in html
  assert 'compress-jax --report=page.html --' in html


def test_rows_and_files_stay_in_the_output_folder_and_are_used_again(images, tmp_path, capsys):
  kept = tmp_path / 'kept here'
  flags = '--methods=jpeg', f'--output={kept}'
  assert report(images, tmp_path / 'page.html', *flags) == 0
  assert 'href="kept%20here/results.csv"' in (tmp_path / 'page.html').read_text()
  written = (kept / 'rows.jsonl').stat().st_mtime_ns
  assert len(json.loads((kept / 'results.json').read_text())['rows']) == 2 * len(
    baselines.CODECS['jpeg'].qualities
  )
  assert report(images, tmp_path / 'page.html', *flags) == 0
  assert (kept / 'rows.jsonl').stat().st_mtime_ns == written


def test_a_codec_without_its_plugin_is_named_once(images, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(baselines, 'JXL_PLUGIN', 'no_such_plugin')
  assert report(images, tmp_path / 'page.html', '--methods=jxl,jpeg') == 0
  err = capsys.readouterr().err
  assert err.count('left out: jxl needs no_such_plugin: pip install') == 1
  assert 'jxl needs no_such_plugin' in (tmp_path / 'page.html').read_text()
  with pytest.raises(CodecError, match='needs no_such_plugin'):
    recipes.anchor('jxl', 50)


def test_a_failing_image_is_named_and_the_others_are_shown(images, tmp_path, capsys):
  folder = tmp_path / 'some'
  folder.mkdir()
  (folder / 'good.png').write_bytes((images / '0.png').read_bytes())
  (folder / 'broken.png').write_bytes((images / '0.png').read_bytes()[:100])
  assert report(folder, tmp_path / 'page.html', '--methods=jpeg') == 1
  assert 'broken.png' in capsys.readouterr().err
  assert 'good' in (tmp_path / 'page.html').read_text()


@pytest.mark.parametrize(
  ('flags', 'status', 'message'),
  [
    (['--report=page.png'], 2, 'ends in .html'),
    (['--report=page.html', '--lambda=0.01'], 2, '--lambdas=0.0035,0.013 names them'),
    (['--report=page.html', '--lambdas=high'], 2, 'high'),
    (['--report=page.html', '--json'], 2, '--report and --json exclude each other'),
    (['--report=page.html', '--methods=gmm', '--refine=3'], 2, 'without --refine'),
    (['--report=page.html', '--methods=gmm', '--model=a.safetensors'], 2, 'without --model'),
    (['--report=page.html', '--methods=jpeg,jpeg=gmm:a'], 1, "'jpeg' is the name of a classical"),
    (['--report=page.html', '--methods=jpg'], 1, "no codec 'jpg'"),
    (['--report=/dev/null/page.html'], 1, 'is no folder'),
    (['--methods=jpeg'], 2, '--methods goes with --report'),
    (['--lambdas=0.01'], 2, '--lambdas goes with --report'),
    (['--mode=compress', '--report=page.html'], 2, 'which is for: eval'),
  ],
)
def test_a_wrong_call_gets_one_line(flags, status, message, capsys):
  assert main.main(['compress-jax', *flags]) == status
  out, err = capsys.readouterr()
  assert out == '' and message in err and err.count('\n') == 1


def test_each_model_file_has_a_label_of_its_own():
  assert comparison.variants('mine=cae:a.safetensors') == {
    'mine': ('cae', {'model': 'a.safetensors'})
  }
  assert comparison.variants('gmm:/lr=1e-4/a:b') == {'gmm': ('gmm', {'model': '/lr=1e-4/a:b'})}
  assert list(comparison.variants('kmeans')) == ['kmeans-paper', 'kmeans-image', 'kmeans-universal']
  with pytest.raises(CodecError, match="no codec 'mine=png:a'"):
    comparison.variants('mine=png:a')


def test_a_model_is_named_in_one_place():
  with pytest.raises(CodecError, match='mine=cae:b and an option both name a model'):
    comparison.compared(['mine=cae:b'], [0.01], {'model': 'a'}, 0)
