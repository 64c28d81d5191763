"""Files of learned methods: as short as the floats promise, and the same latents everywhere.

`python -m tests.exact.test_path FILE.npz METHODS`, which a test starts under other settings of
threads, devices and compilers, decodes golden files and writes down what it found.
"""

import inspect
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from compress_jax.codec import CodecError, level_of
from compress_jax.exact import layers, packed
from compress_jax.images import sets
from compress_jax.layers import entropy
from tests.helpers.small_models import (
  FEW_SHAPES,
  FOLDER,
  MODELS,
  apply,
  digest,
  force_tiles,
  load,
  photographs,
  strips,
)


@pytest.fixture
def few_shapes(monkeypatch):
  force_tiles(monkeypatch, **FEW_SHAPES)


ROOT = Path(__file__).parents[2]
LATENTS = json.loads((FOLDER / 'latents.json').read_text())  # Digests of golden files' latents.


def golden(method, name, lmbda=0.1):
  return (FOLDER / f'{method}-{lmbda}-{name}.cjx').read_bytes()


@pytest.mark.parametrize('method', MODELS)
def test_files_are_as_long_as_the_float_model_estimates(method, few_shapes):
  estimated, exact = 0.0, 0.0
  for lmbda, image in itertools.product((0.0009, 0.013, 0.1), strips()):
    codec, released = load(method, lmbda)
    file = codec.encode(released, image)
    estimate = sum(bits.item() for bits in apply(method, image, level_of(lmbda)).bits.values()) / 8
    assert len(file) <= 1.01 * estimate + 64
    assert len(file) >= 0.99 * estimate - 64
    estimated += estimate
    exact += len(file) - codec.split(released, file)['header']
  assert exact <= 1.005 * estimated


@pytest.mark.parametrize('method', MODELS)
def test_no_float_model_runs_before_the_latents_are_decoded(method, few_shapes, monkeypatch):
  codec, released = load(method)
  image = photographs()['chelsea'][:80, :120]
  file, expected = codec.encode(released, image), codec.quantise(released, image)

  def refuse(*args, **options):
    raise AssertionError('a float model ran')

  monkeypatch.setattr(nn.Module, 'apply', refuse)
  for name, _ in inspect.getmembers(entropy, inspect.isfunction):
    monkeypatch.setattr(entropy, name, refuse)
  assert digest(codec.latents(released, file)) == digest(expected)
  with pytest.raises(AssertionError, match='a float model ran'):
    codec.apply({}, image[None] / 255, np.zeros(1, int), None)


@pytest.mark.parametrize('method', MODELS)
def test_latents_do_not_depend_on_the_float_transforms(method, few_shapes):
  codec, released = load(method)
  rng = np.random.default_rng(0)

  def shaken(weights):
    return weights + 1e-3 * rng.normal(size=weights.shape).astype(np.float32)

  other = released._replace(
    encoder=jax.tree.map(shaken, released.encoder), decoder=jax.tree.map(shaken, released.decoder)
  )
  file = golden(method, 'portrait')
  assert digest(codec.latents(other, file)) == digest(codec.latents(released, file))
  assert (codec.decode(other, file) != codec.decode(released, file)).any()


GOLDEN = {method: f'{method}-0.1-odd.cjx' for method in MODELS}


def decoded(drawn):
  """The hashes of the latents of golden files, and the pixels of some methods."""
  found = {}
  for method, name in GOLDEN.items():
    file = (FOLDER / name).read_bytes()
    codec, released = load(method)
    found[f'{method} latents'] = digest(codec.latents(released, file))
    if method in drawn:
      found[f'{method} pixels'] = codec.decode(released, file)
  return found


# Each of threads, devices and compilation in two ways; the test itself runs in a third.
SETTINGS = {
  'one thread, one device': {
    'OMP_NUM_THREADS': '1',
    'OPENBLAS_NUM_THREADS': '1',
    'XLA_FLAGS': '--xla_force_host_platform_device_count=1 --xla_cpu_enable_fast_math=false',
  },
  'two threads, four devices, fast math': {
    'OMP_NUM_THREADS': '2',
    'OPENBLAS_NUM_THREADS': '2',
    'XLA_FLAGS': '--xla_force_host_platform_device_count=4 --xla_cpu_enable_fast_math=true',
  },
  'not compiled': {'JAX_DISABLE_JIT': '1'},
}


