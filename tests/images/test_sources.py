import contextlib
import importlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from compress_jax.codec import CodecError
from compress_jax.images import sets, sources
from compress_jax.training import streams

ROOT = Path(__file__).parents[2]
SIZES = [(20, 24), (21, 18), (9, 40), (30, 30)]  # Height and width of what the dataset holds.
# Three configurations: one image, a pair as in super-resolution, two of unknown meaning.
BUILDER = """
import numpy as np
import tensorflow_datasets as tfds

FEATURES = {'one': ['image'], 'pair': ['lr', 'hr'], 'unclear': ['a', 'b']}


class Builder(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in FEATURES]

  def _info(self):
    names = FEATURES[self.builder_config.name]
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {**{name: tfds.features.Image() for name in names}, 'number': np.int64}
      )
    )

  def _split_generators(self, manager):
    return {'train': self._generate_examples(), 'test': self._generate_examples(1)}

  def _generate_examples(self, count=4):
    for i in range(count):
      names = FEATURES[self.builder_config.name]
      other = {name: 'FOLDER/other.png' for name in names[:-1]}
      yield i, {**other, names[-1]: f'FOLDER/{i}.png', 'number': i}
"""


def pixels(i, height, width):
  return np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)


IMAGES = [pixels(i, *size) for i, size in enumerate(SIZES)]


def picture(path, i=0, height=8, width=9):
  """A PNG of random pixels, which are returned."""
  path.parent.mkdir(exist_ok=True)
  path.write_bytes(sets.image_bytes(pixels(i, height, width)))
  return pixels(i, height, width)


def damaged(path):
  """A PNG with a good header and half of its data."""
  picture(path, 99, 40, 40)
  path.write_bytes(path.read_bytes()[:2000])


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """A TFDS folder with the dataset `noise`, prepared as array_record."""
  import tensorflow_datasets as tfds

  folder = tmp_path_factory.mktemp('tfds')
  for i, size in enumerate(SIZES):
    picture(folder / f'{i}.png', i, *size)
  picture(folder / 'other.png', 9, 2, 2)
  package = folder / 'code' / 'noise'
  package.mkdir(parents=True)
  (package / '__init__.py').write_text('')
  code = BUILDER.replace('FOLDER', str(folder))
  (package / 'noise_dataset_builder.py').write_text(code)
  with pytest.MonkeyPatch.context() as patch, tfds.core.registered.skip_registration():
    patch.syspath_prepend(str(folder / 'code'))
    builder = importlib.import_module('noise.noise_dataset_builder').Builder
    for config in ('one', 'pair', 'unclear'):
      options = {'data_dir': str(folder / 'data'), 'file_format': 'array_record'}
      builder(config=config, **options).download_and_prepare()
  return str(folder / 'data')


def silent(line):
  raise AssertionError(line)


def records(spec, folder):
  return sources.open_source(spec, log=silent, data_dir=folder)


def test_a_folder_is_a_sequence_of_its_images(tmp_path):
  wanted = [picture(tmp_path / name, i) for i, name in enumerate(['a2.png', 'a10.png', 'b/c.png'])]
  source = sources.open_source(str(tmp_path), log=silent)
  assert source.names == [str(tmp_path / name) for name in ('a2.png', 'a10.png', 'b/c.png')]
  assert len(source) == 3
  for image, pixels in zip(source, wanted, strict=True):  # Ends, so IndexError comes in time.
    np.testing.assert_array_equal(image, pixels)
  np.testing.assert_array_equal(source[-1], wanted[-1])


def test_a_file_is_read_as_the_command_line_reads_it(tmp_path):
  path = tmp_path / 'turned.jpg'
  exif = PILImage.Exif()
  exif[274] = 6  # Turn by 90 degrees.
  PILImage.fromarray(pixels(0, 8, 12)).save(path, exif=exif)
  source = sources.open_source(str(path), log=silent)
  assert source[0].shape == (12, 8, 3)
  np.testing.assert_array_equal(source[0], sets.load_image(path))


def test_unreadable_files_are_named_once_each_counted_and_skipped(tmp_path):
  wanted = picture(tmp_path / 'b.png')
  (tmp_path / 'a.png').write_text('not a picture')
  PILImage.new('CMYK', (8, 8)).save(tmp_path / 'c.jpg')
  PILImage.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / 'd.png')
  picture(tmp_path / 'e.dng')
  lines = []
  source = sources.open_source(str(tmp_path), log=lines.append)
  assert source.names == [str(tmp_path / 'b.png')]
  np.testing.assert_array_equal(source[0], wanted)
  assert sorted(line.split(': ')[0] for line in lines[:-1]) == [
    f'skipped {tmp_path}/{name}' for name in ('a.png', 'c.jpg', 'd.png', 'e.dng')
  ]
  assert lines[-1] == f'4 files or folders of {tmp_path} were skipped, 1 are left'


