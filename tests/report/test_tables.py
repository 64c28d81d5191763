"""Rows in, files and numbers out: on curves whose answers follow from algebra."""

import csv
import itertools
import json
import math

import pytest

from compress_jax import methods
from compress_jax.codec import CodecError
from compress_jax.report import byte_split, curves, figures, palette, qualities, tables
from compress_jax.report.curves import Curve
from compress_jax.report.published import Published, read_published
from tests.helpers.rows import PUBLISHED, row

IMAGES = ('one', 'two', 'three')


def line(codec, factor=1.0, images=IMAGES, **others):
  """PSNR of 20 + 4 log2(rate / factor / 0.1) dB at six rates: all codecs differ by their factor."""
  return [
    row(codec, k, image, factor * 0.1 * 2**k, 20.0 + 4 * k, **others)
    for image in images
    for k in range(6)
  ]


@pytest.fixture
def rows():
  split = {'header': 18, 'codebook': 300, 'indices': 900}
  return [
    *line('kmeans-universal', 0.8, split=split),
    *line('jpeg'),
    *(row('png', 0, name, 14.0, None) for name in IMAGES),
  ]


def test_results_json_round_trips(tmp_path, rows):
  meta = {'seed': 0, 'versions': {'jax': '0.10'}, 'machine': 'x'}
  tables.write_results(tmp_path, meta, rows)
  assert tables.read_results(tmp_path) == (meta, rows)


def test_results_csv_holds_every_field_exactly(tmp_path, rows):
  tables.write_results(tmp_path, {}, rows)
  with open(tmp_path / 'results.csv', newline='') as file:
    found = list(csv.DictReader(file))
  assert len(found) == len(rows)
  for got, want in zip(found, rows, strict=True):
    assert set(got) == set(tables.FIELDS)
    assert json.loads(got['split']) == want['split']
    for key in want.keys() - {'split'}:
      assert got[key] == ('' if want[key] is None else str(want[key]))


def test_times_name_their_processors_where_codecs_differ_in_them(rows):
  here = [{**row, 'processor': 'fast, 2 cores'} for row in rows]
  assert tables.times_table(here) == tables.times_table(rows)
  assert 'processor' not in tables.times_table(rows)
  mixed = [row if row['codec'] == 'png' else here[i] for i, row in enumerate(rows)]
  found = tables.times_table(mixed).splitlines()
  assert found[0] == '|  | encode | decode | processor |'
  assert '| jpeg | 0.5 | 0.25 | fast, 2 cores |' in found
  assert '| png | 0.5 | 0.25 | not recorded |' in found
  later = [{**here[0], 'processor': 'slow, 1 core'}, *here[1:]]
  assert tables.times(later)[here[0]['codec']].processor == 'fast, 2 cores; slow, 1 core'


def test_a_metric_that_is_rarely_asked_for_has_a_column_where_a_row_has_it(tmp_path, rows):
  tables.write_results(tmp_path, {}, [{**rows[0], 'wasserstein': 1.5}, *rows[1:]])
  with open(tmp_path / 'results.csv', newline='') as file:
    found = [line['wasserstein'] for line in csv.DictReader(file)]
  assert found == ['1.5', *[''] * (len(rows) - 1)]
  assert tables.read_results(tmp_path)[1][0]['wasserstein'] == 1.5


def test_results_are_valid_json_even_with_infinite_psnr_and_nan_ms_ssim(tmp_path):
  tables.write_results(tmp_path, {}, [row(psnr=math.inf, ms_ssim=math.nan)])

  def fail(name):
    raise AssertionError(f'{name} is not JSON')

  text = (tmp_path / 'results.json').read_text()
  (found,) = json.loads(text, parse_constant=fail)['rows']
  assert found['psnr'] is None
  assert found['ms_ssim'] is None


