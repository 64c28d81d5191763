"""Exported programs: one for all sizes gives what the networks give, and decodes files."""

import functools
import json

import jax
import numpy as np
import pytest
from jax import export
from PIL import Image as PILImage

from compress_jax import bitstream, methods
from compress_jax.codec import CodecError
from compress_jax.exact import rates
from compress_jax.learned import stablehlo
from tests.helpers import small_models as small

ALL = pytest.mark.parametrize('name', [*small.MODELS, *small.KINDS])
GRIDS = (2, 3), (7, 5)  # The first is smaller than the margin that cae mirrors.


@functools.cache
def programs(name):
  """The programs of a small model, as they are written and as they are read."""
  made = stablehlo.programs(*small.load(name))
  return made, [export.deserialize(bytearray(data)) for data in made[:2]]


@functools.cache
def networks(name):
  """Analysis and synthesis by the networks themselves."""
  codec, released = small.load(name)
  params = codec.thaw(released)

  def analysis(x):
    with jax.default_matmul_precision('highest'):
      return codec.analysis(params, x)

  def synthesis(y, size):
    with jax.default_matmul_precision('highest'):
      return codec.synthesis(params, y, size)

  return jax.jit(analysis), jax.jit(synthesis, static_argnums=1)


def check_close(one, other):
  one, other = np.asarray(one), np.asarray(other)
  assert one.shape == other.shape
  np.testing.assert_allclose(one, other, atol=2e-5 * np.abs(other).max())


@ALL
@pytest.mark.parametrize('grid', GRIDS)
def test_one_program_gives_for_every_size_what_the_network_gives(name, grid):
  made, (analysis, synthesis) = programs(name)
  size = tuple(made.cell * side for side in grid)
  x = small.picture(*size)[None].astype(np.float32) / 255
  y = networks(name)[0](x)
  assert y.shape == (1, *grid, made.channels)
  check_close(analysis.call(x), y)
  check_close(synthesis.call(y), networks(name)[1](y, size))


@pytest.mark.parametrize('name', ['cae', small.CHANNELS])
def test_images_of_a_batch_do_not_see_one_another(name):
  made, (analysis, _) = programs(name)
  x = np.stack([small.picture(2 * made.cell, 3 * made.cell, seed) for seed in (0, 1)])
  x = x.astype(np.float32) / 255
  check_close(analysis.call(x), np.concatenate([analysis.call(x[i : i + 1]) for i in (0, 1)]))


@ALL
def test_the_synthesis_makes_of_the_latents_of_a_file_what_the_decoder_made(name):
  codec, released = small.load(name)
  path = small.FOLDER / f'{name}-0.1-odd.cjx'
  header, latents = (
    bitstream.unpack(path.read_bytes())[0],
    codec.latents(released, path.read_bytes()),
  )
  y_hat = rates.dequantise(latents.q, released.coding.rates, header.level, latents.mean)
  x_hat = np.asarray(programs(name)[1][1].call(y_hat[None]))[0]
  image = np.rint(255 * x_hat.clip(0, 1))
  image = image.swapaxes(0, 1) if header.flags & 1 else image
  expected = np.asarray(PILImage.open(path.with_suffix('.png')), np.int64)
  assert np.abs(image[: header.height, : header.width] - expected).max() <= 1


def test_programs_are_for_the_platforms_that_were_named_and_name_no_source_files():
  made, read = programs('cae')
  assert all(program.platforms == ('cpu', 'cuda') for program in read)
  assert not any(b'.py' in data for data in made[:2])
  assert jax.config.jax_traceback_in_locations_limit != 0
  alone = stablehlo.programs(*small.load('cae'), platforms=['tpu'])
  assert export.deserialize(bytearray(alone.synthesis)).platforms == ('tpu',)


def test_the_description_says_what_a_reader_needs_to_call_the_programs():
  found = json.loads(stablehlo.description(programs('gmm')[0], 'gmm', bytes([1, 2, 3, 255])))
  assert found == {'method': 'gmm', 'model_id': '010203ff', 'cell': 16, 'channels': 8}


def test_a_codec_that_learns_nothing_has_no_programs():
  with pytest.raises(CodecError, match='learns nothing'):
    stablehlo.programs(methods.method('kmeans').codec(), ())