def test_nothing_readable_is_an_error(tmp_path):
  (tmp_path / 'a.png').write_text('not a picture')
  with pytest.raises(CodecError, match=r'a\.png: not an image that can be read'):
    sources.open_source(str(tmp_path), log=silent)
  (tmp_path / 'b.png').write_text('not a picture')
  with pytest.raises(CodecError, match='none of 2 images can be read'):
    sources.open_source(str(tmp_path), log=lambda line: None)
  with pytest.raises(CodecError, match='no images named'):
    sources.open_sources([], log=silent)


def test_images_that_cannot_be_decoded_are_named_once_and_left_out(tmp_path):
  wanted = picture(tmp_path / '1.png', 1)
  damaged(tmp_path / '2.png')
  lines = []
  source = sources.open_source(str(tmp_path), log=silent)
  source = sources.decodable(source, log=lines.append)
  assert source.names == [str(tmp_path / '1.png')]
  np.testing.assert_array_equal(source[0], wanted)
  assert lines[0].startswith(f'skipped {tmp_path}/2.png: ') and len(lines) == 2
  assert lines[1] == '1 of 2 images skipped: they cannot be decoded'
  (tmp_path / '1.png').unlink()
  with pytest.raises(CodecError, match='none of 1 images can be decoded'):
    sources.decodable(sources.open_source(str(tmp_path), log=silent), log=lines.append)


def test_an_image_that_fails_when_drawn_is_replaced_by_the_next(tmp_path, caplog):
  first = picture(tmp_path / '1.png', 1)
  damaged(tmp_path / '2.png')
  third = picture(tmp_path / '3.png', 3)
  damaged(tmp_path / '4.png')
  source = sources.open_source(str(tmp_path), log=silent)
  for _ in range(2):
    for image, wanted in zip(source, [first, third, third, first], strict=True):
      np.testing.assert_array_equal(image, wanted)
  assert sorted(record.message.count('2.png') for record in caplog.records) == [0, 1]


def test_that_no_image_can_be_decoded_is_an_error(tmp_path):
  damaged(tmp_path / 'a.png')
  with pytest.raises(CodecError, match=r'none of 1 images, .*a\.png among them, can be read'):
    sources.open_source(str(tmp_path), log=silent)[0]


def test_several_specs_follow_each_other(tmp_path, prepared):
  wanted = [picture(tmp_path / 'a' / f'{i}.png', 10 + i) for i in range(2)]
  wanted += [picture(tmp_path / 'b.png', 12)]
  specs = [str(tmp_path / 'a'), 'tfds:noise/one@test', str(tmp_path / 'b.png')]
  source = sources.open_sources(specs, log=silent, data_dir=prepared)
  assert source.names[2:] == ['tfds:noise/one@test number 0', str(tmp_path / 'b.png')]
  for image, pixels in zip(source, [*wanted[:2], IMAGES[0], wanted[2]], strict=True):
    np.testing.assert_array_equal(image, pixels)


def test_small_images_are_left_out_and_counted(tmp_path):
  for i, (height, width) in enumerate([(8, 20), (20, 8), (9, 9), (30, 10)]):
    picture(tmp_path / f'{i}.png', i, height, width)
  source = sources.open_source(str(tmp_path), log=silent)
  assert source.sides.tolist() == [8, 8, 9, 10]
  lines = []
  large = sources.large_enough(source, 9, log=lines.append)
  assert [Path(name).stem for name in large.names] == ['2', '3']
  assert lines == ['2 of 4 images skipped: less than 9 pixels high or wide']
  np.testing.assert_array_equal(large[1], pixels(3, 30, 10))
  with pytest.raises(CodecError, match='none of 4 images is at least 11 pixels'):
    sources.large_enough(source, 11, log=silent)


def test_images_of_unknown_size_are_replaced_when_they_are_too_small(prepared):
  source = sources.large_enough(records('tfds:noise/one', prepared), 20, log=silent)
  shapes = [image.shape[:2] for image in source]
  assert len(shapes) == 4 and set(shapes) == {(20, 24), (30, 30)}
  with pytest.raises(CodecError, match='none of 4 images, tfds:noise/one number 0 among them'):
    sources.large_enough(source, 31, log=silent)[0]


def test_a_tfds_dataset_holds_the_images_that_went_in(prepared):
  source = records('tfds:noise/one:1.0.0', prepared)
  held = {image.tobytes() for image in source}
  assert held == {image.tobytes() for image in IMAGES}  # TFDS shuffles.
  assert {image.shape[:2] for image in source} == set(SIZES)