def test_results_replace_older_ones(tmp_path, rows):
  tables.write_results(tmp_path, {'seed': 0}, rows)
  tables.write_results(tmp_path, {'seed': 1}, rows[:6])
  assert tables.read_results(tmp_path) == ({'seed': 1}, rows[:6])


@pytest.mark.parametrize(
  ('change', 'name'),
  [
    ({'surplus': 1}, 'surplus'),
    ({'psnr': ...}, 'psnr'),
    ({'quality': ...}, 'one of lambda and quality'),
    ({'lambda': 0.1}, 'one of lambda and quality'),
  ],
)
def test_wrong_rows_are_refused_by_name(tmp_path, change, name):
  wrong = {k: v for k, v in {**row(), **change}.items() if v is not ...}
  with pytest.raises(CodecError, match=name):
    tables.write_results(tmp_path, {}, [wrong])


def test_unreadable_results_are_a_codec_error(tmp_path):
  with pytest.raises(CodecError, match=r'no results in'):
    tables.read_results(tmp_path)
  (tmp_path / 'results.json').write_text('{')
  with pytest.raises(CodecError, match=r'no results in'):
    tables.read_results(tmp_path)


def test_compressai_files_hold_means_in_its_keys(tmp_path, rows):
  tables.write_results(tmp_path, {}, rows)
  assert {p.stem for p in (tmp_path / 'compressai').iterdir()} == {'jpeg', 'kmeans-universal'}
  found = json.loads((tmp_path / 'compressai' / 'jpeg.json').read_text())
  assert {'name', 'description', 'results'} == set(found)
  assert found['results']['bpp'] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
  assert found['results']['psnr-rgb'] == [20, 24, 28, 32, 36, 40]
  assert found['results']['ms-ssim-rgb'] == pytest.approx([0.9] * 6)
  assert found['results']['encoding_time'] == [0.5] * 6
  assert found['results']['decoding_time'] == [0.25] * 6


def test_a_curve_is_the_mean_of_rate_and_of_psnr_over_images():
  found = curves.mean_curves([row(rate=1.0, psnr=20.0), row(image='two', rate=3.0, psnr=30.0)])
  assert found == [Curve('jpeg', 'jpeg', (1,), (2.0,), (25.0,), (0.9,))]


def test_points_that_an_image_lacks_are_left_out_and_named(rows):
  short = [r for r in rows if (r['codec'], r['image'], r.get('quality')) != ('jpeg', 'two', 3)]
  jpeg = next(c for c in curves.mean_curves(short) if c.codec == 'jpeg')
  assert jpeg.at == (0, 1, 2, 4, 5)
  assert curves.incomplete(short) == ['jpeg at 3: 2 of 3 images']


def test_learned_codecs_come_first_and_lossless_ones_have_no_curve(rows):
  assert [c.codec for c in curves.mean_curves(rows[::-1])] == ['kmeans-universal', 'jpeg']


def test_bd_rate_of_a_constant_factor_is_that_factor(rows):
  (_, cell), (back, _) = curves.bd_matrix(rows)
  assert cell.mean.percent == pytest.approx(-20)
  assert cell.median == pytest.approx(-20)
  assert (cell.better, cell.images) == (3, 3)
  assert (cell.mean.low, cell.mean.high) == (22.5, 28.5)
  assert back.mean.percent == pytest.approx(25)
  assert back.better == 0


def test_bd_rates_everywhere_cover_what_both_curves_reach(rows):
  shared = [(min(curve.psnr), max(curve.psnr)) for curve in curves.mean_curves(rows)]
  (_, cell), _ = curves.bd_matrix(rows, everywhere=True)
  assert cell.mean.low == max(low for low, _ in shared) < 22.5
  assert cell.mean.high == min(high for _, high in shared)
  assert cell.mean.percent == pytest.approx(-20)


def test_too_few_points_print_no_overlap(rows):
  few = [r for r in rows if r['codec'] != 'jpeg' or r['quality'] in (0, 1, 2)]
  assert '| no overlap |' in tables.bd_table(curves.bd_matrix(few))


