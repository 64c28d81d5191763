"""--json: one line of JSON for each file on standard output, and nothing else there."""

import json
import math
import sys
import types

import numpy as np
import pytest

from compress_jax import bitstream, methods
from compress_jax.cli import evaluate, main, records
from compress_jax.codec import CodecError, Method
from compress_jax.evaluation.evaluate import Result
from compress_jax.images.sets import NamedImage, load_image
from tests.helpers.command_line import failure, fake_codec, image, run, write


@pytest.fixture(autouse=True)
def fake_method(monkeypatch):
  """Stands in for kmeans: these tests are about what is said of files."""
  monkeypatch.setitem(
    sys.modules, 'fake_method', types.SimpleNamespace(METHOD=Method(fake_codec, (1e-5, 10)))
  )
  fake = methods.METHODS['kmeans']._replace(module='fake_method')
  monkeypatch.setitem(methods.METHODS, 'kmeans', fake)


def printed(capsys):
  """The records on standard output, and standard error."""
  out, err = capsys.readouterr()
  return [json.loads(line) for line in out.splitlines()], err


def test_compress_says_what_the_file_is(tmp_path, capsys):
  source, target = write(tmp_path / 'a.png'), tmp_path / 'a.cjx'
  assert run('compress', source, target, '--json', '--lambda=0.02') == 0
  [record], err = printed(capsys)
  file = target.read_bytes()
  codec = fake_codec()
  mse = np.mean((load_image(source) - codec.decode((), file).astype(float)) ** 2)
  assert record.pop('seconds') > 0 and err == ''
  assert record.pop('psnr') == pytest.approx(10 * math.log10(255**2 / mse))
  assert record == {
    'file': str(source),
    'output': str(target),
    'method': 'kmeans',
    'level': bitstream.unpack(file)[0].level,
    'width': 40,
    'height': 24,
    'bytes': len(file),
    'bpp': 8 * len(file) / (40 * 24),
    'lambda': 0.02,
  }


def test_decompress_says_what_the_file_was(tmp_path, capsys):
  source, target = tmp_path / 'a.cjx', tmp_path / 'b.png'
  run('compress', write(tmp_path / 'a.png'), source)
  capsys.readouterr()
  assert run('decompress', source, target, '--json') == 0
  [record], err = printed(capsys)
  size = source.stat().st_size
  assert (record['file'], record['output'], err) == (str(source), str(target), '')
  assert (record['bytes'], record['bpp'], record['method']) == (size, 8 * size / 960, 'kmeans')
  assert 'psnr' not in record  # Nobody knows the original.


def test_of_a_folder_each_file_has_its_line_and_so_has_each_failure(tmp_path, capsys):
  write(tmp_path / 'in' / 'a.png'), write(tmp_path / 'in' / 'b.png')
  flat = write(tmp_path / 'in' / 'flat.png', np.full((8, 8, 3), 7, np.uint8))
  (tmp_path / 'in' / 'odd.psd').write_bytes(b'8BPS')
  assert run('compress', tmp_path / 'in', tmp_path / 'out', '--json') == 1
  found, err = printed(capsys)
  by_name = {record['file'].rpartition('/')[2]: record for record in found}
  assert by_name.keys() == {'a.png', 'b.png', 'flat.png', 'odd.psd'} and len(found) == 4
  assert by_name['flat.png'] == {'file': str(flat), 'error': 'one colour'}
  assert 'not read' in by_name['odd.psd']['error']
  assert 'flat.png: one colour' in err and 'a.cjx' not in err


def test_an_error_that_ends_the_program_is_a_record_too(tmp_path, capsys):
  missing = tmp_path / 'none.png'
  assert run('compress', missing, tmp_path / 'a.cjx', '--json') == 1
  [record], err = printed(capsys)
  assert record == {'file': str(missing), 'error': 'no such file or folder'}
  assert err == f'compress-jax: error: {missing}: no such file or folder\n'


def test_a_damaged_file_is_a_record(tmp_path, capsys):
  (tmp_path / 'a.cjx').write_bytes(b'no')
  assert run('decompress', tmp_path / 'a.cjx', tmp_path / 'a.png', '--json') == 1
  [record], _ = printed(capsys)
  assert record == {'file': str(tmp_path / 'a.cjx'), 'error': 'not a .cjx file'}


