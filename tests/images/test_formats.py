"""The table of docs/images.md, row by row."""

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as PILImage

from compress_jax.codec import CodecError
from compress_jax.images.reading import load_image
from tests.helpers import image_files
from tests.helpers.image_files import flat_png, hdr_profile, png, profile, rounded, stored, wide_png

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 5, 3), np.uint8)
RGB16 = RNG.integers(0, 65536, (6, 5, 3), np.uint16)
RGB10 = RGB16 >> 6
FLAT = np.full((16, 16, 3), (200, 100, 50), np.uint8)
GREY = RGB[..., 0]
# By colour-science 0.4.7, an independent library: (200, 100, 50) in other spaces, as sRGB.
P3, BT2020, ADOBE = (215, 93, 31), (246, 94, 50), (227, 100, 42)
ICC = profile(b'RGB ', 1.8)


def srgb(light):
  """IEC 61966-2-1: 0..255 of light in 0..1."""
  curve = 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055
  return 255 * np.where(light <= 0.0031308, 12.92 * light, curve)


def power(pixels, gamma=1.8):
  return srgb((pixels / 255) ** gamma)


def three(grey):
  return np.stack([grey] * 3, -1)


def cicp(*numbers):
  return flat_png(FLAT, cICP=bytes([*numbers, 0, 1]))


def tiff(pixels, **options):
  out = io.BytesIO()
  tifffile.imwrite(out, pixels, **options)
  return out.getvalue()


def pnm(magic, pixels, most):
  head = f'{magic}\n# a comment\n{pixels.shape[1]} {pixels.shape[0]}\n{most}\n'.encode()
  return head + pixels.astype('>u2' if most > 255 else 'u1').tobytes()


def jpeg_of_12_bits():
  file = bytearray(stored(RGB, 'JPEG'))
  file[file.index(b'\xff\xc0') + 4] = 12
  return bytes(file)


def adobe_by_exif():
  exif = PILImage.Exif()
  exif.get_ifd(0x8769)[0xA005] = {1: 'R03'}
  return stored(FLAT, 'JPEG', quality=100, subsampling=0, exif=exif)


def jp2(content, pixels=RGB):
  return image_files.with_box(stored(pixels, 'JPEG2000'), content)


def five_channels():
  file = stored(np.dstack([RGB, GREY]), 'JPEG2000', no_jp2=True)
  at = file.index(b'\xff\x51') + 38  # The number of channels, in SIZ.
  return file[:at] + b'\0\5' + file[at + 2 :]


def avif(primaries, transfer):
  return image_files.with_nclx(stored(FLAT, 'AVIF', quality=100), primaries, transfer)


def heic(pixels=FLAT, mode='RGB', **options):
  plugin = pytest.importorskip('pillow_heif')
  picture = plugin.from_bytes(mode, pixels.shape[1::-1], pixels.tobytes())
  out = io.BytesIO()
  picture.save(out, quality=-1, **options)
  return out.getvalue()


def jxl(file):
  pytest.importorskip('pillow_jxl')
  return file


def with_imagecodecs(file):
  pytest.importorskip('imagecodecs')
  return file


def jxl_of(pixels):
  pytest.importorskip('pillow_jxl')
  return stored(pixels, 'JXL', lossless=True)


