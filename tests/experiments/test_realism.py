"""The realism experiment measures real files of models and of classical codecs."""

import json

import numpy as np
import pytest

from compress_jax.images import sets
from experiments import realism
from tests.helpers import small_models


@pytest.fixture
def folder(tmp_path):
  for i, image in enumerate(small_models.photographs().values()):
    sets.save_image(tmp_path / f'{i}.png', sets.centre_crop(image, 160))
  return tmp_path


@pytest.mark.slow
def test_a_line_per_operating_point_and_a_picture_at_equal_bytes(folder, capsys):
  picture = folder / 'out' / 'shown.png'
  codec = f'--codec=small=cae:{small_models.path("cae")}'
  flags = [codec, '--codec=jpeg', '--lambdas=0.0009,0.1', '--limit=2', '--target_bpp=1.5']
  picture.parent.mkdir()
  picture.write_bytes(b'of an earlier run')
  assert realism.main(['realism', f'--images={folder}', *flags, f'--picture={picture}']) == 0
  rows = [line.split('|') for line in capsys.readouterr().out.splitlines() if line[:1] == '|'][2:]
  assert [row[1].strip() for row in rows[:3]] == ['small', 'small', 'jpeg']
  far = {(row[1].strip(), float(row[2])): float(row[5].split()[0]) for row in rows}
  bpp = {(row[1].strip(), float(row[2])): float(row[3]) for row in rows}
  assert far['small', 0.1] < far['small', 0.0009] and bpp['small', 0.1] > bpp['small', 0.0009]
  assert far['jpeg', 95] < far['jpeg', 10] < far['jpeg', 2]
  shown = sets.load_image(picture)
  assert shown.shape == (320, 3 * 320, 3)
  first = sets.load_image(folder / '0.png')
  np.testing.assert_array_equal(shown[::2, :320:2], first)


def test_rows_are_kept_as_json_and_their_table_as_markdown(folder, capsys):
  codecs = [f'--codec=small=cae:{small_models.path("cae")}', '--codec=png']
  output = folder / 'rows.json'
  flags = [*codecs, '--lambdas=0.0009', '--limit=2', f'--output={output}']
  assert realism.main(['realism', f'--images={folder}', *flags]) == 0
  rows = json.loads(output.read_text())['rows']
  assert [(row['codec'], row['images']) for row in rows] == [('small', 2), ('png', 2)]
  assert rows[0]['low'] <= rows[0]['distance'] <= rows[0]['high']
  assert rows[1]['distance'] == pytest.approx(0, abs=1e-6)
  assert (folder / 'rows.md').read_text() == realism.table(rows)
  assert {row['ssimulacra2'] for row in rows} == {None}  # The images are too small.
  assert realism.table(rows).splitlines()[2].count('|') == realism.WIDE_HEAD.count('|') // 2
  old = [{k: v for k, v in row.items() if k not in ('ssimulacra2', 'lpips')} for row in rows]
  assert realism.table(old).startswith(realism.HEAD)
  assert realism.table(rows) in capsys.readouterr().out
  assert realism.main(['realism', f'--images={folder}', *flags[:-1], '--output=rows.md']) == 2


@pytest.mark.parametrize(
  'flags,message',
  [
    ([], '--codec says what to measure'),
    (['--codec=cae', '--lambdas=much'], "--lambdas: could not convert string to float: 'much'"),
    (['--codec=vvc'], "no method 'vvc'"),
    (['--codec=cae:missing.safetensors'], 'missing.safetensors'),
  ],
)
def test_what_is_not_there_is_named(flags, message, folder, capsys):
  assert realism.main(['realism', f'--images={folder}', *flags]) != 0
  assert message in capsys.readouterr().err


ROWS = [
  {'codec': name, 'point': 0.1, 'images': 2, 'bpp': bpp, 'psnr': 10 * bpp, 'distance': 4 - bpp}
  | {'low': 3 - bpp, 'high': 5 - bpp, 'ssimulacra2': 100 * bpp, 'lpips': lpips}
  for name, bpp, lpips in (('a', 2.0, 0.5), ('a', 1.0, 0.7), ('b', 1.5, 0.25), ('b', 2.5, None))
]


def test_a_row_between_two_points_is_on_the_line_between_them():
  row = realism.at_rate(ROWS, 'a', 1.25)
  assert row['lpips'] == pytest.approx(0.65)
  assert (row['psnr'], row['distance'], row['ssimulacra2']) == pytest.approx((12.5, 2.75, 125))
  assert realism.at_rate(ROWS, 'a', 0.99) is None
  assert realism.at_rate(ROWS, 'c', 1.5) is None


def test_codecs_are_listed_at_equal_rates_where_they_reach_them():
  lines = realism.equal_table(ROWS, [1.0, 1.5]).splitlines()[2:]
  assert lines == [
    '| 1 | a | 10.00 | 3.000 (2.000 to 4.000) | 100.00 | 0.7000 |',
    '| 1.5 | a | 15.00 | 2.500 (1.500 to 3.500) | 150.00 | 0.6000 |',
    '| 1.5 | b | 15.00 | 2.500 (1.500 to 3.500) | 150.00 | no weights |',
  ]
