import json

import numpy as np
import pytest
from PIL import Image as PILImage

from experiments import kodak
from tests.helpers import small_models


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp('comparison')
  (root / 'images').mkdir()
  for seed in range(2):
    noise = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)
    soft = PILImage.fromarray(noise).resize((400, 300), PILImage.Resampling.BICUBIC)
    soft.save(root / 'images' / f'{seed}.png')
  return root / 'images', root / 'out'


def compare(folders, *flags):
  images, output = folders
  usual = {'--images': images, '--output': output, '--methods': 'jpeg,png', '--workers': 1}
  given = {flag.partition('=')[0] for flag in flags}
  rest = [f'{name}={value}' for name, value in usual.items() if name not in given]
  return kodak.main(['kodak', *rest, *flags])


def test_a_comparison_writes_its_report_and_goes_on_where_it_was(folders, capsys):
  output = folders[1]
  assert compare(folders, '--limit=1') == 0
  assert '0 of them from earlier runs' in capsys.readouterr().out
  assert compare(folders) == 0
  out = capsys.readouterr().out
  assert '38 rows, 19 of them from earlier runs' in out and 'jpeg' in out
  found = json.loads((output / 'results.json').read_text())
  assert {row['image'] for row in found['rows']} == {'0', '1'}
  assert {(row['width'], row['height']) for row in found['rows']} == {(256, 256)}
  assert {'seed', 'date', 'machine', 'versions', 'processes'} <= set(found['meta'])
  for name in ('results.csv', 'index.html', 'compressai/jpeg.json', 'figures/rd-all.png'):
    assert (output / name).stat().st_size > 0
  for row in found['rows']:
    assert (output / row['file']).stat().st_size == row['bytes']


def test_metrics_are_chosen_by_a_flag_and_described(folders, tmp_path, capsys):
  flags = ['--limit=1', '--methods=png', f'--output={tmp_path}']
  for metrics, expected in (('ssimulacra2,lpips', {'ssimulacra2', 'lpips'}), ('psnr', set())):
    assert compare(folders, *flags, f'--metrics={metrics}') == 0, capsys.readouterr().err
    found = json.loads((tmp_path / 'results.json').read_text())
    assert set(found['meta']['metrics']) == expected
    assert {'ssimulacra2', 'lpips'} & set(found['rows'][0]) == expected
  assert 'not measured' in (tmp_path / 'index.html').read_text()


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--metrics=vmaf', "no metric 'vmaf'"),
    ('--lpips=/nowhere.pth', 'cannot read /nowhere.pth'),
    ('--methods=jpg', "no codec 'jpg'; there are: kmeans"),
    ('--lambdas=0.1,high', "'high'"),
    ('--images=/nowhere', '/nowhere: no such'),
    (f'--methods=cae,cae:{small_models.path("cae")}', "two codecs are named 'cae'"),
  ],
)
def test_a_wrong_comparison_gets_one_line(folders, flag, message, capsys):
  assert compare(folders, flag, *(['--methods=kmeans'] if 'lambdas' in flag else [])) > 0
  out, err = capsys.readouterr()
  assert out == '' and message in err and err.count('\n') == 1


def test_models_of_ones_own_stand_beside_the_others(folders, tmp_path, capsys):
  methods = f'--methods=mine=gan:{small_models.path("gan")}'
  ends = ['--limit=1', '--lambdas=0.0067,0.013', f'--output={tmp_path}']
  assert compare(folders, methods, *ends) == 0, capsys.readouterr().err
  rows = json.loads((tmp_path / 'results.json').read_text())['rows']
  assert [(row['codec'], row['method']) for row in rows] == [('mine', 'gan')] * 2
  assert 'data:image/webp' in (tmp_path / 'index.html').read_text()
  assert compare(folders, '--methods=mine=gan:/nowhere', *ends) > 0
  assert '/nowhere' in capsys.readouterr().err


@pytest.mark.parametrize(('name', 'expected'), [('photograph', False), ('kodim01', True)])
@pytest.mark.slow
def test_published_curves_stand_beside_the_whole_suite_alone(
  name, expected, folders, tmp_path, monkeypatch
):
  monkeypatch.setattr(kodak.kodak, 'SHA256', {'kodim01.png': 'a suite of one image'})
  (tmp_path / 'images').mkdir()
  (tmp_path / 'images' / f'{name}.png').write_bytes((folders[0] / '0.png').read_bytes())
  flags = '--protocol=full', '--lambdas=0.0067', f'--methods=mine=gan:{small_models.path("gan")}'
  own = [f'--images={tmp_path / "images"}', f'--output={tmp_path / "out"}']
  assert compare(folders, *flags, *own) == 0
  assert ('published curves' in (tmp_path / 'out' / 'tables.md').read_text()) == expected