def of_all_qualities(codec, factor, **without):
  """Every quality is a function of the rate / factor: each codec differs by its factor in all."""
  rows = []
  for image in IMAGES:
    for k in range(6):
      rate = 0.1 * 2**k
      found = {
        **{'psnr': 20.0 + 4 * k, 'ms_ssim': 1 - 0.2 / 2**k},
        **{'ssimulacra2': -10.0 + 15 * k, 'lpips': 0.5 / 2**k},
      }
      rows.append(row(codec, k, image, factor * rate, **{**found, **without}))
  return rows


@pytest.mark.parametrize('quality', qualities.ALL, ids=lambda quality: quality.key)
def test_bd_rates_by_every_quality_are_the_factor_of_the_rates(quality):
  rows = [*of_all_qualities('kmeans-image', 0.8), *of_all_qualities('jpeg', 1.0)]
  cell = curves.bd_matrix(rows, quality=quality)[0][1]
  assert cell.mean.percent == pytest.approx(-20) and cell.median == pytest.approx(-20)
  assert (cell.better, cell.images) == (3, 3)
  if quality is not qualities.PSNR:
    assert (cell.mean.low, cell.mean.high) == pytest.approx(
      {
        # -10 log10 of 0.2 and 0.2 / 32, of 0.5 and 0.5 / 32.
        'ms_ssim': (6.9897, 22.0412),
        'ssimulacra2': (-10, 65),
        'lpips': (3.0103, 18.0618),
      }[quality.key],
      abs=1e-3,
    )


def test_a_quality_that_rows_lack_is_told_in_its_place():
  """Rows from before it was measured lack it; those made without weights have None."""
  old = line('jpeg')
  asked = [{**r, 'ssimulacra2': 50.0, 'lpips': None} for r in old]
  assert [qualities.missing(old, q) for q in qualities.ALL] == ['', '', *['not measured'] * 2]
  assert [qualities.missing(asked, q) for q in qualities.ALL] == ['', '', '', 'no weights']
  assert '**The same by LPIPS**\n\nno weights\n' in tables.tables(asked)
  assert '**The same by SSIMULACRA2**\n\nnot measured\n' in tables.tables(old)
  head, _, first, *_ = tables.means_table(asked).splitlines()
  assert head == '| codec | setting | bpp | PSNR | MS-SSIM | SSIMULACRA2 | LPIPS |'
  assert first == '| jpeg | 0 | 0.1000 | 20.00 | 0.9000 | 50.00 | no weights |'
  assert 'rd-all-ssimulacra2' in figures.figures(asked)
  assert not {'rd-all-lpips'} & set(figures.figures(asked))


def test_means_stand_for_the_points_that_have_them():
  rows = of_all_qualities('jpeg', 1.0)
  some = [{**r, 'lpips': None} if r['image'] == 'one' and r['quality'] == 2 else r for r in rows]
  lines = tables.means_table(some).splitlines()[2:]
  assert lines[0] == '| jpeg | 0 | 0.1000 | 20.00 | 0.8000 | −10.00 | 0.5000 |'
  assert lines[2].endswith('| –  |'.replace('  ', ' '))
  (curve,) = curves.mean_curves(some)
  assert len(curves.points(curve, qualities.LPIPS)[0]) == 5
  assert set(tables.compressai(curve, some)['results']) >= {'ssimulacra2', 'ms-ssim-rgb'}
  assert 'lpips' not in tables.compressai(curve, some)['results']


def test_an_interval_below_zero_is_written_with_a_word():
  rows = [*of_all_qualities('kmeans-image', 0.8), *of_all_qualities('jpeg', 1.0)]
  assert '−20.0 % (−10.0 to 65.0; −20.0 %; 3/3)' in tables.tables(rows)
  assert '−20.0 % (3.0–18.1 dB; −20.0 %; 3/3)' in tables.tables(rows)


