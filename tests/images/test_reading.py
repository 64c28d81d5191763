import io
import random
import warnings

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageCms

from compress_jax import bitstream
from compress_jax.codec import CodecError
from compress_jax.images.reading import MAX_PIXELS, load_image
from tests.helpers.image_files import png, profile, stored

RAMP = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
GREY = RAMP[..., 0]


@pytest.fixture(autouse=True)
def no_warnings():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    yield


def test_rgb_is_read_as_it_is():
  for format in ('PNG', 'BMP', 'TIFF', 'PPM'):
    np.testing.assert_array_equal(load_image(stored(RAMP, format)), RAMP)
  np.testing.assert_array_equal(load_image(stored(RAMP, 'WEBP', lossless=True)), RAMP)


def test_the_result_is_an_owned_writable_rgb_array():
  image = load_image(stored(RAMP))
  assert image.dtype == np.uint8 and image.flags.writeable and image.flags.c_contiguous


@pytest.mark.parametrize('mode', ['L', '1', 'LA', 'P'])
def test_grey_becomes_three_equal_channels(mode):
  picture = PILImage.fromarray(GREY).convert(mode)
  image = load_image(stored(picture))
  expected = np.asarray(picture.convert('L'))
  np.testing.assert_array_equal(image, np.stack([expected] * 3, -1))


def test_a_palette_becomes_its_colours():
  picture = PILImage.fromarray(RAMP).quantize(64)
  np.testing.assert_array_equal(load_image(stored(picture)), np.asarray(picture.convert('RGB')))


def transparent(mode):
  """A file with one transparent pixel, the first, which is RAMP's or GREY's elsewhere."""
  alpha = np.full(GREY.shape, 255, np.uint8)
  alpha[0, 0] = 0
  if mode == 'RGBA':
    return stored(np.dstack([RAMP, alpha]))
  if mode == 'LA':
    return stored(PILImage.merge('LA', [PILImage.fromarray(GREY), PILImage.fromarray(alpha)]))
  if mode == 'P':
    picture = PILImage.fromarray(RAMP).quantize(64)
    return stored(picture, transparency=picture.getpixel((0, 0)))
  if mode == 'P bytes':
    picture = PILImage.fromarray(RAMP).quantize(64)
    levels = [0 if i == picture.getpixel((0, 0)) else 255 for i in range(64)]
    return stored(picture, transparency=bytes(levels))
  if mode == 'RGB key':
    return stored(RAMP, transparency=tuple(map(int, RAMP[0, 0])))
  return stored(GREY, transparency=int(GREY[0, 0]))


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P', 'P bytes', 'RGB key', 'L key'])
def test_transparent_pixels_are_refused_or_flattened(mode):
  with pytest.raises(CodecError, match=r'standard input: transparent pixels'):
    load_image(transparent(mode))
  image = load_image(transparent(mode), flatten='#0a141e')
  assert image[0, 0].tolist() == [10, 20, 30]
  expected = np.stack([GREY] * 3, -1) if mode in ('LA', 'L key') else RAMP
  np.testing.assert_allclose(image[1:], expected[1:], atol=2 if mode[0] == 'P' else 0)


def test_partial_transparency_is_mixed_with_the_colour():
  pixel = np.array([[[200, 100, 0, 51]]], np.uint8)  # 51/255 = 1/5.
  assert load_image(stored(pixel), flatten='white')[0, 0].tolist() == [244, 224, 204]


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_an_opaque_alpha_channel_is_dropped(mode):
  picture = PILImage.fromarray(RAMP).convert(mode)
  expected = np.asarray(picture.convert('RGB'))
  np.testing.assert_array_equal(load_image(stored(picture)), expected)


@pytest.mark.parametrize('colour', ['nocolour', '#12', '#11223344', ''])
def test_a_bad_colour_is_named(colour):
  with pytest.raises(CodecError, match=repr(colour)):
    load_image(stored(RAMP), flatten=colour)


