"""Tests of `experiments.grey`."""

import numpy as np

from compress_jax.images.sets import save_image
from experiments import grey
from tests.helpers.small_models import picture


def test_luma_is_that_of_bt_601():
  image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], np.uint8)
  np.testing.assert_array_equal(grey.luma(image)[0, :, 0], [76, 150, 29, 9])
  assert grey.luma(image).shape == (1, 4, 3)


def test_the_table_has_a_row_per_method_and_lambda(tmp_path, capsys):
  save_image(tmp_path / 'a.png', picture(64, 64))
  save_image(tmp_path / 'b.png', picture(64, 64))
  assert grey.main(['grey', f'--images={tmp_path}', '--lambdas=0.0035', '--limit=1']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split(' | ')[0] for line in lines[-4:]] == ['| kmeans', '| gan', '| cae', '| gmm']
  assert all(line.endswith('1 of 1 |') for line in lines[-4:])