TEXT = zlib.compress(b'x' * 3_000_000)
WIDE_FLAT = np.full((16, 16, 3), 51400, np.uint16)
FLOAT = RGB16 / np.float32(65535)
# The file of each row, its pixels as they should come out, and how far off they may be.
CASES = {
  ('PNG', 'up to 8 bits'): lambda: (stored(RGB), RGB, 0),
  ('PNG', '16 bits, RGB'): lambda: (wide_png(RGB16), rounded(RGB16, 65535), 0),
  ('PNG', '16 bits, grey'): lambda: (
    wide_png(RGB16[..., :1]), three(rounded(RGB16[..., 0], 65535)), 0
  ),
  ('PNG', 'ICC profile'): lambda: (stored(RGB, icc_profile=ICC), power(RGB), 1),
  ('PNG', 'cICP: Display P3'): lambda: (cicp(12, 13), P3, 0),
  ('PNG', 'cICP: BT.2020 SDR'): lambda: (cicp(9, 14), BT2020, 0),
  ('PNG', 'cICP: BT.709 video'): lambda: (cicp(1, 1), FLAT, 0),
  ('PNG', 'cICP: PQ'): lambda: (cicp(9, 16), None, 0),
  ('PNG', 'cICP: HLG'): lambda: (cicp(9, 18), None, 0),
  ('PNG', "gAMA and cHRM other than sRGB's"): lambda: (
    flat_png(RGB, gAMA=struct.pack('>I', 100_000)), srgb(RGB / 255), 0.51
  ),
  ('PNG', 'megabytes of compressed text'): lambda: (
    flat_png(RGB, zTXt=b'XML:com.adobe.xmp\0\0' + TEXT), RGB, 0
  ),
  ('JPEG', 'grey or colour'): lambda: (stored(FLAT, 'JPEG', quality=100), FLAT, 2),
  ('JPEG', 'ICC profile'): lambda: (
    stored(FLAT, 'JPEG', quality=100, icc_profile=ICC), power(FLAT), 3
  ),
  ('JPEG', 'Adobe RGB by EXIF'): lambda: (adobe_by_exif(), ADOBE, 3),
  ('JPEG', '12 bits'): lambda: (jpeg_of_12_bits(), None, 0),
  ('JPEG', 'CMYK'): lambda: (stored(PILImage.new('CMYK', (4, 4)), 'JPEG'), None, 0),
  ('TIFF', 'up to 8 bits'): lambda: (stored(RGB, 'TIFF', compression='tiff_lzw'), RGB, 0),
  ('TIFF', '16 bits, RGB'): lambda: (
    tiff(RGB16, photometric='rgb', compression='zlib', predictor=True), rounded(RGB16, 65535), 0
  ),
  ('TIFF', '16 bits, RGB in planes'): lambda: (
    tiff(RGB16.transpose(2, 0, 1), photometric='rgb', planarconfig='separate'),
    rounded(RGB16, 65535), 0
  ),
  ('TIFF', '16 bits, grey'): lambda: (
    stored(RGB16[..., 0].copy(), 'TIFF'), three(rounded(RGB16[..., 0], 65535)), 0
  ),
  ('TIFF', 'floats, RGB'): lambda: (tiff(FLOAT, photometric='rgb'), rounded(RGB16, 65535), 0),
  ('TIFF', 'floats, grey'): lambda: (
    tiff(FLOAT[..., 0]), three(rounded(RGB16[..., 0], 65535)), 0
  ),
  ('TIFF', 'floats outside 0..1'): lambda: (tiff(FLOAT[..., 0] * 2), None, 0),
  ('TIFF', 'signed samples'): lambda: (tiff(RGB16[..., 0].astype(np.int16)), None, 0),
  ('TIFF', 'five channels'): lambda: (
    tiff(np.dstack([RGB, RGB[..., :2]]), photometric='rgb', planarconfig='contig'), None, 0
  ),
  ('TIFF', 'ICC profile'): lambda: (stored(RGB, 'TIFF', icc_profile=ICC), power(RGB), 1),
  ('TIFF', 'CIELAB'): lambda: (stored(PILImage.new('LAB', (4, 4)), 'TIFF'), None, 0),
  ('PPM', 'up to 8 bits'): lambda: (pnm('P6', RGB, 255), RGB, 0),
  ('PPM', 'up to 16 bits, RGB'): lambda: (pnm('P6', RGB10, 1023), rounded(RGB10, 1023), 0),
  ('PPM', 'up to 16 bits, grey'): lambda: (
    pnm('P5', RGB10[..., 0], 1023), three(rounded(RGB10[..., 0], 1023)), 0
  ),
  ('PPM', 'floats, grey (Pf)'): lambda: (
    b'Pf\n5 6\n-1.0\n' + FLOAT[::-1, :, 0].astype('<f4').tobytes(),
    three(rounded(RGB16[..., 0], 65535)), 0
  ),
  ('PPM', 'floats, RGB (PF)'): lambda: (
    b'PF\n5 6\n-1.0\n' + FLOAT[::-1].astype('<f4').tobytes(), None, 0
  ),
  ('JPEG 2000', 'up to 8 bits'): lambda: (stored(RGB, 'JPEG2000'), RGB, 0),
  ('JPEG 2000', 'more than 8 bits, RGB'): lambda: (
    with_imagecodecs(image_files.JPEG2000_16), rounded(image_files.squares(65535), 65535), 0
  ),
  ('JPEG 2000', 'more than 8 bits, grey'): lambda: (
    stored(RGB16[..., 0].copy(), 'JPEG2000'), three(rounded(RGB16[..., 0], 65535)), 0
  ),
  ('JPEG 2000', 'five channels'): lambda: (five_channels(), None, 0),
  ('JPEG 2000', 'ICC profile'): lambda: (jp2(b'\2\0\0' + ICC), power(RGB), 1),
  ('JPEG 2000', 'other numbered colours'): lambda: (jp2(b'\1\0\0\0\0\0\x15'), None, 0),
  ('AVIF', '8 bits'): lambda: (stored(FLAT, 'AVIF', quality=100), FLAT, 2),
  ('AVIF', '10 or 12 bits'): lambda: (
    image_files.AVIF_10, rounded(image_files.squares(1023), 1023), 1
  ),
  ('AVIF', 'ICC profile'): lambda: (
    stored(FLAT, 'AVIF', quality=100, icc_profile=ICC), power(FLAT), 3
  ),
  ('AVIF', 'nclx: Display P3'): lambda: (avif(12, 13), P3, 3),
  ('AVIF', 'nclx: BT.2020 SDR'): lambda: (avif(9, 14), BT2020, 3),
  ('AVIF', 'nclx: PQ'): lambda: (avif(9, 16), None, 0),
  ('HEIC', '8 bits'): lambda: (heic(), FLAT, 3),
  ('HEIC', '10 or 12 bits'): lambda: (
    heic(WIDE_FLAT, 'RGB;16'), np.full((16, 16, 3), 200, np.uint8), 2
  ),
  ('HEIC', 'ICC profile'): lambda: (heic(icc_profile=ICC), power(FLAT), 4),
  ('HEIC', 'nclx: Display P3'): lambda: (
    heic(color_primaries=12, transfer_characteristics=13), P3, 4
  ),
  ('HEIC', 'nclx: HLG'): lambda: (heic(color_primaries=9, transfer_characteristics=18), None, 0),
  ('JPEG XL', '8 bits'): lambda: (
    jxl(image_files.JXL_8), image_files.squares(65535) >> 8, 0
  ),
  ('JPEG XL', 'more than 8 bits, RGB'): lambda: (
    jxl(image_files.JXL_16), srgb((image_files.squares(65535) >> 8) / 255), 1
  ),
  ('JPEG XL', 'more than 8 bits, grey'): lambda: (
    jxl_of(RGB16[..., 0].copy()), three(srgb(rounded(RGB16[..., 0], 65535) / 255)), 1
  ),
  ('JPEG XL', 'floats'): lambda: (
    jxl_of(FLOAT[..., 0].copy()), three(srgb(rounded(RGB16[..., 0], 65535) / 255)), 1
  ),
  ('JPEG XL', 'extra channels'): lambda: (
    jxl(image_files.jxl_with_extra_channel(2)), None, 0
  ),
  ('WebP', 'lossless'): lambda: (stored(RGB, 'WEBP', lossless=True), RGB, 0),
  ('WebP', 'ICC profile'): lambda: (
    stored(RGB, 'WEBP', lossless=True, icc_profile=ICC), power(RGB), 1
  ),
  ('BMP', '8 bits'): lambda: (stored(RGB, 'BMP'), RGB, 0),
  ('BMP', 'ICC profile'): lambda: (image_files.bitmap(RGB, b'MBED', ICC), power(RGB), 1),
  ('GIF', 'palette'): lambda: (stored(GREY, 'GIF'), three(GREY), 0),
  ('GIF', 'ICC profile'): lambda: (
    image_files.gif_with_profile(stored(GREY, 'GIF'), ICC), power(three(GREY)), 1
  ),
}  # fmt: skip