WIDE = {
  'I;16 PNG': stored(GREY.astype(np.uint16) * 256),
  'I;16 TIFF': stored(GREY.astype(np.uint16) * 256, 'TIFF'),
  'I TIFF': stored(GREY.astype(np.int32), 'TIFF'),
  'F TIFF': stored(GREY.astype(np.float32), 'TIFF'),
  'grey PGM': b'P5 2 1 65535\n' + bytes(4),
  'colour PPM': b'P6 1 1 65535\n' + bytes(6),
  'colour PNG': png(1, 1, 16, 2, bytes(7)),
  'colour and alpha PNG': png(1, 1, 16, 6, bytes(9)),
  'grey and alpha PNG': png(1, 1, 16, 4, bytes(5)),
}


@pytest.mark.parametrize('kind', WIDE)
def test_more_than_8_bits_are_refused(kind):
  with pytest.raises(CodecError, match='more than 8 bits per sample'):
    load_image(WIDE[kind])


@pytest.mark.parametrize('mode,format', [('CMYK', 'JPEG'), ('CMYK', 'TIFF'), ('LAB', 'TIFF')])
def test_other_colour_spaces_are_refused(mode, format):
  picture = PILImage.new(mode, (4, 4))
  with pytest.raises(CodecError, match=f'{mode} colours; convert it to RGB first'):
    load_image(stored(picture, format))