def test_learned_codecs_stand_beside_published_curves_of_whole_images(rows):
  bpp = tuple(0.1 * 2**k for k in range(6))
  curve = curves.Curve('Paper', '', (), bpp, tuple(20.0 + 4 * k for k in range(6)), ())
  published = [Published(curve, 'a paper', ('all',))]
  whole = [{**row, 'protocol': 'full'} for row in rows]
  head, _, line, rest = tables.tables(whole, published).split('published')[1].split('\n')[2:6]
  assert (head, rest) == ('|  | Paper |', '')
  assert line == '| kmeans-universal | −20.0 % (22.5–28.5 dB) |'
  assert 'Paper' not in tables.tables(rows, published)  # Crops are harder.


def test_matrix_cells_name_their_interval(rows):
  assert '−20.0 % (22.5–28.5 dB; −20.0 %; 3/3)' in tables.tables(rows)


@pytest.mark.parametrize(
  ('protocol', 'methods', 'expected'),
  [
    ('crop', ('kmeans', 'jpeg'), (22.5, 28.5)),
    ('crop', ('kmeans', 'gmm'), (27.0, 28.5)),
    ('full', ('gmm', 'jpeg'), (28.0, 36.5)),
    ('full', ('gan', 'cae'), (27.6, 31.7)),
    ('full', ('kmeans', 'cae'), (27.0, 28.5)),
  ],
)
def test_intervals_are_fixed_and_shared_by_both_codecs(protocol, methods, expected):
  assert curves.interval(protocol, *methods) == expected


def test_the_parts_of_all_methods_have_colours_of_their_own():
  parts = ('header', 'codebook', 'indices', 'luma', 'chroma', 'z', 'y')
  colours = byte_split.part_colours({'one': [(0.01, dict.fromkeys(parts, 1.0))]})
  assert len(set(colours.values())) == len(parts)


def test_wins_go_to_the_codec_with_fewer_bytes_or_more_psnr():
  rows = [
    *line('kmeans-universal', 0.8, images=['one', 'two']),
    *line('kmeans-universal', 1.5, images=['three']),
    *line('jpeg'),
  ]
  per_image = curves.image_curves(rows)
  by_psnr = curves.wins_at_psnr(per_image, [25.0, 41.0])
  assert by_psnr.counts == {'kmeans-universal': (2, 0), 'jpeg': (1, 0)}
  assert by_psnr.images == (3, 0)
  by_rate = curves.wins_at_bpp(per_image, [0.09, 0.3])
  assert by_rate.counts == {'kmeans-universal': (0, 2), 'jpeg': (0, 1)}
  assert by_rate.images == (0, 3)


def test_interpolation_is_exact_on_a_log_linear_curve(rows):
  jpeg = curves.image_curves(rows)['one'][-1]
  assert curves.rate_at(jpeg, 26.0) == pytest.approx(0.1 * 2**1.5)
  assert curves.psnr_at(jpeg, 0.1 * 2**2.25) == pytest.approx(29)
  assert curves.rate_at(jpeg, 40.1) is None
  assert curves.rate_at(jpeg, 10.0) == pytest.approx(0.1)
  assert curves.psnr_at(jpeg, 0.05) is None
  assert curves.psnr_at(jpeg, 50.0) == pytest.approx(40)


def test_rows_of_two_protocols_are_refused(rows):
  with pytest.raises(CodecError, match='one protocol'):
    curves.bd_matrix([*rows, row(protocol='full')])


@pytest.mark.parametrize('protocol', ['crop', 'full'])
def test_published_curves_are_drawn_on_full_images_only(rows, protocol):
  published = read_published(PUBLISHED)
  found = figures.figures([{**r, 'protocol': protocol} for r in rows], published)
  dashed = [x for x in found['rd-all'].axes[0].lines if x.get_linestyle() != '-']
  assert len(dashed) == (sum('all' in p.figures for p in published) if protocol == 'full' else 0)