def table():
  """The rows of the table: the cells of each."""
  lines = (Path(__file__).parents[2] / 'docs' / 'images.md').read_text().splitlines()
  cells = [
    [cell.strip() for cell in line.strip('|').split('|')] for line in lines if line[:1] == '|'
  ]
  return cells[2:]


def test_the_table_has_a_row_for_each_case_and_no_other():
  assert [(row[0], row[1]) for row in table()] == list(CASES)


@pytest.mark.parametrize('options', [{}, {'depth8': True}], ids=['plain', 'depth8'])
@pytest.mark.parametrize('row', table(), ids=lambda row: f'{row[0]}, {row[1]}')
def test_every_row_happens(row, options):
  outcome, _, text = row[3 if options else 2].partition(': ')
  file, expected, tolerance = CASES[row[0], row[1]]()
  if outcome == 'refused':
    with pytest.raises(CodecError) as caught:
      load_image(file, **options)
    assert text in str(caught.value) and '\n' not in str(caught.value)
    return
  assert outcome in ('read', 'near', 'rounded', 'converted', 'rounded, converted')
  image = load_image(file, **options)
  np.testing.assert_allclose(image, np.broadcast_to(expected, image.shape), atol=tolerance)


@pytest.mark.parametrize('transfer,name', [(16, 'PQ'), (18, 'HLG')])
def test_an_icc_profile_of_high_dynamic_range_is_refused(transfer, name):
  with pytest.raises(CodecError, match=f'{name} colours'):
    load_image(stored(RGB, icc_profile=hdr_profile(transfer)))


