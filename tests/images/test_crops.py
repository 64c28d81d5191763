"""Crops are parts of the images, of every place and scale, each a function of its key."""

import jax
import numpy as np
import pytest
from PIL import Image as PILImage

from compress_jax.codec import CodecError
from compress_jax.images import crops


def coordinates(height, width, index=0):
  """An image whose pixels say where they are."""
  y, x = np.mgrid[:height, :width]
  return np.stack([y, x, np.full_like(x, index)], -1).astype(np.uint8)


def draw(images, n, size, scales=crops.SCALES, seed=0):
  keys = jax.random.split(jax.random.key(seed), n)
  run = jax.jit(lambda held, keys: crops.crops(held, keys, size, scales))
  return np.asarray(run(crops.store(images), keys))


def test_unscaled_crops_are_pixels_of_one_image():
  images = [coordinates(40, 60, 1), coordinates(20, 20, 2), coordinates(90, 25, 3)]
  found = np.rint(draw(images, 300, 16, (1.0, 1.0)) * 255).astype(int)
  mirrored = transposed = 0
  for crop in found:
    if crop[0, 0, 0] == crop[-1, 0, 0]:  # Rows count along its columns.
      crop, transposed = crop.swapaxes(0, 1), transposed + 1
    if crop[0, 0, 1] > crop[0, -1, 1]:
      crop, mirrored = crop[:, ::-1], mirrored + 1
    top, left, index = crop[0, 0]
    np.testing.assert_array_equal(crop, images[index - 1][top : top + 16, left : left + 16])
  assert 100 < mirrored < 200 and 100 < transposed < 200
  assert {int(crop[0, 0, 2]) for crop in found} == {1, 2, 3}
  tops = [int(crop[0, 0, 0]) for crop in found if crop[0, 0, 2] == 2]
  assert min(tops) == 0 and max(tops) == 4  # The last place that holds a crop, and the first.


def test_every_pixel_counts_alike_so_images_are_drawn_by_their_area():
  images = [coordinates(20, 20, 1), coordinates(60, 80, 2), coordinates(40, 20, 3)]
  found = draw(images, 1200, 16, (1.0, 1.0))[:, 0, 0, 2] * 255
  shares = np.bincount(np.rint(found).astype(int), minlength=4)[1:] / 1200
  np.testing.assert_allclose(shares, [1 / 15, 12 / 15, 2 / 15], atol=0.035)  # 3 deviations.


WAYS = [
  lambda x: x,
  lambda x: x[:, ::-1],
  lambda x: x[::-1],
  lambda x: x[::-1, ::-1],
  lambda x: x.swapaxes(0, 1),
  lambda x: x.swapaxes(0, 1)[:, ::-1],
  lambda x: x.swapaxes(0, 1)[::-1],
  lambda x: x.swapaxes(0, 1)[::-1, ::-1],
]


def test_with_turns_a_square_lies_in_all_eight_ways_equally_often():
  image = coordinates(16, 16)
  keys = jax.random.split(jax.random.key(3), 800)
  turned = jax.jit(lambda held, keys: crops.crops(held, keys, 16, (1.0, 1.0), turns=True))
  found = np.rint(np.asarray(turned(crops.store([image]), keys)) * 255)
  counts = [sum((crop == way(image)).all() for crop in found) for way in WAYS]
  assert sum(counts) == 800 and min(counts) > 60  # 100 each, with a deviation of 9.
  usual = np.rint(draw([image], 200, 16, (1.0, 1.0)) * 255)
  assert len({crop.tobytes() for crop in usual}) == 4


def test_with_turns_a_crop_is_of_the_same_place_and_scale():
  held, keys = crops.store([coordinates(40, 60)]), jax.random.split(jax.random.key(4), 40)
  one, other = (crops.crops(held, keys, 16, turns=turns) for turns in (False, True))
  for crop, turned in zip(*map(np.asarray, (one, other)), strict=True):
    assert any(np.allclose(turned, way(crop), atol=1e-6) for way in WAYS)


