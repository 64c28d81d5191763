import re
import shutil

import pytest
from PIL import Image as PILImage

from compress_jax.codec import CodecError
from compress_jax.report import tables
from experiments import kodak, merge
from tests.helpers.small_models import picture


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
  """A comparison of JPEG and PNG on two images."""
  root = tmp_path_factory.mktemp('measured')
  (root / 'images').mkdir()
  for seed in range(2):
    PILImage.fromarray(picture(300, 400, seed)).save(root / 'images' / f'{seed}.png')
  flags = {'images': root / 'images', 'output': root / 'out', 'methods': 'jpeg,png'}
  told = [f'--{name}={value}' for name, value in {**flags, 'metrics': 'psnr'}.items()]
  assert kodak.main(['kodak', *told, '--workers=1']) == 0
  return root / 'images', root / 'out'


@pytest.fixture
def folders(measured, tmp_path):
  """The images, the comparison without its files, and later measurements of JPEG."""
  images, output = measured
  into, new = tmp_path / 'into', tmp_path / 'new'
  into.mkdir()
  shutil.copy(output / 'results.json', into)
  meta, rows = tables.read_results(output)
  later = [{**row, 'decode_s': 9.0} for row in rows if row['codec'] == 'jpeg']
  tables.write_results(new, {**meta, 'command': 'later', 'date': 'today'}, later)
  return images, into, new


def merge_all(images, into, new, *flags):
  return merge.main(['merge', f'--images={images}', f'--into={into}', f'--new={new}', *flags])


def test_codecs_are_replaced_and_the_page_is_drawn_from_files_made_anew(folders, capsys):
  _, into, _ = folders
  before = tables.read_results(into)[1]
  assert merge_all(*folders, '--page') == 0, capsys.readouterr().err
  meta, rows = tables.read_results(into)
  assert [{**row, 'decode_s': 0} for row in rows] == [{**row, 'decode_s': 0} for row in before]
  assert {row['codec'] for row in rows if row['decode_s'] == 9} == {'jpeg'}
  assert meta['command'].endswith('; later (jpeg, today)') and meta['date'] == 'today'
  assert 'data:image' in (into / 'index.html').read_text()
  assert (into / 'figures' / 'rd-all.png').exists()
  assert re.search(r'\| jpeg \| \S+ \| 9 \|', (into / 'tables.md').read_text())


def test_nothing_is_written_if_a_file_is_not_that_of_its_row(folders, capsys):
  _, into, new = folders
  before = (into / 'results.json').read_text()
  meta, rows = tables.read_results(new)
  tables.write_results(new, meta, [{**row, 'sha256_file': '0' * 64} for row in rows])
  assert merge_all(*folders, '--page') == 1
  assert re.search('jpeg at .* no longer makes the file of 0', capsys.readouterr().err)
  assert [path.name for path in into.iterdir()] == ['results.json']
  assert (into / 'results.json').read_text() == before


def row(codec='jpeg', quality=5, image='a', protocol='full', **metrics):
  names = {'codec': codec, 'quality': quality, 'image': image, 'protocol': protocol}
  return {**names, 'psnr': 30.0, **metrics}


@pytest.mark.parametrize(
  ('new', 'message'),
  [
    ([row(protocol='crop')], 'crop and full'),
    ([row(image='b')], 'jpeg at 5 on a is not in both'),
    ([row(quality=6)], 'jpeg at 5 on a is'),
    ([row(), row(image='b')], 'jpeg at 5 on b is'),
    ([row('webp', 7, 'b')], 'webp at 7 on a is'),
    ([row(lpips=None)], 'the new rows of jpeg lack lpips'),
  ],
)
def test_only_measurements_of_the_same_points_are_merged(new, message):
  with pytest.raises(CodecError, match=message):
    merge.merged({'command': 'c'}, [row(lpips=0.1)], {'command': 'd', 'date': 'e'}, new)


def test_other_codecs_follow_in_order():
  meta, new = {'command': 'c', 'seed': 0}, {'command': 'd', 'date': 'e'}
  rows = [row('webp'), row('jpeg')]
  found_meta, found = merge.merged(meta, rows, new, [row('avif'), row('webp')])
  assert [each['codec'] for each in found] == ['webp', 'jpeg', 'avif']
  assert found_meta == {'command': 'c; d (avif, webp, e)', 'seed': 0, 'date': 'e'}


def test_both_folders_are_needed(capsys):
  assert merge.main(['merge', '--into=somewhere']) == 2
  assert '--new' in capsys.readouterr().err
