import json

import pytest

from compress_jax.codec import CodecError
from compress_jax.report import tables
from experiments import training_curve

FOUR = (0.0035, 0.0067, 0.013, 0.025)


def rows_of(codec, factor):
  """Rows of a curve that needs `factor` times the bits of the anchor."""
  ours = codec != 'avif'
  return [
    {
      **{'method': 'gmm' if ours else codec, 'codec': codec, 'image': 'a', 'protocol': 'crop'},
      **({'lambda': at} if ours else {'quality': 1000 * at}),
      **{'width': 256, 'height': 256, 'bpp': factor * 2.0**i / 8, 'psnr': 28.0 + 2 * i},
      **{'ms_ssim': 0.9, 'bytes': 9, 'encode_s': 0.1, 'decode_s': 0.1, 'split': {}},
      **{'sha256_file': '', 'sha256_pixels': '', 'file': 'a'},
    }
    for i, at in enumerate(FOUR)
  ]


ROWS = [
  *rows_of('avif', 1.0), *rows_of('60', 0.9), *rows_of('0', 1.2), *rows_of('30', 1.0),
  *rows_of('other', 0.5),
]  # fmt: skip


def test_points_are_in_the_order_of_training_with_slopes_per_hour():
  found = training_curve.points(ROWS, 'avif')
  assert [point.minutes for point in found] == [0, 30, 60]
  assert [point.cell.mean.percent for point in found] == pytest.approx([20, 0, -10])
  assert found[0].slope is None
  assert [point.slope for point in found[1:]] == pytest.approx([-40, -20])


def test_a_table_has_a_line_for_each_model():
  lines = training_curve.table(ROWS, 'avif').splitlines()
  assert lines[2] == '| 0 | +20.0 % (28.0–34.0 dB) | 0 of 1 |  |'
  assert lines[4] == '| 60 | −10.0 % (28.0–34.0 dB) | 1 of 1 | −20.0 % |'
  assert len(lines) == 5


def test_a_figure_shows_the_rates_over_the_minutes():
  [axes] = training_curve.figure(ROWS, 'avif').axes
  [line] = axes.lines
  assert list(line.get_xdata()) == [0, 30, 60]
  assert list(line.get_ydata()) == pytest.approx([20, 0, -10])


@pytest.mark.parametrize(
  ('rows', 'message'),
  [
    (rows_of('0', 1.0), 'no curve of avif'),
    ([*rows_of('avif', 1.0), *rows_of('other', 1.0)], 'a number of minutes'),
    ([*rows_of('avif', 1.0), *rows_of('0', 1.0)[:2]], 'do not overlap'),
    ([*rows_of('avif', 1.0), *rows_of('60', 1.0), *rows_of('60.0', 1.0)], 'the same minutes, 60.0'),
  ],
)
def test_rows_without_curves_are_refused(rows, message):
  with pytest.raises(CodecError, match=message):
    training_curve.points(rows, 'avif')


def test_the_rows_that_count_are_kept_with_table_and_figure(tmp_path, capsys):
  tables.write_results(tmp_path / 'rows', {'images': 'one'}, ROWS)
  output = tmp_path / 'out' / 'curve'
  assert training_curve.main(['curve', f'--rows={tmp_path / "rows"}', f'--output={output}']) == 0
  assert capsys.readouterr().out == training_curve.table(ROWS, 'avif')
  kept = json.loads(output.with_suffix('.json').read_text())
  assert {row['codec'] for row in kept['rows']} == {'avif', '0', '30', '60'}
  names = {path.name for path in output.parent.iterdir()}
  assert names == {'curve.json', 'curve.md', 'curve.png', 'curve.svg'}


def test_rows_have_to_be_named(capsys):
  assert training_curve.main(['curve']) == 2
  assert '--rows is missing' in capsys.readouterr().err