@pytest.mark.slow
@pytest.mark.parametrize('settings', SETTINGS)
def test_a_file_decodes_to_the_same_latents_and_pixels_under_all_settings(settings, tmp_path):
  drawn = ['cae'] if settings == 'not compiled' else list(MODELS)  # The others take long then.
  output = tmp_path / 'found.npz'
  command = [sys.executable, '-m', 'tests.exact.test_path', str(output), *drawn]
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'} | SETTINGS[settings]
  subprocess.run(command, cwd=ROOT, env=environment, check=True)
  found = np.load(output)
  for method, name in GOLDEN.items():
    assert str(found[f'{method} latents']) == LATENTS[name]
  for method in drawn:
    image = sets.load_image((FOLDER / GOLDEN[method]).with_suffix('.png'))
    assert np.abs(found[f'{method} pixels'].astype(int) - image).max() <= 1


@pytest.mark.parametrize('method', MODELS)
def test_eight_files_at_once_decode_as_each_does(method, few_shapes):
  codec, released = load(method)
  files = [golden(method, name, lmbda) for name in ('odd', 'portrait') for lmbda in (0.0009, 0.1)]
  for file, image in zip(2 * files, codec.decode_all(released, 2 * files), strict=True):
    assert np.abs(image.astype(int) - codec.decode(released, file)).max() <= 1


# The tests above must be able to fail: what breaks the arithmetic must be noticed.


def noticed(codec, released, file, latents):
  """Whether a decoder does not give the latents that were encoded."""
  try:
    found = codec.latents(released, file)
  except CodecError:
    return True
  return digest(found) != digest(latents)


def with_coding(released, **fields):
  return released._replace(coding=released.coding._replace(**fields))


def with_swapped_offsets(released):
  table = released.coding.rates
  return with_coding(released, rates=table._replace(offset=table.offset[::-1]))


def with_swapped_tables(released):
  prior = released.coding.prior
  return with_coding(released, prior=prior._replace(counts=prior.counts[::-1]))


def with_a_wrong_shift(name):
  def disturbed(released):
    network = getattr(released.coding, name)
    wrong = network[-1]._replace(shift=network[-1].shift + 1)
    return with_coding(released, **{name: (*network[:-1], wrong)})

  return disturbed


DISTURBED = [
  ('cae', with_swapped_offsets),
  ('gmm', with_swapped_offsets),
  ('gan', with_swapped_offsets),
  ('gmm', with_swapped_tables),
  ('gan', with_swapped_tables),
  *(('gmm', with_a_wrong_shift(name)) for name in ('hyper', 'context', 'parameters')),
  *(('gan', with_a_wrong_shift(name)) for name in ('mean', 'scale')),
]


@pytest.mark.parametrize('method,disturb', DISTURBED)
def test_other_tables_and_shifts_are_noticed(method, disturb):
  codec, released = load(method)
  file = golden(method, 'photo')
  latents = codec.latents(released, file)
  assert not noticed(codec, released, file, latents)
  assert noticed(codec, disturb(released), file, latents)


@pytest.mark.parametrize('method', ['gmm', 'gan'])
def test_a_unit_in_the_last_place_is_noticed(method, monkeypatch):
  codec, released = load(method)
  file = golden(method, 'photo')
  latents = codec.latents(released, file)
  rng, dense = np.random.default_rng(0), layers.dense

  def noisy(x, layer, xp=np):
    values = dense(x, layer, xp)
    return values + rng.integers(-1, 2, values.shape)

  def noisy_run(network, x):
    for layer in network:
      x = noisy(x, layer)
    return x

  monkeypatch.setattr(layers, 'dense', noisy)
  monkeypatch.setattr(packed, 'pack', lambda network: network)
  monkeypatch.setattr(packed, 'run', noisy_run)
  assert noticed(codec, released, file, latents)


if __name__ == '__main__':
  np.savez(sys.argv[1], **decoded(sys.argv[2:]))
