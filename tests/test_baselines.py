import os
from pathlib import Path

import numpy as np
import pytest
from PIL import features

from compress_jax import baselines
from compress_jax.codec import CodecError
from compress_jax.evaluation import metrics
from compress_jax.images.sets import load_image, sample_photographs

KODAK = Path(os.environ.get('KODAK_DIR', '../shared/data/kodak'))


@pytest.fixture(scope='module')
def photograph():
  return np.ascontiguousarray(dict(sample_photographs())['coffee'][100:228, 200:360])


def coded(codec, image):
  file = codec.encode((), image)
  return file, codec.decode((), file)


@pytest.mark.parametrize('name', baselines.CODECS)
@pytest.mark.parametrize('shape', [(1, 1), (1, 30), (17, 3), (33, 64)])
def test_every_size_survives(name, shape):
  image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
  decoded = coded(
    baselines.CODECS[name].factory(quality=baselines.CODECS[name].qualities[-1]), image
  )[1]
  assert decoded.shape == image.shape and decoded.dtype == np.uint8


@pytest.mark.parametrize('name', baselines.CODECS)
def test_rate_and_psnr_rise_with_quality(name, photograph):
  anchor = baselines.CODECS[name]
  sizes, psnrs = [], []
  for quality in anchor.qualities[::2]:
    file, decoded = coded(anchor.factory(quality=quality), photograph)
    sizes.append(len(file))
    psnrs.append(metrics.psnr(photograph, decoded))
  assert sizes == sorted(set(sizes)) and psnrs == sorted(psnrs) and psnrs[-1] > 34


def test_png_is_lossless(photograph):
  np.testing.assert_array_equal(coded(baselines.png(), photograph)[1], photograph)


@pytest.mark.parametrize('name', baselines.CODECS)
def test_encoding_is_repeatable(name, photograph):
  codec = baselines.CODECS[name].factory(quality=baselines.CODECS[name].qualities[0])
  assert codec.encode((), photograph) == codec.encode((), photograph)


def test_optimised_tables_change_the_size_and_no_pixel(photograph):
  small, decoded = coded(baselines.jpeg(quality=10), photograph)
  large, expected = coded(baselines.jpeg(quality=10, optimize=False), photograph)
  np.testing.assert_array_equal(decoded, expected)
  assert len(small) < 0.9 * len(large)


def test_jpeg2000_meets_the_rate_asked_for(photograph):
  for quality in (0.5, 1.0, 2.0):
    file = baselines.jpeg2000(quality=quality).encode((), photograph)
    assert 0.9 * quality < metrics.bpp(len(file), *photograph.shape[:2]) <= 1.02 * quality


@pytest.mark.skipif(not KODAK.is_dir(), reason='needs the Kodak suite')
@pytest.mark.parametrize('optimize,expected', [(True, 0.2555), (False, 0.3266)])
def test_jpeg_at_quality_10_has_the_known_rate_on_kodak(optimize, expected):
  codec = baselines.jpeg(quality=10, optimize=optimize)
  images = [load_image(path) for path in sorted(KODAK.glob('kodim*.png'))]
  rates = [metrics.bpp(len(codec.encode((), x)), *x.shape[:2]) for x in images]
  assert len(rates) == 24 and abs(np.mean(rates) - expected) < 0.0005


@pytest.mark.parametrize('name', baselines.CODECS)
def test_truncated_files_are_refused(name, photograph):
  codec = baselines.CODECS[name].factory(quality=baselines.CODECS[name].qualities[-1])
  file = codec.encode((), photograph)
  for length in np.linspace(0, 0.9 * len(file), 20).astype(int):
    with pytest.raises(CodecError, match='not a complete'):
      codec.decode((), file[:length])


@pytest.mark.parametrize('name', baselines.CODECS)
def test_other_files_are_refused(name, photograph):
  anchor = baselines.CODECS[name]
  codec = anchor.factory(quality=anchor.qualities[0])
  other = baselines.jpeg(quality=50) if name == 'png' else baselines.png()
  for file in (b'', b'garbage', bytes(500), other.encode((), photograph)):
    with pytest.raises(CodecError, match='not a complete'):
      codec.decode((), file)


@pytest.mark.parametrize('name', baselines.CODECS)
def test_a_quality_off_the_scale_is_refused(name):
  for quality in (-1, 101):
    with pytest.raises(CodecError, match=f'quality {quality} is outside'):
      baselines.CODECS[name].factory(quality=quality)


@pytest.mark.parametrize('name', [name for name in baselines.CODECS if name != 'jxl'])
def test_a_codec_that_pillow_lacks_is_one_error(name, monkeypatch):
  monkeypatch.setattr(features, 'check', lambda feature: False)
  assert 'this build of Pillow has no' in baselines.missing(name)
  with pytest.raises(CodecError, match='this build of Pillow has no'):
    baselines.CODECS[name].factory(quality=5)


def test_an_image_too_large_for_the_format_is_one_error():
  with pytest.raises(CodecError, match='WEBP cannot store'):
    baselines.webp(quality=5).encode((), np.zeros((1, 20_000, 3), np.uint8))


def test_jpeg_xl_without_its_plugin_is_one_error_that_names_the_extra(monkeypatch):
  assert baselines.missing('jxl') == ''
  monkeypatch.setattr(baselines, 'JXL_PLUGIN', 'no_such_plugin')
  assert baselines.missing('jxl') == "needs no_such_plugin: pip install 'compress_jax[formats]'"


def test_jpeg_xl_of_quality_100_is_lossless(photograph):
  np.testing.assert_array_equal(coded(baselines.jxl(quality=100), photograph)[1], photograph)


def test_whole_chroma_lifts_the_ceiling_of_colours():
  # A pattern of one pixel in colour alone: 4:2:0 keeps its mean only.
  image = np.full((64, 64, 3), 128, np.uint8)
  image[:, ::2] = (168, 110, 60)
  for name in ('jpeg', 'avif-slow'):
    whole = {'jpeg': 'jpeg-444', 'avif-slow': 'avif-444'}[name]
    halved, full = (
      metrics.psnr(image, coded(baselines.CODECS[each].factory(quality=80), image)[1])
      for each in (name, whole)
    )
    assert full > halved + 3


@pytest.mark.parametrize(('fast', 'slow'), [('webp-default', 'webp'), ('avif', 'avif-slow')])
def test_a_slower_encoder_needs_fewer_bits(fast, slow, photograph):
  curves = []
  for name in (fast, slow):
    points = []
    for quality in (15, 35, 55, 75):
      file, decoded = coded(baselines.CODECS[name].factory(quality=quality), photograph)
      points.append(
        (metrics.bpp(len(file), *photograph.shape[:2]), metrics.psnr(photograph, decoded))
      )
    curves += zip(*points, strict=True)
  assert metrics.bd_rate(*curves, interval=(25, 40)).percent < 0
