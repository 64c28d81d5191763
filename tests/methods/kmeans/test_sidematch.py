"""Side match: integers that are what their definition says."""

import numpy as np
import pytest

from compress_jax.methods.kmeans import sidematch

RNG = np.random.default_rng(0)


def test_powers_of_two_are_rounded_exactly():
  assert sidematch._POWERS[0] == 2**24
  assert sidematch._POWERS[256] == 2**23
  np.testing.assert_allclose(sidematch._POWERS, 2.0 ** (24 - np.arange(4096) / 256), atol=0.5)


@pytest.mark.parametrize('remove_mean', [False, True])
@pytest.mark.parametrize('channels', [1, 2, 3])
def test_mismatches_equal_their_definition(remove_mean, channels):
  words = RNG.integers(-90, 90, (7, 4, 4, channels))
  model = sidematch.match(words, alpha=6, tau=100, remove_mean=remove_mean)
  plane = RNG.integers(0, 256, (12, 12, channels))
  for sides in sidematch.scan(plane):
    got = sidematch.mismatches(model, sides, remove_mean=remove_mean)
    for n, (r, c) in enumerate(zip(sides.rows.tolist(), sides.columns.tolist(), strict=True)):
      known = [model.edges[:, :4]] * (c > 0) + [model.edges[:, 4:]] * (r > 0)
      if not known:
        np.testing.assert_array_equal(got[n], 0)
        continue
      left = 3 * plane[4 * r : 4 * r + 4, 4 * c - 1] - plane[4 * r : 4 * r + 4, 4 * c - 2]
      top = 3 * plane[4 * r - 1, 4 * c : 4 * c + 4] - plane[4 * r - 2, 4 * c : 4 * c + 4]
      pixels = np.concatenate([left] * (c > 0) + [top] * (r > 0))
      d = pixels - np.concatenate(known, 1)
      if remove_mean:
        m = len(pixels)
        want = (m * (d**2).sum(1) - d.sum(1) ** 2).sum(-1) * (8 // m) ** 2
      else:
        want = (d**2).sum((1, 2)) * (8 // len(pixels))
      np.testing.assert_array_equal(got[n], want)


def test_weights_follow_the_power_law_within_the_straight_line_error():
  model = sidematch.match(np.zeros((3, 4, 4, 1), np.int64), alpha=4, tau=1000, remove_mean=False)
  mismatch = np.array([[0.0, 3000.0, 90_000.0]])
  found = sidematch.weights(sidematch.penalties(model, mismatch), np.array([1e4, 1e4, 1e4]))
  want = 1 / (mismatch + 1000)
  np.testing.assert_allclose(np.log2(found / found[0, 0]), np.log2(want / want[0, 0]), atol=0.25)
