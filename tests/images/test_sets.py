import pickle
import sys

import numpy as np
import pytest
import skimage.data

from compress_jax.codec import CodecError
from compress_jax.images import sets

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)


def unavailable(**_):
  raise CodecError('no network')


def fill(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(sets.image_bytes(PIXELS))


def test_images_are_found_everywhere_in_natural_order(tmp_path):
  names = ['a1.png', 'a2.JPG', 'a10.png', 'b/c.webp', 'd.tif', 'e.ppm', 'f.bmp', 'g.gif', 'h.jpeg']
  fill(tmp_path, *reversed(names), '._a1.png')
  (tmp_path / 'notes.txt').write_text('not an image')
  assert [p.relative_to(tmp_path).as_posix() for p in sets.find_images(tmp_path)] == names


def test_a_single_file_is_a_list_of_one(tmp_path):
  fill(tmp_path, 'picture')
  assert sets.find_images(str(tmp_path / 'picture')) == [tmp_path / 'picture']


def test_nothing_to_find_is_an_error(tmp_path):
  with pytest.raises(CodecError, match='no images in this folder'):
    sets.find_images(tmp_path)
  with pytest.raises(CodecError, match='absent: no such file or folder'):
    sets.find_images(tmp_path / 'absent')


@pytest.mark.parametrize(
  'height,width,top,left', [(512, 768, 128, 256), (768, 512, 256, 128), (257, 259, 0, 1)]
)
def test_the_centre_crop_is_in_the_middle(height, width, top, left):
  rows, columns = np.indices((height, width))
  crop = sets.centre_crop(np.stack([rows, columns, rows], -1))
  assert crop.shape == (256, 256, 3)
  assert crop[0, 0, :2].tolist() == [top, left]


def test_a_side_shorter_than_the_crop_is_kept_whole():
  assert sets.centre_crop(np.zeros((100, 300, 3), np.uint8)).shape == (100, 256, 3)
  assert sets.centre_crop(PIXELS).shape == PIXELS.shape


def test_the_photographs_at_hand_are_in_colour():
  photographs = dict(sets.sample_photographs())
  assert len(photographs) == 5
  for image in photographs.values():
    assert image.dtype == np.uint8 and image.shape[2:] == (3,) and min(image.shape[:2]) >= 256
    assert np.ptp(image.astype(int), -1).mean() > 5
  np.testing.assert_array_equal(photographs['coffee'], skimage.data.coffee())


def test_a_given_folder_is_used(tmp_path):
  fill(tmp_path, 'a.png', 'b/a.png')
  description, images = sets.default_images(str(tmp_path))
  assert description == f'2 images of {tmp_path}'
  assert [image.name for image in images] == ['a', 'b/a']
  np.testing.assert_array_equal(images[1].load(), PIXELS)


def test_names_are_unique_where_suffixes_differ(tmp_path):
  fill(tmp_path, 'a.png', 'a.bmp')
  assert [image.name for image in sets.default_images(str(tmp_path))[1]] == ['a.bmp', 'a.png']


def test_an_image_can_be_sent_to_another_process(tmp_path):
  fill(tmp_path, 'a.png')
  image = pickle.loads(pickle.dumps(sets.default_images(str(tmp_path))[1][0]))
  np.testing.assert_array_equal(image.load(), PIXELS)


def test_the_kodak_suite_comes_before_the_photographs(tmp_path, monkeypatch):
  names = [f'kodim{i:02d}.png' for i in range(1, 25)]
  fill(tmp_path, *names)
  monkeypatch.setenv('KODAK_DIR', str(tmp_path))
  description, images = sets.default_images()
  assert description == 'the Kodak suite (24 images)'
  assert [image.name for image in images] == [name[:-4] for name in names]


def test_without_kodak_the_photographs_are_used_and_the_reason_is_said(monkeypatch):
  monkeypatch.delenv('KODAK_DIR', raising=False)
  monkeypatch.setattr(sets, 'kodak', unavailable)
  description, images = sets.default_images()
  assert description == '5 photographs of scikit-image, as no network'
  assert [image.name for image in images][:2] == ['astronaut', 'chelsea']


def test_without_network_and_photographs_the_line_says_both(monkeypatch):
  monkeypatch.delenv('KODAK_DIR', raising=False)
  monkeypatch.setattr(sets, 'kodak', unavailable)
  monkeypatch.setitem(sys.modules, 'skimage', None)
  with pytest.raises(CodecError, match='no network; photographs in its place: needs skimage: pip'):
    sets.default_images()


def test_a_wrong_kodak_folder_is_not_passed_over(tmp_path, monkeypatch):
  monkeypatch.setenv('KODAK_DIR', str(tmp_path))
  with pytest.raises(CodecError, match='KODAK_DIR'):
    sets.default_images()