def test_weighted_images_are_drawn_by_their_area_times_their_weight():
  images = [coordinates(20, 20, 1), coordinates(60, 80, 2), coordinates(40, 20, 3)]
  keys = jax.random.split(jax.random.key(0), 1200)
  held = crops.store(images, weights=[6.0, 0.5, 3.0])  # Areas are as 1, 12 and 2.
  found = np.asarray(
    jax.jit(lambda held, keys: crops.crops(held, keys, 16, (1.0, 1.0)))(held, keys)
  )
  shares = np.bincount(np.rint(found[:, 0, 0, 2] * 255).astype(int), minlength=4)[1:] / 1200
  np.testing.assert_allclose(shares, [1 / 3, 1 / 3, 1 / 3], atol=0.045)


def slope(crop):
  """Image pixels per crop pixel, of a crop that may be transposed."""
  return max(abs(crop[12, 8, 0] - crop[4, 8, 0]), abs(crop[8, 12, 0] - crop[8, 4, 0])) / 8


def test_half_of_the_crops_are_shrunk_but_never_below_the_crop():
  slopes = []
  for crop in draw([coordinates(64, 64)], 200, 16) * 255:
    slopes.append(slope(crop))
  slopes = np.array(slopes)
  plain = np.isclose(slopes, 1, atol=1e-3)
  assert 70 < plain.sum() < 130
  assert slopes.max() < 2.01 and slopes.max() > 1.8 and slopes.min() > 0.999
  for crop in draw([coordinates(20, 100)], 100, 16) * 255:
    assert slope(crop) < 20 / 16 + 0.01


@pytest.mark.parametrize(('highest', 'largest'), [(0.75, 0.75), (0.3, 0.5), (0.1, 0.5)])
def test_no_crop_is_larger_than_the_largest_scale_of_its_image(highest, largest):
  keys = jax.random.split(jax.random.key(0), 200)
  held = crops.store([coordinates(64, 64)], highest=[highest])
  found = np.asarray(jax.jit(lambda held, keys: crops.crops(held, keys, 16))(held, keys)) * 255
  scales = np.array([1 / slope(crop) for crop in found])
  assert scales.max() < largest + 0.01 and scales.min() > 0.49
  if largest > 0.5:  # Half of the crops have the largest scale, and the others any down to 1/2.
    assert 70 < np.isclose(scales, largest, atol=2e-3).sum() < 130
    assert scales.min() < 0.53


def test_an_image_of_just_the_crop_is_not_shrunk_whatever_its_largest_scale():
  image, keys = coordinates(16, 16), jax.random.split(jax.random.key(0), 10)
  found = crops.crops(crops.store([image], highest=[0.5]), keys, 16)
  for crop in np.rint(np.asarray(found) * 255):
    assert any((crop == way(image)).all() for way in WAYS)


def test_shrinking_is_that_of_an_independent_implementation():
  image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
  keys = jax.random.split(jax.random.key(1), 40)
  found = np.asarray(crops.crops(crops.store([image]), keys, 32, (0.5, 0.5)))
  half = np.asarray(PILImage.fromarray(image).resize((32, 32), PILImage.Resampling.BILINEAR))
  inner = np.s_[:, 1:-1, 1:-1]  # What lies beyond the image is another matter.
  turned = found.swapaxes(1, 2)
  ways = found, found[:, :, ::-1], turned, turned[:, :, ::-1]
  errors = [np.abs(crop[inner] - half[inner[1:]] / 255) for crop in ways]
  shrunk = np.min([error.max((1, 2, 3)) for error in errors], 0)
  assert 10 < sum(error < 0.01 for error in shrunk) < 30


def test_a_crop_is_a_function_of_its_key():
  images = [coordinates(40, 60)]
  keys = jax.random.split(jax.random.key(0), 6)
  held = crops.store(images)
  whole = np.asarray(crops.crops(held, keys, 16))
  np.testing.assert_allclose(whole[4:], crops.crops(held, keys[4:], 16), atol=1e-6)


def test_an_image_of_just_the_crop_is_given_whole():
  image = coordinates(16, 16)
  for crop in np.rint(draw([image], 10, 16) * 255):
    upright = crop, crop.swapaxes(0, 1)
    assert any((one == image).all() or (one == image[:, ::-1]).all() for one in upright)


def test_no_images_are_refused():
  with pytest.raises(CodecError, match='0 images'):
    crops.store([])
