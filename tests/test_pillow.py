"""Pillow opens and saves `.cjx` files, and so do libraries that read images by it."""

import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, UnidentifiedImageError

import compress_jax.pillow  # noqa: F401  # Registers the plugin.
from compress_jax import bitstream, model_zoo, pretrained
from compress_jax.images.reading import load_image
from tests.helpers.small_models import picture

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def pixels():
  return picture(40, 64, 0)


@pytest.fixture(scope='module')
def file(pixels):
  """A file of kmeans, which compiles least."""
  codec, released = pretrained('kmeans', lmbda=0.01)
  return codec.encode(released, pixels)


def saved(image, **options):
  """The bytes that Pillow saves."""
  held = io.BytesIO()
  image.save(held, 'CJX', **{'method': 'kmeans', **options})
  return held.getvalue()


def test_size_mode_and_method_are_known_without_jax(tmp_path, file):
  (tmp_path / 'a.cjx').write_bytes(file)
  code = (
    'import sys, compress_jax.pillow\n'
    'from PIL import Image\n'
    f'image = Image.open({str(tmp_path / "a.cjx")!r})\n'
    "print(image.size, image.mode, image.format, image.info['method'], 'jax' in sys.modules)"
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.stdout.strip() == '(64, 40) RGB CJX kmeans False', done.stderr


def test_pixels_are_those_that_the_codec_decodes(tmp_path, file):
  (tmp_path / 'a.cjx').write_bytes(file)
  decoded = model_zoo.decoder('kmeans')(file)
  with Image.open(tmp_path / 'a.cjx') as image:
    np.testing.assert_array_equal(np.asarray(image), decoded)
  np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file))), decoded)


def test_the_header_is_in_info(file):
  header = bitstream.unpack(file)[0]
  info = Image.open(io.BytesIO(file)).info
  assert (info['level'], info['model_id']) == (header.level, header.model_id.hex())


def test_saving_writes_the_file_of_the_codec(tmp_path, pixels, file):
  Image.fromarray(pixels).save(tmp_path / 'a.cjx', method='kmeans', lmbda=0.01)
  assert (tmp_path / 'a.cjx').read_bytes() == file


def test_without_a_method_it_is_gmm_with_the_options_of_gmm(tmp_path, pixels):
  # What other formats have is ignored, as Pillow's own writers do.
  image = Image.fromarray(pixels)
  image.save(tmp_path / 'a.cjx', lmbda=0.02, rdoq=0.0, quality=90, dpi=(72, 72))
  codec, released = pretrained('gmm', lmbda=0.02, rdoq=0.0)
  assert (tmp_path / 'a.cjx').read_bytes() == codec.encode(released, pixels)


def test_grey_and_palettes_are_saved_as_rgb(pixels):
  rgb = Image.fromarray(pixels)
  for mode in ('1', 'L', 'P', 'RGBX'):
    image = rgb.convert(mode)
    assert saved(image) == saved(image.convert('RGB')), mode


def test_a_grey_image_comes_back_as_grey(pixels):
  held = io.BytesIO(saved(Image.fromarray(pixels).convert('L')))
  opened = Image.open(held)
  assert opened.mode == 'L'
  decoded = model_zoo.decoder('kmeans')(held.getvalue())
  np.testing.assert_array_equal(np.asarray(opened), decoded[..., 0])


def test_transparent_pixels_need_a_colour_behind_them(pixels):
  image = Image.fromarray(pixels)
  assert saved(image.convert('RGBA')) == saved(image)  # All opaque.
  clear = Image.new('RGBA', image.size)
  with pytest.raises(OSError, match='transparent'):
    saved(clear)
  assert saved(clear, flatten='red') == saved(Image.new('RGB', image.size, 'red'))


def test_a_colour_profile_is_applied_as_in_files(tmp_path, pixels):
  space = ImageCms.ImageCmsProfile(ImageCms.createProfile('XYZ')).tobytes()
  with pytest.raises(OSError, match='profile'):
    image = Image.fromarray(pixels)
    image.info['icc_profile'] = space
    saved(image)
  profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  Image.fromarray(pixels).save(tmp_path / 'a.png', icc_profile=profile)
  opened = Image.open(tmp_path / 'a.png')
  assert saved(opened) == saved(Image.fromarray(load_image(tmp_path / 'a.png')))


@pytest.mark.parametrize('mode', ['CMYK', 'I;16', 'F', 'I', 'LAB', 'YCbCr', 'HSV'])
def test_what_has_no_8_bit_rgb_is_refused(tmp_path, mode):
  with pytest.raises(OSError, match=f'cannot write mode {mode}'):
    Image.new(mode, (8, 8)).save(tmp_path / 'a.cjx')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('options', [{'method': 'jpeg'}, {'lmbda': 7}, {'model': '/none'}])
def test_what_cannot_be_encoded_leaves_no_file(tmp_path, pixels, options):
  with pytest.raises(OSError):
    Image.fromarray(pixels).save(tmp_path / 'a.cjx', **options)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('data', [b'', b'no image at all', b'\x89PNG'])
def test_what_is_no_file_of_ours_is_unidentified(data):
  with pytest.raises(UnidentifiedImageError):
    Image.open(io.BytesIO(data))


def test_a_damaged_header_and_a_newer_version_are_named(file):
  with pytest.raises(OSError, match='truncated'):
    Image.open(io.BytesIO(file[:10]))
  with pytest.raises(OSError, match='version 1'):
    Image.open(io.BytesIO(file[:3] + bytes([file[3] | 1 << 5]) + file[4:]))
  with pytest.raises(OSError, match='method number 7'):
    Image.open(io.BytesIO(bitstream.pack(bitstream.Header(7, 4, 4), bytes(8))))


@pytest.mark.parametrize('step', ['load', 'verify'])
def test_a_damaged_payload_opens_and_fails_where_it_is_read(file, step):
  for damaged in (file[:-20], file[:-20] + bytes([file[-20] ^ 1]) + file[-19:]):
    image = Image.open(io.BytesIO(damaged))
    assert image.size == (64, 40)
    with pytest.raises(OSError, match=r'expected|checksum'):
      getattr(image, step)()


def test_verify_passes_intact_files(file):
  Image.open(io.BytesIO(file)).verify()


def test_an_image_that_is_opened_can_be_pickled(file):
  image = Image.open(io.BytesIO(file))
  np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(image))), np.asarray(image))


@pytest.mark.parametrize(
  ('module', 'read'),
  [('matplotlib.pyplot', 'imread'), ('skimage.io', 'imread'), ('imageio.v3', 'imread')],
)
def test_libraries_that_use_pillow_read_files(tmp_path, file, module, read):
  library = pytest.importorskip(module)
  (tmp_path / 'a.cjx').write_bytes(file)
  found = getattr(library, read)(tmp_path / 'a.cjx')
  np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(file))))
