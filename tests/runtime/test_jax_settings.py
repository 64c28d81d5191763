"""JAX's settings from outside change no result, and no model is blamed for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax import methods
from compress_jax.cli import main
from compress_jax.clustering import k_means
from compress_jax.codec import CodecError
from compress_jax.model_zoo import pretrained
from compress_jax.runtime import jax_settings
from compress_jax.training import trainer
from tests.helpers.small_models import picture
from tests.helpers.training_calls import arguments


@pytest.mark.parametrize('method', list(methods.METHODS))
def test_files_are_the_same_under_strict_promotion(method):
  image = picture(40, 56)
  codec, released = pretrained(method)
  file = codec.encode(released, image)
  with jax.numpy_dtype_promotion('strict'):
    jax.clear_caches()
    codec, released = pretrained(method)
    assert codec.encode(released, image) == file
    np.testing.assert_array_equal(codec.decode(released, file), codec.decode(released, file))


def test_refinement_works_under_strict_promotion():
  codec, released = pretrained('cae', refine=1)
  with jax.numpy_dtype_promotion('strict'):
    file = codec.encode(released, picture(40, 56))
  assert codec.decode(released, file).shape == (40, 56, 3)


@pytest.mark.slow
@pytest.mark.parametrize('method', ['cae', 'gan', 'gmm'])
def test_training_works_under_strict_promotion(method, photos, tmp_path):
  told = [flag for flag in arguments(photos, tmp_path / 'run', steps=2) if '--set' not in flag]
  told = [f'--method={method}' if flag.startswith('--method') else flag for flag in told]
  with jax.numpy_dtype_promotion('strict'):
    assert main.main(told) == 0


def test_clustering_works_under_strict_promotion():
  points = np.random.default_rng(0).normal(size=(200, 3))
  with jax.numpy_dtype_promotion('strict'):
    strict = k_means.kmeans(points, 5, n_init=2)
    k_means.eigen_kmeans(points, points[:, 0], 5, max_iter=3)
    labels, _ = k_means.assign(points, strict.centroids)
  usual = k_means.kmeans(points, 5, n_init=2)
  np.testing.assert_array_equal(strict.labels, usual.labels)
  np.testing.assert_array_equal(labels, usual.labels)


def test_programs_promote_as_usual_and_put_the_settings_back():
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  try:
    with jax_settings.usual_promotion():
      assert (jnp.ones((2, 3)) + jnp.ones(3)).shape == (2, 3)
    assert jax.config.jax_numpy_rank_promotion == 'raise'
  finally:
    jax.config.update('jax_numpy_rank_promotion', 'allow')


def test_settings_of_one_thread_do_not_become_those_of_all():
  with jax.numpy_dtype_promotion('strict'):
    with jax_settings.usual_promotion():
      assert (jnp.ones(2, jnp.int32) + jnp.ones(2, jnp.float32)).dtype == jnp.float32
    assert jax.config.jax_numpy_dtype_promotion == 'strict'
  assert jax.config.jax_numpy_dtype_promotion == 'standard'


def test_no_model_is_blamed_for_a_setting():
  codec, released = pretrained('cae')
  jax.clear_caches()
  with jax.numpy_rank_promotion('raise'), pytest.raises(ValueError, match='rank_prom') as found:
    codec.encode(released, picture(64, 72))
  assert not isinstance(found.value, CodecError)


def test_streamed_batches_train_under_strict_promotion():
  params = {'a': jnp.zeros(())}

  def loss(params, state, x, keys, step):
    value = ((x - params['a']) ** 2).mean()
    return value, (state, {'loss': value})

  optimizer = trainer.adam(1e-2)
  with jax.numpy_dtype_promotion('strict'):
    step = trainer.make_train_step(loss, optimizer, seed=0, draw=None, inner=1)
    state = trainer.replicated(trainer.start(params, {}, optimizer, 4))
    devices = jax.local_device_count()
    data = np.full((devices, 1, 1, 8, 8, 3), 255, np.uint8)
    index = np.arange(devices, dtype=np.int32)[:, None]
    state, metrics = step(state, data, index)
  np.testing.assert_allclose(metrics['loss'], 1.0)
