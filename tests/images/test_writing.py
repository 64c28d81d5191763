import errno
import io
import os
import stat

import numpy as np
import pytest
from PIL import Image as PILImage

from compress_jax.codec import CodecError
from compress_jax.files.atomic import write_atomically
from compress_jax.images.reading import load_image
from compress_jax.images.writing import image_bytes, save_image

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
GREY = np.repeat(PIXELS[..., :1], 3, -1)


@pytest.mark.parametrize('suffix', ['.png', '.PNG', '.ppm', '.bmp', '.tif', '.tiff', '.webp'])
@pytest.mark.parametrize('image', [PIXELS, GREY], ids=['colour', 'grey'])
def test_a_saved_image_reads_back_exactly(tmp_path, suffix, image):
  save_image(tmp_path / f'a{suffix}', image)
  np.testing.assert_array_equal(load_image(tmp_path / f'a{suffix}'), image)
  assert [p.name for p in tmp_path.iterdir()] == [f'a{suffix}']


def test_equal_channels_are_stored_as_grey():
  assert PILImage.open(io.BytesIO(image_bytes(GREY))).mode == 'L'
  assert PILImage.open(io.BytesIO(image_bytes(PIXELS))).mode == 'RGB'


@pytest.mark.parametrize('suffix', ['.jpg', '.gif', '', '.txt'])
def test_formats_with_loss_are_refused(tmp_path, suffix):
  with pytest.raises(CodecError, match='without loss'):
    save_image(tmp_path / f'a{suffix}', PIXELS)
  assert not list(tmp_path.iterdir())


def test_what_a_format_cannot_hold_is_one_error():
  with pytest.raises(CodecError, match='WEBP cannot store'):
    image_bytes(np.zeros((1, 20_000, 3), np.uint8), '.webp')


def test_an_existing_file_stays_unless_overwriting_is_allowed(tmp_path):
  path = tmp_path / 'out'
  path.write_bytes(b'old')
  with pytest.raises(CodecError, match='exists already'):
    write_atomically(path, b'new')
  assert path.read_bytes() == b'old'
  write_atomically(path, b'new', overwrite=True)
  assert path.read_bytes() == b'new'


def test_modes_follow_the_umask_or_the_old_file(tmp_path):
  path = tmp_path / 'out'
  old = os.umask(0o027)
  try:
    write_atomically(path, b'a')
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    write_atomically(path, b'b', overwrite=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
  finally:
    os.umask(old)


def test_a_symlink_stays_a_link_and_its_target_is_written(tmp_path):
  target, link = tmp_path / 'target', tmp_path / 'link'
  target.write_bytes(b'old')
  link.symlink_to(target)
  with pytest.raises(CodecError, match='exists already'):
    write_atomically(link, b'new')
  write_atomically(link, b'new', overwrite=True)
  assert link.is_symlink() and target.read_bytes() == b'new'


def test_a_dangling_symlink_counts_as_existing(tmp_path):
  (tmp_path / 'link').symlink_to(tmp_path / 'absent')
  with pytest.raises(CodecError, match='exists already'):
    write_atomically(tmp_path / 'link', b'new')


def test_the_input_is_never_the_output(tmp_path):
  path, link = tmp_path / 'in.png', tmp_path / 'link.png'
  path.write_bytes(b'original')
  link.symlink_to(path)
  for target in (path, link):
    with pytest.raises(CodecError, match='same file'):
      write_atomically(target, b'new', overwrite=True, source=path)
  assert path.read_bytes() == b'original'


def test_a_device_is_written_to_and_not_replaced():
  write_atomically(os.devnull, b'new')
  assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize('where', ['absent/out', 'file/out', 'folder', 'x' * 300])
def test_impossible_targets_are_one_error(tmp_path, where):
  (tmp_path / 'file').write_bytes(b'')
  (tmp_path / 'folder').mkdir()
  with pytest.raises(CodecError, match='cannot be written') as caught:
    write_atomically(tmp_path / where, b'new', overwrite=True)
  assert str(tmp_path / where) in str(caught.value) and '\n' not in str(caught.value)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['file', 'folder']


@pytest.mark.skipif(os.name != 'posix' or os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_without_permission_is_one_error(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(CodecError, match='Permission denied'):
    write_atomically(tmp_path / 'out', b'new')


@pytest.mark.parametrize('step', ['fsync', 'replace'])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
  path = tmp_path / 'out'
  path.write_bytes(b'old')

  def full(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, step, full)
  with pytest.raises(CodecError, match='No space left'):
    write_atomically(path, b'new', overwrite=True)
  assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs a device that is always full')
def test_a_full_disk_is_one_error():
  with pytest.raises(CodecError, match='No space left'):
    write_atomically('/dev/full', b'new')