@pytest.mark.parametrize('numbers', [(3, 13), (9, 10), (99, 13), (12, 0)])
def test_unknown_numbers_of_colours_are_refused_by_number(numbers):
  with pytest.raises(CodecError, match=f'primaries {numbers[0]} and transfer {numbers[1]}'):
    load_image(cicp(*numbers))


def test_cicp_goes_before_an_icc_profile_and_an_icc_profile_before_gamma():
  icc = b'test\0\0' + zlib.compress(ICC)
  both = flat_png(FLAT, cICP=bytes([12, 13, 0, 1]), iCCP=icc)
  np.testing.assert_array_equal(load_image(both)[0, 0], P3)
  both = flat_png(FLAT, iCCP=icc, gAMA=struct.pack('>I', 100_000))
  np.testing.assert_allclose(load_image(both), power(FLAT), atol=1)


@pytest.mark.parametrize('chunk', ['sRGB', 'gAMA'])
def test_the_usual_gamma_is_srgb(chunk):
  data = {'sRGB': b'\0', 'gAMA': struct.pack('>I', 45455)}[chunk]
  np.testing.assert_array_equal(load_image(flat_png(RGB, **{chunk: data})), RGB)


def test_a_large_profile_in_a_png_is_read():
  icc = ICC + bytes(2_000_000)
  icc = struct.pack('>I', len(icc)) + icc[4:]
  np.testing.assert_allclose(load_image(stored(RGB, icc_profile=icc)), power(RGB), atol=1)


@pytest.mark.parametrize('channels', [2, 4])
def test_alpha_of_16_bits_is_rounded_too(channels):
  alpha = np.full((*RGB16.shape[:2], 1), 13107, np.uint16)  # A fifth.
  colours = RGB16[..., : channels - 1]
  pixels = rounded(colours, 65535) + np.zeros((1, 1, 3))
  file = wide_png(np.dstack([colours, alpha]))
  with pytest.raises(CodecError, match='transparent'):
    load_image(file, depth8=True)
  image = load_image(file, depth8=True, flatten='black')
  np.testing.assert_allclose(image, pixels / 5, atol=0.51)


