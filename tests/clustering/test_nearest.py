"""The row that comes near the least score, or that there are several."""

import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax.clustering import nearest


@pytest.mark.parametrize('rows', [1, 2, 9, 5000])
def test_the_only_row_is_found_and_several_are_noticed(rows):
  rng = np.random.default_rng(rows)
  hits = rng.uniform(size=(rows, 300)) < rng.choice([0.5 / rows, 1 / rows, 0.5], 300)
  hits[:, 0], hits[:, 1] = True, False
  hits[:, 2], hits[-1, 2] = False, True  # The last alone.
  hits[:, 3], hits[:2, 3] = False, True  # The numbers of these sum to the least.
  row, several = map(np.asarray, nearest._only(jnp.asarray(hits)))
  count = hits.sum(0)
  np.testing.assert_array_equal(several, count > 1)
  np.testing.assert_array_equal(row[count < 2], hits.argmax(0)[count < 2])  # argmax: 0 without.
  assert (row >= 0).all() and (row < rows).all()


def test_the_number_of_the_last_row_is_exact_in_float32():
  assert np.float32(2 * nearest._BASE - 1) == 2 * nearest._BASE - 1
