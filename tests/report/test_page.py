"""The report in a real headless Chromium: no request, no error, and its parts move."""

import re
import shutil

import numpy as np
import pytest

from compress_jax.report import page, previews
from compress_jax.report.published import read_published
from tests.helpers.rows import PUBLISHED, row

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser'))), None)
NAMES = ('first', 'second', 'with <b>tags</b>')
CODECS = {'jpeg': 1.0, 'kmeans-image': 1.3, 'kmeans-universal': 0.8}


def picture(name):
  """A smooth u8[64, 96, 3], another one for each name."""
  y, x = np.mgrid[:64, :96] / 96
  phase = NAMES.index(name)
  return np.stack([np.sin(5 * x + phase), np.cos(4 * y), x * y], -1) * 80 + 120


# Image -> what loads it.
ORIGINALS = {name: lambda name=name: picture(name).astype(np.uint8) for name in NAMES}


def make_rows(protocol):
  """Every codec, image and point; PSNR grows by 4 dB per doubling of the rate."""
  split = {'header': 18, 'codebook': 300, 'indices': 900}
  return [
    row(
      codec, k + 1, name, factor * 0.1 * 2**k * (1 + NAMES.index(name) / 10), 20.0 + 4 * k,
      protocol=protocol, sha256_pixels=f'{codec} {k}', width=96, height=64,
      split=split if codec == 'kmeans-image' else {'file': 1.0}, ms_ssim=1 - 0.2 / (k + 1),
    )
    for codec, factor in CODECS.items() for name in NAMES for k in range(5)
  ]  # fmt: skip


