"""The filter after decoding: exact integers, and what least squares promises."""

import numpy as np

from compress_jax.methods.kmeans import restore

RNG = np.random.default_rng(0)
TAPS = RNG.integers(-40, 60, (restore.CLASSES, len(restore.OFFSETS)))


def test_without_weights_nothing_changes():
  plane = RNG.integers(0, 256, (24, 16, 1))
  np.testing.assert_array_equal(restore.restore(plane, np.zeros_like(TAPS)), plane)


def test_flat_planes_stay_flat():
  plane = np.full((12, 20, 1), 93)
  np.testing.assert_array_equal(restore.restore(plane, TAPS), plane)


def test_classes_tell_place_and_activity():
  flat, busy = np.full((8, 8, 1), 9), np.zeros((8, 8, 1), int)
  busy[::2] = 255
  step = restore.CLASSES // 16
  place = np.tile(np.arange(16).reshape(4, 4), (2, 2))
  np.testing.assert_array_equal(restore.classes(flat), place * step)
  np.testing.assert_array_equal(restore.classes(busy), place * step + step - 1)


def test_activity_is_the_sum_of_25_gradients():
  plane = np.broadcast_to(3 * np.arange(16)[None, :, None], (16, 16, 1))
  activity = restore._activity(restore._padded(plane))
  assert (activity[3:-3, 3:-4] == 25 * 3).all()


def test_filtered_pixels_equal_their_definition():
  plane = RNG.integers(0, 256, (12, 8, 1))
  kind, got = restore.classes(plane), restore.restore(plane, TAPS)
  for y, x in ((0, 0), (5, 6), (11, 7)):
    total = 0
    for (dy, dx), weight in zip(restore.OFFSETS, TAPS[kind[y, x]], strict=True):
      near = plane[min(max(y + dy, 0), 11), min(max(x + dx, 0), 7), 0]
      total += int(weight) * int(near - plane[y, x, 0])
    want = min(max(plane[y, x, 0] + (total + 128) // 256, 0), 255)
    assert got[y, x, 0] == want


def test_fitted_weights_undo_part_of_the_damage():
  y, x = np.mgrid[:96, :96]
  original = np.rint(128 + 60 * np.sin(x / 6) * np.cos(y / 7)).astype(np.int64)[..., None]
  damaged = original.reshape(24, 4, 24, 4).mean((1, 3), keepdims=True).astype(np.int64)
  damaged = np.broadcast_to(damaged, (24, 4, 24, 4)).reshape(96, 96, 1)
  fit = restore.Fit()
  fit.add(damaged, original)
  restored = restore.restore(damaged, fit.taps(ridge=1.0))
  before, after = ((damaged - original) ** 2).mean(), ((restored - original) ** 2).mean()
  assert after < before / 4
