"""Training the tables of kmeans, on little: what comes out codes better than what goes in."""

import numpy as np
import pytest

from compress_jax import codebook_training, data, locks
from compress_jax.codec import CodecError
from compress_jax.vq import universal


def test_entropy_constrained_codewords_are_fewer_where_bits_are_dear():
  rng = np.random.default_rng(0)
  centres = rng.normal(0, 3, (30, 4)).astype(np.float32)
  points = centres[rng.geometric(0.15, 4000) % 30] + rng.normal(0, 0.3, (4000, 4)).astype('f4')
  cheap, _ = codebook_training.entropy_constrained(3 * points, 3 * centres, least=0.003)
  dear, uses = codebook_training.entropy_constrained(0.5 * points, 0.5 * centres, least=0.003)
  assert len(dear) < len(cheap) <= 30
  np.testing.assert_array_equal(dear[0], 0)
  assert uses.sum() >= 4000


def test_an_operating_point_learns_from_photographs(tmp_path):
  paths = []
  for name, image in data.sample_photographs():
    path = tmp_path / f'{name}.png'
    data.save_image(path, data.centre_crop(image, 128))
    paths.append(str(path))
  small = codebook_training.Plan(tuple(paths), blocks=3000, passes=0, pass_images=2)
  models = []
  for passes in (0, 2):
    arrays, report = codebook_training._operating_point(2, small._replace(passes=passes))
    assert 'lambda 0.0035' in report
    models.append(universal.from_arrays(arrays, 'point2'))
    assert models[-1].is_sound()
  planes = universal.analysis(data.load_image(paths[0]))
  costs = []
  for model in models:
    bits, decoded = universal.choose(planes, model, 0.0035)
    costs.append(bits + 0.0035 * float(((decoded.luma - planes.luma) ** 2).sum()))
  assert costs[1] < 0.97 * costs[0]


def test_too_small_images_are_refused(tmp_path):
  data.save_image(tmp_path / 'a.png', np.zeros((20, 20, 3), np.uint8))
  plan = codebook_training.Plan((str(tmp_path / 'a.png'),), blocks=100)
  with pytest.raises(CodecError, match='64 pixels'):
    codebook_training._operating_point(0, plan)


def test_parts_of_another_plan_are_not_mixed_in(tmp_path):
  (tmp_path / 'm.parts').mkdir()
  (tmp_path / 'm.parts' / 'plan.json').write_text('other')
  with pytest.raises(CodecError, match='another training run'):
    codebook_training.train(
      codebook_training.Plan(('a.png',)), tmp_path / 'm', workers=1, log=print
    )


def test_two_programs_do_not_write_the_same_model(tmp_path, monkeypatch):
  plan, parts = codebook_training.Plan(('a.png',)), tmp_path / 'm.parts'
  with locks.held(parts), pytest.raises(CodecError, match=r'm\.parts is in use by process'):
    codebook_training.train(plan, tmp_path / 'm', workers=1, log=print)
  monkeypatch.setattr(codebook_training, '_train', lambda *given, **more: None)
  codebook_training.train(plan, tmp_path / 'm', workers=1, log=print)
  assert not parts.exists()