def test_every_method_gets_its_figure_as_png_and_svg(tmp_path, rows):
  paths = figures.write_figures(tmp_path, rows)
  assert {p.name for p in paths} == {
    f'{name}.{suffix}'
    for name in ('rd-kmeans', 'rd-all', 'rd-all-ms_ssim', 'split')
    for suffix in ('png', 'svg')
  }
  assert all(p.stat().st_size > 5000 for p in paths)


def test_figures_are_the_same_files_every_time(tmp_path, rows):
  first, second = (figures.write_figures(tmp_path / name, rows) for name in 'ab')
  for a, b in zip(first, second, strict=True):
    assert a.read_bytes() == b.read_bytes()


def test_spread_labels_keep_their_order_and_distance():
  found = figures.spread([0.1, 0.11, 0.5, 0.5, 0.9], 0.05)
  assert all(b - a >= 0.05 - 1e-6 for a, b in itertools.pairwise(found))
  assert found[-1] == 0.9


def test_mean_split_counts_absent_parts_as_nothing():
  rows = [row(split={'a': 2, 'b': 4}), row(split={'a': 4})]
  assert byte_split.mean_split(rows) == {'a': 3, 'b': 2}


def luminance(colour):
  """Relative luminance, WCAG 2."""
  parts = [x / 255 for x in bytes.fromhex(colour[1:])]
  linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
  return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize('method', [*methods.METHODS, *curves.CLASSICAL, 'other'])
@pytest.mark.parametrize('variant', range(3))
def test_colours_contrast_with_both_backgrounds(method, variant):
  look = palette.look(method, variant)
  assert (luminance('#fbfaf8') + 0.05) / (luminance(look.light) + 0.05) >= 4.3
  assert (luminance(look.dark) + 0.05) / (luminance('#1d1d21') + 0.05) >= 4.5


def test_published_curves_with_lpips_are_drawn_by_it():
  published = read_published(PUBLISHED)
  known = {p.curve.codec for p in published if curves.points(p.curve, qualities.LPIPS)[0]}
  assert known >= {'HiFiC 2020', 'MS-ILLM 2023'}
  rows = [{**r, 'protocol': 'full'} for r in of_all_qualities('jpeg', 1.0)]
  found = figures.figures(rows, published)['rd-all-lpips']
  dashed = [x for x in found.axes[0].lines if x.get_linestyle() != '-']
  drawn = [p for p in published if 'all' in p.figures and p.curve.codec in known]
  assert len(dashed) == len(drawn) > 0


def test_a_figure_of_rates_beyond_its_usual_end_shows_a_point_of_each_curve(tmp_path):
  many = [row('jpeg', at, rate=3.0 + at, psnr=40.0 + at) for at in range(1, 4)]
  assert any(path.name == 'rd-all.png' for path in figures.write_figures(tmp_path, many))


def test_variants_of_classical_codecs_have_a_figure_of_their_own(rows):
  rows = [*rows, *line('jpeg-444', 1.2, method='jpeg-444')]
  found = figures.figures(rows)
  names = {name: {text.get_text() for text in found[name].axes[0].texts} for name in found}
  assert names['rd-classical'] == {'JPEG', 'JPEG 4:4:4'}
  assert names['rd-all'] == {'JPEG', 'kmeans-universal'} == names['rd-kmeans']
  only = figures.figures(line('jpeg-444', method='jpeg-444'))
  assert {text.get_text() for text in only['rd-all'].axes[0].texts} == {'JPEG 4:4:4'}


def test_classical_codecs_are_told_apart_by_colour_and_marker():
  lossy = [name for name in curves.CLASSICAL if name != 'png']
  seen = [palette.look(name) for name in lossy]
  for field in ('light', 'dark', 'symbol'):
    assert len({getattr(look, field) for look in seen}) == len(lossy)
  assert [palette.display(name) for name in ('jpeg-444', 'jxl')] == ['JPEG 4:4:4', 'JPEG XL']