def test_a_transparent_colour_of_16_bits_is_one_colour():
  pixels = np.full((2, 2, 3), 1000, np.uint16)
  pixels[0, 0, 0] += 1  # The same in 8 bits.
  file = wide_png(pixels, tRNS=struct.pack('>3H', 1000, 1000, 1000))
  image = load_image(file, depth8=True, flatten='white')
  assert image[0, 0].tolist() == [4, 4, 4] and image[1, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize('bits', [1, 2, 4])
def test_few_bits_reach_from_0_to_255(bits):
  values = np.arange(2**bits, dtype=np.uint8)
  text = ''.join(f'{value:0{bits}b}' for value in values).ljust(8, '0')
  rows = b'\0' + int(text, 2).to_bytes(len(text) // 8, 'big')
  image = load_image(png(len(values), 1, bits, 0, rows))
  np.testing.assert_array_equal(image[0, :, 0], rounded(values, 2**bits - 1))


def test_white_is_zero_in_a_wide_tiff_too():
  values = RGB16[..., 0]
  file = tiff(values, photometric='miniswhite')
  expected = three(rounded(65535 - values.astype(int), 65535))
  np.testing.assert_array_equal(load_image(file, depth8=True), expected)


def test_the_orientation_holds_for_rounded_samples():
  exif = PILImage.Exif()
  exif[274] = 6
  grey = RGB16[..., 0].copy()
  image = load_image(stored(grey, exif=exif), depth8=True)
  np.testing.assert_array_equal(image, three(rounded(np.rot90(grey, -1), 65535)))


def test_a_bomb_in_jpeg_xl_is_refused_before_it_is_decoded():
  with pytest.raises(CodecError, match='60000x60000 pixels exceed the limit'):
    load_image(jxl(image_files.jxl_of_size(60_000)))


def test_a_jpeg_in_a_jpeg_xl_is_turned_once(tmp_path):
  pytest.importorskip('pillow_jxl')
  exif = PILImage.Exif()
  exif[274] = 6
  PILImage.fromarray(FLAT[:8]).save(tmp_path / 'a.jpg', exif=exif)
  with PILImage.open(tmp_path / 'a.jpg') as picture, warnings.catch_warnings(action='ignore'):
    picture.save(tmp_path / 'a.jxl', lossless_jpeg=True)
  np.testing.assert_array_equal(load_image(tmp_path / 'a.jxl'), load_image(tmp_path / 'a.jpg'))


def test_an_animation_in_jpeg_xl_is_refused_unless_one_frame_is_enough():
  file = jxl(image_files.JXL_ANIMATION)
  with pytest.raises(CodecError, match='holds an animation'):
    load_image(file)
  np.testing.assert_array_equal(load_image(file, first_frame=True), image_files.squares(65535) >> 8)


@pytest.mark.parametrize('file,package', [
  (image_files.JXL_8, 'pillow_jxl'),
  (b'\0\0\0\x1cftypheic' + bytes(4) + b'mif1heicmiaf' + bytes(40), 'pillow_heif'),
])  # fmt: skip
def test_without_the_plugin_the_line_says_what_to_install(file, package, monkeypatch):
  for module in ('pillow_heif', 'pillow_jxl'):
    monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(CodecError, match=rf"needs {package}: pip install 'compress_jax\[formats\]'"):
    load_image(file)


def test_without_imagecodecs_no_jpeg_2000_turns_white_to_black(monkeypatch):
  monkeypatch.setitem(sys.modules, 'imagecodecs', None)
  with pytest.raises(CodecError, match=r"needs imagecodecs: pip install 'compress_jax\[formats\]'"):
    load_image(image_files.JPEG2000_16, depth8=True)


@pytest.mark.parametrize('space,points,text', [
  (b'LINK', bytes(36), 'its colour profile is another file'),
  (bytes(4), b'\1' * 36, 'calibrated colours'),
])  # fmt: skip
def test_bitmaps_whose_colours_lie_elsewhere_are_refused(space, points, text):
  with pytest.raises(CodecError, match=text):
    load_image(image_files.bitmap(RGB, space, points=points))


@pytest.mark.parametrize('space', [b'sRGB', b'Win ', bytes(4)])
def test_other_bitmaps_are_srgb(space):
  np.testing.assert_array_equal(load_image(image_files.bitmap(RGB, space)), RGB)


@pytest.mark.parametrize('green,expected', [((0.3, 0.6), (200, 100, 50)), ((0.265, 0.69), P3)])
def test_the_primaries_of_a_tiff_without_a_profile_count(green, expected):
  red = (0.64, 0.33) if expected != P3 else (0.68, 0.32)
  points = [round(1000 * value) for value in (*red, *green, 0.15, 0.06)]
  tags = [
    (318, '2I', 2, (3127, 10000, 3290, 10000), True),
    (319, '2I', 6, tuple(n for value in points for n in (value, 1000)), True),
  ]
  image = load_image(tiff(FLAT, photometric='rgb', extratags=tags))
  np.testing.assert_array_equal(image[0, 0], expected)


@pytest.mark.parametrize('points', [(0.3, 0, 0, 0, 0, 0, 0, 0), (0.3, 0.3) * 4])
def test_primaries_that_make_no_sense_are_refused(points):
  chunk = struct.pack('>8I', *(round(1e5 * value) for value in points))
  with pytest.raises(CodecError, match='make no sense'):
    load_image(flat_png(FLAT, cHRM=chunk))


def test_bytes_between_the_segments_of_a_jpeg_do_not_matter():
  file = stored(RGB, 'JPEG')
  np.testing.assert_array_equal(load_image(file[:20] + b'ABC' + file[20:]), load_image(file))


@pytest.mark.parametrize('photometric', ['separated', 'cielab', 'ycbcr'])
@pytest.mark.parametrize('kind', ['u2', 'f4'])
def test_wide_samples_of_other_colours_are_refused(photometric, kind):
  pixels = np.zeros((8, 8, 4 if photometric == 'separated' else 3), kind)
  with pytest.raises(CodecError, match='colours'):
    load_image(tiff(pixels, photometric=photometric, planarconfig='contig'), depth8=True)


def test_a_raw_file_of_a_camera_is_refused():
  file = tiff(GREY, extratags=[(50706, 'B', 4, (1, 4, 0, 0), True)])
  with pytest.raises(CodecError, match="camera's raw file"):
    load_image(file)
