"""What sees the picture of the linear path corrects it, from its pixels."""

import itertools

import jax
import numpy as np
import pytest

from compress_jax.codec import CodecError
from compress_jax.layers.restoration import Restoration
from compress_jax.methods.gan import codec as gan
from compress_jax.methods.gmm import codec as gmm


def corrected(image, features):
  network = Restoration(5)
  params = network.init(jax.random.key(0), image, features)
  return np.asarray(network.apply(params, image, features))


def test_a_correction_has_the_size_of_the_image_and_depends_on_pixels_and_features():
  rng = np.random.default_rng(0)
  image = rng.uniform(size=(1, 48, 48, 3)).astype(np.float32)
  features = rng.normal(size=(1, 12, 12, 4)).astype(np.float32)
  found = corrected(image, features)
  assert found.shape == image.shape
  other = image.copy()
  other[0, 24, 24] += 0.5
  by_pixel = np.abs(corrected(other, features) - found).max((0, 3)) > 0
  assert by_pixel[24, 24] and by_pixel[0, 24] and by_pixel[47, 24]  # Six folded pixels around.
  changed = features.copy()
  changed[0, 0, 0] += 1
  assert np.abs(corrected(image, changed) - found)[0, 0, 0].max() > 0


def test_a_correction_does_not_depend_on_the_brightness_of_a_picture_but_on_its_contrast():
  rng = np.random.default_rng(0)
  image = rng.uniform(0.2, 0.6, size=(1, 48, 40, 3)).astype(np.float32)
  features = np.zeros((1, 12, 10, 4), np.float32)
  found = corrected(image, features)
  lit = image + np.array([0.3, -0.1, 0.2], np.float32)
  np.testing.assert_allclose(corrected(lit, features), found, atol=1e-5)  # At the edges too.
  assert np.abs(corrected(0.5 * image, features) - found).max() > 1e-3


@pytest.mark.parametrize(
  'method,option',
  [*itertools.product([gan, gmm], ['restoration', 'centred']), (gan, 'deblocking')],
)
def test_without_a_linear_path_nothing_stands_beside_it(method, option):
  with pytest.raises(CodecError, match=f'{option}=1 is of the linear path'):
    method.codec(**{option: 1})