ORIENTED = {  # EXIF 2.3, 4.6.4, tag 274: which side of the scene row 0 and column 0 are.
  1: RAMP,
  2: RAMP[:, ::-1],
  3: RAMP[::-1, ::-1],
  4: RAMP[::-1],
  5: RAMP.transpose(1, 0, 2),
  6: RAMP[::-1].transpose(1, 0, 2),
  7: RAMP[::-1, ::-1].transpose(1, 0, 2),
  8: RAMP[:, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize('orientation', ORIENTED)
@pytest.mark.parametrize('format', ['PNG', 'WEBP', 'TIFF'])
def test_the_exif_orientation_is_applied(orientation, format):
  exif = PILImage.Exif()
  exif[274] = orientation
  options = {'lossless': True} if format == 'WEBP' else {}
  file = stored(RAMP, format, exif=exif, **options)
  np.testing.assert_array_equal(load_image(file), ORIENTED[orientation])


def test_a_damaged_exif_block_does_not_hide_the_picture():
  file = stored(RAMP, 'JPEG', exif=b'Exif\0\0II*\0\x08\0\0\0\xff\xff')
  assert load_image(file).shape == RAMP.shape


def srgb(linear):
  """IEC 61966-2-1: 0..255 of light in 0..1."""
  light = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
  return 255 * light


@pytest.mark.parametrize('space,mode', [(b'RGB ', 'RGB'), (b'RGB ', 'L'), (b'GRAY', 'L')])
@pytest.mark.parametrize('gamma', [1.0, 1.8])
def test_a_colour_profile_is_converted_to_srgb(space, mode, gamma):
  levels = np.arange(256, dtype=np.uint8)[None]
  pixels = levels if mode == 'L' else np.stack([levels] * 3, -1)
  image = load_image(stored(pixels, icc_profile=profile(space, gamma)))
  expected = np.stack([srgb((levels / 255.0) ** gamma)] * 3, -1)
  np.testing.assert_allclose(image, expected, atol=0.6)


def test_an_srgb_profile_changes_no_pixel():
  icc = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
  np.testing.assert_array_equal(load_image(stored(pixels, icc_profile=icc)), pixels)


@pytest.mark.parametrize(
  'icc', [b'not a profile', profile(b'RGB ', 1.0)[:200], profile(b'GRAY', 1.0)]
)
def test_a_damaged_profile_or_one_for_other_channels_is_refused(icc):
  with pytest.raises(CodecError, match='profile cannot be converted to sRGB'):
    load_image(stored(RAMP, icc_profile=icc))


@pytest.mark.parametrize('format', ['GIF', 'PNG', 'WEBP', 'TIFF'])
def test_animations_and_pages_are_refused_unless_one_frame_is_enough(format):
  options = {'lossless': True} if format == 'WEBP' else {}
  frames = [PILImage.fromarray(RAMP[..., 0] + i) for i in (0, 100)]
  file = stored(frames[0], format, save_all=True, append_images=frames[1:], **options)
  with pytest.raises(CodecError, match='holds 2 frames'):
    load_image(file)
  np.testing.assert_array_equal(load_image(file, first_frame=True)[..., 0], GREY)


def test_a_phone_photograph_with_a_preview_is_one_picture():
  preview = PILImage.fromarray(RAMP[::2, ::2])
  file = stored(RAMP, 'MPO', save_all=True, append_images=[preview])
  assert load_image(file).shape == RAMP.shape


def test_the_limit_is_that_of_the_file_format():
  assert MAX_PIXELS == bitstream.MAX_PIXELS


def test_a_bomb_is_refused_before_it_is_decoded():
  for side in (9_000, 12_000, 60_000, 2**31 - 1):
    with pytest.raises(CodecError, match='pixels'):
      load_image(png(side, side, 8, 2))
  with pytest.raises(CodecError, match='5x6 pixels exceed the limit of 29'):
    load_image(stored(RAMP), max_pixels=29)


@pytest.mark.parametrize('file', [b'', b'hello', b'%!PS-Adobe-3.0 EPSF-3.0\n', bytes(1000)])
def test_what_is_no_image_is_refused(file):
  with pytest.raises(CodecError, match='standard input: not an image that can be read'):
    load_image(file)


def test_errors_name_the_file(tmp_path):
  (tmp_path / 'note.txt').write_text('hello')
  for path in (tmp_path / 'note.txt', tmp_path / 'absent.png', tmp_path):
    for source in (path, str(path)):
      with pytest.raises(CodecError) as caught:
        load_image(source)
      assert str(caught.value).startswith(f'{path}: ') and '\n' not in str(caught.value)


def test_a_stream_that_cannot_seek_is_read():
  class Pipe(io.RawIOBase):
    name = '<stdin>'
    rest = stored(RAMP)

    def read(self, size=-1):
      data, self.rest = self.rest, b''
      return data

  np.testing.assert_array_equal(load_image(Pipe()), RAMP)
  with pytest.raises(CodecError, match='standard input: not an image'):
    load_image(io.BytesIO(b'nothing'))


NOISE = np.random.default_rng(1).integers(0, 256, (25, 37, 3), np.uint8)
FORMATS = {
  'PNG': {},
  'JPEG': {'quality': 80},
  'WEBP': {'quality': 80},
  'GIF': {},
  'BMP': {},
  'PPM': {},
  'TIFF': {'compression': 'tiff_lzw'},
  'JPEG2000': {},
  'AVIF': {'speed': 10},
}


@pytest.mark.parametrize('format', FORMATS)
def test_truncated_files_are_refused(format, tmp_path):
  file = stored(NOISE, format, **FORMATS[format])
  for length in np.linspace(0, 0.9 * len(file), 40).astype(int):
    (tmp_path / 'cut').write_bytes(file[:length])
    for source in (file[:length], tmp_path / 'cut'):
      with pytest.raises(CodecError) as caught:
        load_image(source)
      assert '\n' not in str(caught.value)


@pytest.mark.parametrize('format', FORMATS)
def test_damaged_files_are_refused_or_give_an_image(format):
  file = stored(NOISE, format, **FORMATS[format])
  rng = random.Random(format)
  for _ in range(150):
    damaged = bytearray(file)
    for _ in range(rng.randint(1, 4)):
      damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    try:
      image = load_image(bytes(damaged), max_pixels=2**20)
    except CodecError as error:
      assert '\n' not in str(error)
    else:
      assert image.dtype == np.uint8 and image.shape[2:] == (3,)
