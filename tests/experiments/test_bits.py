"""`experiments.bits` divides real files into parts that sum up to them."""

import json

import numpy as np
import pytest

from compress_jax import bitstream, coder
from compress_jax.codec import CodecError
from compress_jax.images.sets import save_image
from experiments import bits
from tests.helpers import small_models

MODELS = {'cae': 'cae', 'gan': 'gan', 'gmm': 'gmm'}
MODELS |= {small_models.CHANNELS: 'gmm', small_models.PASSES: 'gmm'}
PARTS = {
  'cae': ['header', 'y'],
  'gan': ['header', 'z', 'y'],
  'gmm': ['header', 'z', 'y'],
  small_models.CHANNELS: [
    *('header', 'z', 'group 1, anchors', 'group 1, others'),
    *('group 2, anchors', 'group 2, others'),
  ],
  small_models.PASSES: ['header', 'z', 'group 1, anchors', 'group 1, others', 'group 2'],
}
# Means over two images of 10 pixels: 1 bit per pixel, half of it in y.
ROWS = [
  {
    **{'codec': 'gmm', 'image': name, 'protocol': 'full', 'lambda': 0.01},
    **{'width': 5, 'height': 2, 'bytes': 1},
    'bits': {'header': header, 'z': 2.0, 'group 1, anchors': 4.0, 'group 1, others': y},
    'zeroed': {'group 1, anchors': 6.0, 'group 1, others': y},
  }
  for name, header, y in (('a', 2.0, 0.0), ('b', 4.0, 2.0))
]


@pytest.mark.parametrize('name', MODELS)
def test_the_parts_are_those_of_the_file(name):
  image = small_models.picture(72, 88)
  row = bits.measured(MODELS[name], small_models.path(name), 0.013, image)
  assert list(row['bits']) == PARTS[name]
  assert sum(row['bits'].values()) == pytest.approx(8 * row['bytes'], rel=1e-9)
  codec, released = small_models.load(name)
  split = codec.split(released, codec.encode(released, image))
  y = sum(value for part, value in row['bits'].items() if part not in ('header', 'z'))
  assert y == pytest.approx(8 * split['y'], rel=1e-9)
  assert list(row['zeroed']) == (PARTS[name][2:] if 'z' in PARTS[name] else [])


@pytest.mark.parametrize('name', ['gan', small_models.CHANNELS])
def test_zeroed_hyper_latents_are_those_of_a_file_without_them(name):
  """A file of the same latents and z = 0 is as long, and decodes to nearly the same latents."""
  codec, released = small_models.load(name)
  file = codec.encode(released, small_models.picture(72, 88))
  level, before = bitstream.unpack(file)[0].level, codec.latents(released, file)
  without = bits.zeroed(released.coding, before, level)
  assert not without.z.any() and (name == 'gan' or np.array_equal(without.q, before.q))
  # gan's means move by fractions of a symbol, which rounds anew.
  moved = (without.q - before.q) + (without.mean - before.mean) / 256
  assert np.abs(moved).max() <= 0.5
  module = bits.methods.method(MODELS[name]).coding_of({'context': 'channels'})
  writer, side = coder.Writer(), coder.Writer()
  module.write(released.coding, writer, without, level)
  bits.hyper.write(side, released.coding.prior, without.z)
  length = 8 * (len(writer.finish()) - len(side.finish()))
  assert sum(bits.latent_bits(module, released.coding, without, level).values()) == pytest.approx(
    length, abs=48
  )


def test_a_meter_counts_what_a_writer_codes():
  rng = np.random.default_rng(0)
  tables = rng.integers(1, 99, (500, 8)).astype(np.float64)
  meter, writer = bits.Meter(), coder.Writer()
  for each in (meter, writer):
    each.put(np.arange(500) % 8, tables)
    each.put_escapes(np.arange(100))
  assert meter.bits == pytest.approx(8 * len(writer.finish()), abs=40)


def test_means_and_growth_are_of_bits_per_pixel():
  assert bits.means(ROWS, 'bits')[0.01] == pytest.approx(
    {'header': 0.3, 'z': 0.2, 'group 1, anchors': 0.4, 'group 1, others': 0.1}
  )
  more = bits.growth(ROWS)[0.01]
  assert more == pytest.approx({'group 1, anchors': 0.5, 'group 1, others': 0, 'y': 0.4})
  lines = bits.table(ROWS).splitlines()
  assert lines[0] == '| bits per pixel (share) | lambda 0.01 |'
  assert lines[4] == '| group 1, anchors | 0.4000 (40.0 %) |'
  assert lines[6] == '| whole file | 1.0000 |' and lines[-1] == '| y | +40.0 % |'


def test_a_part_that_some_image_lacks_counts_as_zero_there():
  small = {**ROWS[0], 'bits': {'header': 2.0, 'group 1, anchors': 4.0}}
  expected = {'header': 0.3, 'z': 0.1, 'group 1, anchors': 0.4, 'group 1, others': 0.1}
  for rows in ([small, ROWS[1]], [ROWS[1], small]):
    assert bits.means(rows, 'bits')[0.01] == pytest.approx(expected)


def test_a_figure_has_a_bar_of_all_parts_per_lambda():
  [axes] = bits.figure(ROWS, 'two images').axes
  heights = [bar.get_height() for bar in axes.patches]
  assert heights == pytest.approx([0.3, 0.2, 0.4, 0.1])
  assert [label.get_text() for label in axes.get_xticklabels()] == ['λ 0.01\n1.000 bpp']
  assert '+40 %' in [text.get_text() for text in axes.texts]


def test_rows_tables_and_a_figure_are_kept(tmp_path, capsys):
  save_image(tmp_path / 'a.png', small_models.picture(64, 64))
  model, output = small_models.path('cae'), tmp_path / 'cae.json'
  flags = [f'--images={tmp_path}', f'--model={model}', '--lambdas=0.0035', f'--output={output}']
  assert bits.main(['bits', '--method=cae', *flags]) == 0
  [row] = json.loads(output.read_text())['rows']
  text = (tmp_path / 'cae.md').read_text()
  assert text == bits.table([row]) and text in capsys.readouterr().out and 'zeroed' not in text
  assert (tmp_path / 'cae.png').stat().st_size > 1000 and (tmp_path / 'cae.svg').exists()
  assert bits.main(['bits', *flags[:-1], '--output=rows.md']) == 2


def test_a_method_that_learns_nothing_is_refused():
  with pytest.raises(CodecError, match='kmeans has no latents'):
    bits.measured('kmeans', None, 0.013, small_models.picture(8, 8))