@pytest.mark.parametrize('split,count', [('', 4), ('@test', 1), ('@train[:50%]', 2)])
def test_a_split_follows_the_name(prepared, split, count):
  assert len(records(f'tfds:noise/one{split}', prepared)) == count


def test_of_a_pair_the_high_resolution_is_taken(prepared):
  np.testing.assert_array_equal(records('tfds:noise/pair@test', prepared)[0], IMAGES[0])


def test_which_of_two_images_is_not_guessed(prepared):
  with pytest.raises(CodecError, match='It has a, b, none is'):
    records('tfds:noise/unclear', prepared)


def test_sources_can_be_sent_to_another_process(tmp_path, prepared):
  picture(tmp_path / 'a.png')
  specs = [str(tmp_path), 'tfds:noise/one']
  source = sources.open_sources(specs, log=silent, data_dir=prepared)
  again = pickle.loads(pickle.dumps(source))
  for image, wanted in zip(again, source, strict=True):
    np.testing.assert_array_equal(image, wanted)


def test_worker_processes_read_files_and_records(tmp_path, prepared):
  pytest.importorskip('grain')
  picture(tmp_path / 'a.png', 5, 20, 20)
  specs = [str(tmp_path), 'tfds:noise/one']
  source = sources.open_sources(specs, log=silent, data_dir=prepared)
  source = sources.large_enough(source, 18, log=silent)
  options = {'seed': 4, 'size': 16, 'batch': 4, 'start': 1, 'stop': 5}
  with contextlib.closing(streams.batches(source, **options, workers=2)) as made:
    found = list(made)
  np.testing.assert_array_equal(found, list(streams.batches(source, **options)))
  assert len(found) == 4


def test_images_found_otherwise_make_a_source(tmp_path):
  wanted = picture(tmp_path / 'a.png')
  source = sources.from_images(sets.default_images(str(tmp_path))[1])
  assert source.names == ['a']
  np.testing.assert_array_equal(source[0], wanted)


def test_a_dataset_that_is_not_prepared_says_how_to_prepare_it(tmp_path):
  with pytest.raises(CodecError) as caught:
    records('tfds:tf_flowers', str(tmp_path))
  line = str(caught.value)
  assert line.startswith(f'tfds:tf_flowers: nothing in {tmp_path}/tf_flowers/')
  assert "tfds.builder('tf_flowers', file_format='array_record').download_and_prepare()" in line
  assert '\n' not in line


def test_tfrecord_data_says_how_to_prepare_it_again(tmp_path, prepared):
  # Only TensorFlow can write TFRecord files, but what refuses them reads the description alone.
  shutil.copytree(Path(prepared) / 'noise', tmp_path / 'noise')
  path = tmp_path / 'noise' / 'one' / '1.0.0' / 'dataset_info.json'
  text = json.loads(path.read_text())
  assert text['fileFormat'] == 'array_record'
  path.write_text(json.dumps({**text, 'fileFormat': 'tfrecord'}))
  with pytest.raises(CodecError) as caught:
    records('tfds:noise/one', str(tmp_path))
  line = str(caught.value)
  assert 'holds tfrecord, which cannot be read by index' in line
  assert "tfds.builder('noise/one', file_format='array_record')" in line
  assert '\n' not in line


@pytest.mark.parametrize(
  'spec,text',
  [
    ('tfds:nothing_of_the_kind', 'TFDS knows no dataset nothing_of_the_kind'),
    ('tfds:noise/one@validation', 'no such split; there are test, train'),
    ('tfds:noise/none', 'tfds:noise/none'),
    ('tfds:', 'tfds:'),
  ],
)
def test_a_wrong_name_is_one_line(prepared, spec, text):
  with pytest.raises(CodecError) as caught:
    records(spec, prepared)
  assert text in str(caught.value) and '\n' not in str(caught.value)


def test_without_tfds_the_line_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  with pytest.raises(CodecError, match=r"pip install 'compress_jax\[tfds\]'"):
    records('tfds:clic', None)


def test_tfds_is_imported_when_it_is_named_and_tensorflow_never(tmp_path, prepared):
  picture(tmp_path / 'a.png')
  code = """
import sys
from compress_jax.images import sources
heavy = lambda: [m for m in ('tensorflow_datasets', 'tensorflow', 'grain') if m in sys.modules]
assert len(sources.open_source(sys.argv[1], log=print)) == 1
print(heavy())
print(len(sources.open_source('tfds:noise/one', log=print)), heavy())
"""
  command = [sys.executable, '-c', code, str(tmp_path)]
  environment = {**os.environ, 'TFDS_DATA_DIR': prepared}
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
  assert done.stdout.splitlines() == ['[]', "4 ['tensorflow_datasets']"], done.stderr
