"""The benchmark of codecs: its stopwatch sees the networks of both contexts of gmm."""

import pytest

from compress_jax.exact import hyper
from experiments import bench_codec
from tests.helpers import small_models


@pytest.mark.parametrize('name', ['gmm', small_models.CHANNELS])
def test_networks_that_predict_probabilities_are_seen_in_both_directions(name, monkeypatch):
  codec, released = small_models.load(name)
  image = small_models.strips()[0]
  file = codec.encode(released, image)
  places = [place for place in bench_codec.STAGES['parameters'] if place != (hyper, 'features')]
  monkeypatch.setitem(bench_codec.STAGES, 'parameters', places)
  for call in (lambda: codec.encode(released, image), lambda: codec.decode(released, file)):
    seconds = {}
    with bench_codec.stopwatch(seconds):
      call()
    assert all(seconds[stage] > 0 for stage in bench_codec.STAGES)


def test_a_model_of_ones_own_has_its_label(capsys):
  own = f'mine=gmm:{small_models.path(small_models.PASSES)}'
  assert bench_codec.main(['bench', f'--methods={own}', '--sizes=64x64', '--repeats=1']) == 0
  assert 'mine encode' in capsys.readouterr().out
  assert bench_codec._model(own, None, 0.013)[1].coding.layout == 1


def test_growth_is_measured_of_models_of_ones_own(monkeypatch, capsys):
  monkeypatch.setattr(bench_codec.bench_growth, 'SIZES', ((32, 32),))
  named = f'mine=gmm:{small_models.path(small_models.PASSES)}'
  assert bench_codec.main(['bench', '--growth', f'--methods={named}']) == 0
  assert 'mine         32x32' in capsys.readouterr().out
  assert bench_codec.main(['bench', '--growth', '--methods=mine=gmm:nothing.safetensors']) == 1
  assert 'mine at 32x32: ' in capsys.readouterr().err


def test_growth_is_measured_of_the_methods_that_are_named(monkeypatch):
  seen = []
  monkeypatch.setattr(bench_codec.bench_growth, 'table', lambda *given: seen.append(given))
  assert bench_codec.main(['bench', '--growth', '--methods=gan,cae', '--lambda=0.05']) == 0
  assert seen == [(['gan', 'cae'], 0.05)]