def test_standard_output_is_for_one_of_both(tmp_path, capsys):
  assert run('compress', write(tmp_path / 'a.png'), '-', '--json') == 2
  assert '--json' in failure(capsys)


def test_modes_without_files_have_no_json(capsys):
  assert main.main(['compress-jax', '--mode=train', '--json']) == 2
  assert 'eval, compress, decompress' in failure(capsys)


def row(**more):
  """A row of the evaluation."""
  same = {'image': 'a', 'protocol': 'full', 'width': 4, 'height': 2, 'file': 'files/a.cjx'}
  numbers = {'bytes': 2, 'bpp': 2.0, 'ms_ssim': None, 'encode_s': 0.25, 'decode_s': 0.5}
  return {**same, **numbers, 'split': {}, **more}


def test_eval_prints_a_record_of_each_file_and_each_failure(monkeypatch, capsys):
  ours = Result([row(method='kmeans', psnr=30.0, **{'lambda': 0.013})], [], 0)
  theirs = Result([row(method='png', psnr=None, size=2)], ['jpeg size=2 a: it broke: twice'], 0)
  answers = iter((ours, theirs))
  monkeypatch.setattr(evaluate, 'evaluate', lambda *args, **options: next(answers))
  named = [NamedImage('a', image)]
  monkeypatch.setattr(evaluate.sets, 'default_images', lambda *args, **options: ('one', named))
  assert main.main(['compress-jax', '--json', '--output=measured']) == 1
  [kmeans, png, failed], err = printed(capsys)
  assert kmeans == {
    **{'file': 'a', 'output': 'measured/files/a.cjx', 'method': 'kmeans', 'lambda': 0.013},
    **{'width': 4, 'height': 2, 'bytes': 2, 'bpp': 2.0, 'psnr': 30.0, 'ms_ssim': None},
    **{'encode_s': 0.25, 'decode_s': 0.5, 'seconds': 0.75},
  }
  assert (png['method'], png['psnr'], 'lambda' in png) == ('png', None, False)
  assert failed == {'file': 'a', 'error': 'it broke: twice'} and 'jpeg size=2 a: it broke' in err


@pytest.mark.parametrize(
  ('line', 'file', 'error'),
  [
    ('jpeg size=2 x b: it broke', 'x b', 'it broke'),
    ('jpeg size=2 b: it broke', 'b', 'it broke'),
    ('jpeg size=2 a: b: it broke: twice', 'a: b', 'it broke: twice'),
    ('jpeg size=2 a: c: it broke', 'a', 'c: it broke'),
    ('/nowhere/q.png: not an image', '/nowhere/q.png', 'not an image'),
  ],
)
def test_a_failure_is_that_of_the_image_of_its_job(line, file, error, capsys):
  jobs = {f'jpeg size=2 {name}': name for name in ('a', 'b', 'x b', 'a: b')}
  assert evaluate._json(Result([], [line], 0), Result([], [], 0), [], None, jobs) == 1
  assert printed(capsys)[0] == [{'file': file, 'error': error}]


def test_numbers_that_json_lacks_become_null(capsys):
  records.write({'psnr': math.inf, 'bpp': 1.5})
  assert capsys.readouterr().out == '{"psnr": null, "bpp": 1.5}\n'


def test_errors_are_records_where_that_is_asked_for(capsys):
  for asked in (False, True):
    with pytest.raises(CodecError), records.failing('a.png', json=asked):
      raise CodecError('a.png: damaged')
  assert capsys.readouterr().out == '{"file": "a.png", "error": "damaged"}\n'


def test_the_only_image_of_a_folder_is_named_where_it_fails(tmp_path, capsys):
  flat = write(tmp_path / 'in' / 'flat.png', np.full((8, 8, 3), 7, np.uint8))
  assert run('compress', tmp_path / 'in', tmp_path / 'out', '--json') == 1
  [record], _ = printed(capsys)
  assert record == {'file': str(flat), 'error': 'one colour'}


def test_a_name_may_hold_a_colon(tmp_path, capsys):
  path = tmp_path / 'a: b.psd'
  path.write_bytes(b'')
  records.failed_line(f'{path}: not read: no image')
  [record], _ = printed(capsys)
  assert record == {'file': str(path), 'error': 'not read: no image'}