def decode(found):
  """Posterised originals: coarser at lower quality."""
  step = 2 ** (7 - int(found.get('lambda', found.get('quality'))))
  return (picture(found['image']) // step * step).astype(np.uint8)


def write(folder, protocol='crop', rows=None, **options):
  rows = rows or make_rows(protocol)
  published = read_published(PUBLISHED)
  meta = {'title': 'Test <report>', 'machine': {'cores': 2}, 'seed': 0}
  return page.write_page(
    folder, meta, rows, originals=ORIGINALS, decode=decode, published=published, **options
  )


@pytest.fixture(scope='module')
def report_path(tmp_path_factory):
  return write(tmp_path_factory.mktemp('crop'))


@pytest.fixture(scope='module')
def browser():
  playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
  if CHROMIUM is None:
    pytest.skip('Chromium is not installed')
  with playwright.sync_playwright() as api:
    found = api.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
    yield found
    found.close()


@pytest.fixture
def opened(browser, report_path):
  """Opens a page; fails at the end on any error or request beyond the file."""
  troubles, contexts = [], []

  def open_page(path=report_path, width=1280, height=900, **options):
    contexts.append(browser.new_context(viewport={'width': width, 'height': height}, **options))
    tab = contexts[-1].new_page()
    tab.on('pageerror', lambda error: troubles.append(str(error)))
    tab.on('console', lambda m: m.type in ('error', 'warning') and troubles.append(m.text))
    tab.on(
      'request',
      lambda r: r.url.startswith(('file:', 'data:', 'blob:')) or troubles.append(r.url),
    )
    tab.goto(path.as_uri())
    tab.wait_for_selector('#plot .scatterlayer .trace', state='attached')
    return tab

  yield open_page
  for context in contexts:
    context.close()
  assert troubles == []


def test_page_names_no_resource_to_load(report_path):
  html = report_path.read_text()
  own = re.sub(r'<script>.*?</script>', '', html, flags=re.DOTALL)  # Plotly's text has addresses.
  assert not re.search(r'(src|href|srcset|url\()\s*=?\s*["\']?\s*(https?:)?//', own)
  assert "default-src 'none'" in html


def test_times_of_several_processors_are_told_apart(tmp_path, report_path):
  told = 'Not all were measured on the same processor'
  assert told not in report_path.read_text()
  made = make_rows('crop')
  mixed = [{**row, 'processor': 'a fast one'} if row['codec'] == 'jpeg' else row for row in made]
  html = write(tmp_path, rows=mixed).read_text()
  assert told in html and '<td>a fast one</td>' in html and '<td>not recorded</td>' in html


def test_page_escapes_names(report_path):
  html = report_path.read_text()
  assert 'Test &lt;report&gt;' in html
  assert '<b>tags' not in html


def test_page_stays_under_ten_megabytes_with_full_previews(report_path):
  assert report_path.stat().st_size + page.PREVIEW_BUDGET < 10e6


def test_previews_fill_the_budget_level_by_level_and_name_the_rest():
  rows = make_rows('crop')
  everything = previews.previews(rows, originals=ORIGINALS, decode=decode, budget=10**9)
  assert everything.left_out == []
  assert all(len(levels) == 3 for levels in everything.choices.values())
  size = sum(map(len, everything.pictures.values()))
  some = previews.previews(rows, originals=ORIGINALS, decode=decode, budget=size // 2)
  assert sum(map(len, some.pictures.values())) <= size // 2
  assert next(iter(some.choices.values())).keys() >= {'0.4'}
  assert any('at 0.8 bpp' in text for text in some.left_out)


def test_previews_leave_other_settings_of_a_classical_codec_to_the_plot():
  rows = make_rows('crop')
  others = [{**each, 'method': 'jpeg-444', 'codec': 'jpeg-444'} for each in rows]
  made = previews.previews([*rows, *others], originals=ORIGINALS, decode=decode, budget=10**9)
  seen = {codec for levels in made.choices.values() for found in levels.values() for codec in found}
  assert seen == {each['codec'] for each in rows}


def test_variants_without_other_codecs_have_previews():
  rows = [{**each, 'method': 'jpeg-444', 'codec': 'jpeg-444'} for each in make_rows('crop')]
  made = previews.previews(rows, originals=ORIGINALS, decode=decode, budget=10**9)
  assert made.choices


def test_previews_show_the_file_nearest_to_the_target():
  rows = [r for r in make_rows('crop') if r['image'] == 'first']
  nearest = previews.nearest_rows(rows, 0.4)
  assert {c: round(r['bpp'], 2) for c, r in nearest.items()} == {
    'jpeg': 0.4, 'kmeans-image': 0.52, 'kmeans-universal': 0.32,
  }  # fmt: skip


def test_page_without_previews_or_lossy_rows_still_renders(tmp_path):
  rows = [row('png', 9, 'first', 14.0, None)]
  path = page.write_page(tmp_path, {}, rows, originals={}, decode=decode)
  assert 'PNG loses nothing, at 14.00 bpp' in path.read_text()


@pytest.mark.slow
def test_plot_has_a_trace_per_codec_and_switches(opened):
  tab = opened()
  traces = '#plot .scatterlayer .trace'
  assert tab.locator(traces).count() == len(CODECS)
  before = tab.evaluate("document.querySelector('#plot').data[0].y")
  tab.locator('input[value=ms_ssim]').check(force=True)
  assert tab.evaluate("document.querySelector('#plot').data[0].y") != before
  tab.locator('#chips label', has_text='JPEG').click()
  assert tab.locator(traces).count() == len(CODECS) - 1
  rates = tab.evaluate("document.querySelector('#plot').data[0].x")
  tab.select_option('#plot-image', 'first')
  assert tab.evaluate("document.querySelector('#plot').data[0].x") != rates


def test_every_quality_that_is_measured_can_be_chosen_and_the_others_say_why(opened, tmp_path):
  rows = [{**r, 'ssimulacra2': r['psnr'] - 25, 'lpips': None} for r in make_rows('crop')]
  tab = opened(page.write_page(tmp_path, {}, rows, originals=ORIGINALS, decode=decode))
  assert tab.locator('input[value=lpips]').is_disabled()
  labels = tab.locator('#rate label', has_text='LPIPS')
  assert 'no weights' in labels.first.inner_text()
  assert 'no weights' in tab.inner_text('#caption-left')
  assert '3.00' in tab.inner_text('#caption-left')  # 28 dB - 25.
  tab.locator('input[value=ssimulacra2]').check(force=True)
  assert tab.evaluate("document.querySelector('#plot').data[0].y")[0] == -5
  assert 'SSIMULACRA2' in tab.text_content('#plot .ytitle')
  shown = '#bd [data-metric]:not([hidden])'
  assert tab.locator(shown).count() == 1 and 'At equal PSNR' in tab.inner_text(shown)
  tab.locator('input[value=bd-ssimulacra2]').check(force=True)
  assert tab.locator(shown).count() == 1 and 'At equal SSIMULACRA2' in tab.inner_text(shown)
  assert tab.locator('input[value=bd-lpips]').is_disabled()


def test_rows_from_before_a_quality_still_make_a_page(opened):
  tab = opened()
  for name in ('ssimulacra2', 'lpips'):
    assert tab.locator(f'input[value={name}]').is_disabled()
    assert tab.locator(f'input[value=bd-{name}]').is_disabled()
  assert 'not measured' in tab.inner_text('#rate')


@pytest.mark.parametrize('protocol', ['crop', 'full'])
def test_published_curves_are_on_the_page_of_full_images_only(opened, tmp_path, protocol):
  tab = opened(write(tmp_path, protocol))
  dashed = tab.evaluate(
    "document.querySelector('#plot').data.filter(t => t.line.dash != 'solid').length"
  )
  assert (dashed > 0) == (protocol == 'full')
  assert tab.locator('#chips-published').count() == (protocol == 'full')


@pytest.mark.slow
def test_divider_moves_by_slider_keys_and_pointer(opened):
  tab = opened()
  share = "getComputedStyle(document.querySelector('#stage')).getPropertyValue('--split')"
  tab.fill('#split', '30')
  assert tab.evaluate(share) == '30%'
  tab.focus('#stage')
  tab.keyboard.press('ArrowRight')
  assert float(tab.evaluate(share)[:-1]) == pytest.approx(32)
  tab.locator('#stage').scroll_into_view_if_needed()
  box = tab.locator('#stage').bounding_box()
  tab.mouse.click(box['x'] + 0.75 * box['width'], box['y'] + box['height'] / 2)
  assert float(tab.evaluate(share)[:-1]) == pytest.approx(75, abs=1)


@pytest.mark.slow
def test_captions_tell_the_files_shown(opened):
  tab = opened()
  assert '500 bytes' in tab.inner_text('#caption-left')
  assert '0.400 bpp' in tab.inner_text('#caption-left')
  assert '28.00 dB' in tab.inner_text('#caption-left')
  assert '20 % fewer bytes than JPEG' in tab.inner_text('#verdict')
  tab.click('#next')
  assert '0.440 bpp' in tab.inner_text('#caption-left')
  tab.locator('input[name=level][value="0.8"]').check(force=True)
  assert '0.880 bpp' in tab.inner_text('#caption-left')
  tab.select_option('#right', 'original')
  assert 'uncompressed' in tab.inner_text('#caption-right')


@pytest.mark.slow
def test_zoom_is_shared_and_resets(opened):
  tab = opened()
  scale = 'new DOMMatrix(getComputedStyle(image).transform).a'
  scales = f"[...document.querySelectorAll('.pane img')].map(image => {scale})"
  tab.click('#in')
  assert tab.evaluate(scales) == pytest.approx([1.5, 1.5])
  tab.focus('#stage')
  tab.locator('#stage').hover()
  tab.mouse.wheel(0, -300)
  tab.wait_for_function(f'{scales}[0] > 2')
  a, b = tab.evaluate(scales)
  assert a == b
  tab.keyboard.press('0')
  assert tab.evaluate(scales) == [1, 1]


@pytest.mark.slow
def test_difference_map_and_original_on_demand(opened):
  tab = opened()
  tab.focus('#stage')
  tab.keyboard.press('d')
  assert tab.get_attribute('#difference', 'aria-pressed') == 'true'
  bright = """() => {
    const c = document.querySelector('#pane-left canvas');
    if (c.hidden || c.width != 96) return false;
    return c.getContext('2d').getImageData(0, 0, 96, 64).data.some((v, i) => i % 4 == 0 && v > 40);
  }"""
  tab.wait_for_function(bright)
  tab.keyboard.press('d')
  coded = tab.get_attribute('#pane-left img', 'src')
  tab.keyboard.down('o')
  assert tab.get_attribute('#pane-left img', 'src') != coded
  assert tab.inner_text('#tag-left') == 'Original'
  tab.keyboard.up('o')
  assert tab.get_attribute('#pane-left img', 'src') == coded


@pytest.mark.slow
def test_dark_mode_follows_the_system_and_the_button(opened):
  ground = 'getComputedStyle(document.body).backgroundColor'
  dark, light = opened(color_scheme='dark'), opened(color_scheme='light')
  shades = dark.evaluate(ground), light.evaluate(ground)
  assert shades == ('rgb(20, 20, 23)', 'rgb(251, 250, 248)')
  light.click('#theme')
  assert light.evaluate(ground) == shades[0]
  assert light.inner_text('#theme-name') == 'Dark'


@pytest.mark.slow
@pytest.mark.parametrize('width', [360, 390, 768, 1280])
def test_page_never_scrolls_sideways(opened, width):
  tab = opened(width=width, height=800)
  assert tab.evaluate('document.documentElement.scrollWidth') <= width


def test_screen_readers_find_lists_landmarks_and_names(opened):
  tab = opened()
  lists = "[...document.querySelectorAll('dl')].flatMap(d => [...d.children].map(c => c.tagName))"
  assert set(tab.evaluate(lists)) == {'DT', 'DD'}
  landmarks = """[...document.querySelectorAll('section, nav, [role=region]')].map(e => {
    const title = document.getElementById(e.getAttribute('aria-labelledby'));
    return e.getAttribute('aria-label') ?? title.textContent;
  })"""
  names = tab.evaluate(landmarks)
  assert all(names) and len(set(names)) == len(names)
  for button in ('#theme', '#fit'):  # What is written is part of what is read aloud.
    assert tab.get_attribute(button, 'aria-label') is None
  assert tab.locator('#fit').inner_text().startswith('1×')


@pytest.mark.slow
def test_every_part_works_by_keys_alone(opened):
  tab = opened(width=390)
  reached = set()
  for _ in range(60):
    tab.keyboard.press('Tab')
    reached.add(tab.evaluate('document.activeElement.id || document.activeElement.name'))
  assert {'theme', 'metric', 'axis', 'plot-image', 'view-image', 'left', 'right'} <= reached
  assert {'stage', 'split', 'in', 'out', 'fit', 'hold', 'difference', 'bd-metric'} <= reached
  first = "document.querySelector('#plot').data[0].y[0]"
  before = tab.evaluate(first)
  tab.focus('input[name=metric]:checked')
  tab.keyboard.press('ArrowRight')
  assert tab.evaluate(first) != before
  tab.focus('#chips input')
  tab.keyboard.press('Space')
  assert tab.locator('#plot .scatterlayer .trace').count() == len(CODECS) - 1


def test_the_numbers_of_the_plot_stand_in_a_table(report_path):
  table = report_path.read_text().partition('The numbers of the plot')[2].partition('</table>')[0]
  assert table.count('<tr>') == 1 + 5 * len(CODECS)
  assert '<th scope="row">JPEG</th>' in table and '<td>0.1100</td>' in table  # Mean of 1, 1.1, 1.2.


def test_variants_of_classical_codecs_are_on_the_page_but_not_shown_first(opened, tmp_path):
  rows = make_rows('crop')
  rows += [{**r, 'method': 'jpeg-444', 'codec': 'jpeg-444'} for r in rows if r['codec'] == 'jpeg']
  tab = opened(page.write_page(tmp_path, {}, rows, originals=ORIGINALS, decode=decode))
  assert not tab.locator('#chips label', has_text='JPEG 4:4:4').locator('input').is_checked()
  assert tab.locator('#plot .scatterlayer .trace').count() == len(CODECS)


def test_of_large_pictures_the_middle_is_shown(monkeypatch):
  monkeypatch.setattr(previews, 'CUT_TO', 72)  # The pictures are 64 high and 96 wide.
  made = previews.previews(make_rows('crop'), originals=ORIGINALS, decode=decode, budget=10**9)
  assert made.cut
  for name, key in made.originals.items():
    assert made.pictures[key] == previews.data_uri(ORIGINALS[name]()[:, 12:84])


def test_a_page_by_itself_links_to_no_rows(tmp_path):
  path = write(tmp_path, name='out.html', links=())
  assert path.name == 'out.html' and 'All rows' not in path.read_text()


def test_a_card_says_fewer_or_more_without_a_sign(report_path):
  cards = re.findall(
    r'<strong>([^<]*)</strong>\s*<span class="fine">(\w+) bits', report_path.read_text()
  )
  assert cards and all(re.fullmatch(r'\d+\.\d %', number) for number, _ in cards)
  assert {word for _, word in cards} <= {'fewer', 'more'}
