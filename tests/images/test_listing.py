"""Which files of a folder are taken, and what is said about the others."""

import os

import numpy as np
import pytest

from compress_jax.codec import CodecError
from compress_jax.images import listing, sets

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
PNG = sets.image_bytes(PIXELS)


def fill(folder, *names, content=PNG):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def listed(folder):
  """Names of the files that are taken, and the lines about the others."""
  lines = []
  found = listing.find_images(folder, report=lines.append)
  return [path.relative_to(folder).as_posix() for path in found], lines


def test_every_suffix_of_a_format_that_is_read_is_taken(tmp_path):
  names = [f'{i}.{s}' for i, s in enumerate(['png', 'JPG', 'heic', 'HIF', 'jxl', 'avif', 'jp2'])]
  fill(tmp_path, *names)
  assert listed(tmp_path) == (names, [])


def test_a_file_without_a_suffix_is_taken_if_it_begins_as_an_image(tmp_path):
  fill(tmp_path, 'photo')
  fill(tmp_path, 'LICENSE', content=b'Apache')
  fill(tmp_path, 'empty', content=b'')
  assert listed(tmp_path) == (['photo'], [])


@pytest.mark.parametrize('name', ['a.tga', 'a.dng', 'a.CR3', 'a.svg', 'a.psd', 'a.exr', 'a.ico'])
def test_suffixes_of_images_that_are_not_read_are_named(tmp_path, name):
  fill(tmp_path, 'b.png')
  fill(tmp_path, name, content=b'something')
  found, lines = listed(tmp_path)
  assert found == ['b.png'] and len(lines) == 1
  assert lines[0].startswith(f'{tmp_path}/{name}: looks like an image')


def test_an_image_under_another_suffix_is_named(tmp_path):
  fill(tmp_path, 'a.png', 'b.bak', 'c.2024')
  found, lines = listed(tmp_path)
  assert found == ['a.png']
  assert [line.partition(':')[0] for line in lines] == [f'{tmp_path}/b.bak', f'{tmp_path}/c.2024']


def test_what_is_no_image_is_not_named(tmp_path):
  fill(tmp_path, 'a.png')
  fill(tmp_path, 'notes.txt', 'a.json', 'b.cjx', 'c.csv', content=b'P is for text, BM too')
  assert listed(tmp_path) == (['a.png'], [])


def test_hidden_files_and_folders_are_left_out_alike(tmp_path):
  fill(tmp_path, 'a.png', '.b.png', '.git/c.png', 'd/.e/f.png', 'd/.g.png', 'd/h.png')
  assert listed(tmp_path) == (['a.png', 'd/h.png'], [])
  assert listed(tmp_path / '.git') == (['c.png'], [])  # Who names it wants it.


def test_a_link_to_a_folder_is_followed_once(tmp_path):
  root = tmp_path / 'root'
  fill(root, 'z/a.png')
  fill(tmp_path / 'elsewhere', 'b.png')
  (root / 'here').symlink_to(root / 'z')
  (root / 'one').symlink_to(tmp_path / 'elsewhere')
  (root / 'two').symlink_to(tmp_path / 'elsewhere')
  assert listed(root) == (['one/b.png', 'z/a.png'], [])


def test_loops_end(tmp_path):
  root = tmp_path / 'root'
  fill(root, 'a.png', 'b/c.png')
  (root / 'b' / 'loop').symlink_to(root)
  (root / 'self').symlink_to(root / 'b')
  assert listed(root) == (['a.png', 'b/c.png'], [])
  (root / 'up').symlink_to(tmp_path)
  found, lines = listed(root)
  assert found == ['a.png', 'b/c.png']
  assert lines == [f'{root}/up: a link to a folder that holds {root}; not followed']


def test_links_to_nothing_are_named_or_fail_when_they_are_read(tmp_path):
  fill(tmp_path, 'a.png')
  (tmp_path / 'b.jpg').symlink_to(tmp_path / 'absent')
  (tmp_path / 'disk').symlink_to(tmp_path / 'unmounted')
  (tmp_path / 'self.png').symlink_to(tmp_path / 'self.png')
  found, lines = listed(tmp_path)
  assert found == ['a.png', 'b.jpg', 'self.png']
  assert lines == [f'{tmp_path}/disk: cannot be read (No such file or directory)']
  for name in ('b.jpg', 'self.png'):
    with pytest.raises(CodecError, match=name):
      sets.load_image(tmp_path / name)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
  fill(tmp_path, 'a.png', 'locked/b.png')
  scandir = os.scandir

  def refusing(folder):
    if os.fspath(folder).endswith('locked'):
      raise PermissionError(13, 'Permission denied')
    return scandir(folder)

  monkeypatch.setattr(os, 'scandir', refusing)  # Root may read everything.
  assert listed(tmp_path) == (
    ['a.png'], [f'{tmp_path}/locked: folder cannot be read (Permission denied)']
  )  # fmt: skip


def test_a_pipe_with_the_name_of_an_image_is_named_and_not_waited_for(tmp_path):
  fill(tmp_path, 'a.png')
  os.mkfifo(tmp_path / 'b.png')
  os.mkfifo(tmp_path / 'queue')
  assert listed(tmp_path) == (['a.png'], [f'{tmp_path}/b.png: not a regular file'])


def test_a_folder_of_other_images_only_says_why_it_has_none(tmp_path):
  fill(tmp_path, 'a.tga', 'b.tga')
  with pytest.raises(CodecError, match=r'no images in this folder: .*a\.tga: .* \(and 1 more\)'):
    listing.find_images(tmp_path, report=lambda line: None)


def test_without_a_listener_the_lines_are_logged(tmp_path, caplog):
  fill(tmp_path, 'a.png', 'b.bak')
  listing.find_images(tmp_path)
  assert [record.message.partition(':')[0] for record in caplog.records] == [f'{tmp_path}/b.bak']
