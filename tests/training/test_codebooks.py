"""Training the tables of kmeans, on little: what comes out codes better than what goes in."""

from pathlib import Path

import numpy as np
import pytest

from compress_jax.cli import main
from compress_jax.codec import CodecError
from compress_jax.files import locks
from compress_jax.images import sets, sources
from compress_jax.methods.kmeans import universal
from compress_jax.training import codebooks


def test_entropy_constrained_codewords_are_fewer_where_bits_are_dear():
  rng = np.random.default_rng(0)
  centres = rng.normal(0, 3, (30, 4)).astype(np.float32)
  points = centres[rng.geometric(0.15, 4000) % 30] + rng.normal(0, 0.3, (4000, 4)).astype('f4')
  cheap, _ = codebooks.entropy_constrained(3 * points, 3 * centres, least=0.003)
  dear, uses = codebooks.entropy_constrained(0.5 * points, 0.5 * centres, least=0.003)
  assert len(dear) < len(cheap) <= 30
  np.testing.assert_array_equal(dear[0], 0)
  assert uses.sum() >= 4000


@pytest.mark.slow
def test_an_operating_point_learns_from_photographs(tmp_path):
  for name, image in sets.sample_photographs():
    sets.save_image(tmp_path / f'{name}.png', sets.centre_crop(image, 128))
  source = sources.open_source(str(tmp_path), log=print)
  small = codebooks.Plan(blocks=3000, passes=0, pass_images=2)
  models = []
  for passes in (0, 2):
    arrays, report = codebooks._operating_point(2, source, small._replace(passes=passes))
    assert 'lambda 0.0035' in report
    models.append(universal.from_arrays(arrays, 'point2'))
    assert models[-1].is_sound()
  planes = universal.analysis(source[0])
  costs = []
  for model in models:
    bits, decoded = universal.choose(planes, model, 0.0035)
    costs.append(bits + 0.0035 * float(((decoded.luma - planes.luma) ** 2).sum()))
  assert costs[1] < 0.97 * costs[0]


def command(tmp_path, *more):
  output = f'--output={tmp_path}/model'
  small = ['--set=blocks=2000', '--set=passes=1', '--set=pass_images=1', '--set=prior_images=1']
  return main.main(['run.py', '--mode=train', output, '--workers=2', *small, *more])


def test_too_small_images_are_refused(tmp_path, capsys):
  sets.save_image(tmp_path / 'a.png', np.zeros((20, 20, 3), np.uint8))
  assert command(tmp_path, f'--data={tmp_path}') == 1
  assert 'none of 1 images is at least 64 pixels' in capsys.readouterr().err
  assert not (tmp_path / 'model.parts').exists()


def test_a_corrupt_file_is_named_once_and_does_not_stop_the_training(tmp_path, capsys, monkeypatch):
  trained = []
  monkeypatch.setattr(codebooks, 'train', lambda source, *_, **__: trained.append(source))
  folder = tmp_path / 'photos'
  folder.mkdir()
  for name, image in sets.sample_photographs()[:2]:
    sets.save_image(folder / f'{name}.png', sets.centre_crop(image, 80))
  sets.save_image(folder / 'cut.png', sets.sample_photographs()[0][1])
  (folder / 'cut.png').write_bytes((folder / 'cut.png').read_bytes()[:5000])
  (folder / 'text.png').write_text('not an image')
  assert command(tmp_path, f'--data={folder}') == 0
  err = capsys.readouterr().err
  assert err.count('cut.png') == 1 and err.count('text.png') == 1 and '\n2 images\n' in err
  assert [Path(name).name for name in trained[0].names] == ['astronaut.png', 'chelsea.png']


def test_a_dataset_is_taken_as_by_the_other_methods(tmp_path, capsys):
  assert command(tmp_path, '--data=tfds:nothing_of_the_kind') == 1
  assert 'TFDS knows no dataset nothing_of_the_kind' in capsys.readouterr().err


def test_parts_of_another_plan_are_not_mixed_in(tmp_path):
  sets.save_image(tmp_path / 'a.png', np.zeros((64, 64, 3), np.uint8))
  (tmp_path / 'm.parts').mkdir()
  (tmp_path / 'm.parts' / 'plan.json').write_text('other')
  source = sources.open_source(str(tmp_path / 'a.png'), log=print)
  with pytest.raises(CodecError, match='another training run'):
    codebooks.train(source, codebooks.Plan(), tmp_path / 'm', workers=1, log=print)


def test_two_programs_do_not_write_the_same_model(tmp_path, monkeypatch):
  sets.save_image(tmp_path / 'a.png', np.zeros((64, 64, 3), np.uint8))
  source = sources.open_source(str(tmp_path / 'a.png'), log=print)
  plan, parts = codebooks.Plan(), tmp_path / 'm.parts'
  with locks.held(parts), pytest.raises(CodecError, match=r'm\.parts is in use by process'):
    codebooks.train(source, plan, tmp_path / 'm', workers=1, log=print)
  monkeypatch.setattr(codebooks, '_train', lambda *given, **more: None)
  codebooks.train(source, plan, tmp_path / 'm', workers=1, log=print)
  assert not parts.exists()
