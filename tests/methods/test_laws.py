"""The laws that every method obeys, on files small and strange."""

import functools
import itertools
import tracemalloc
from typing import NamedTuple

import jax
import numpy as np
import pytest

from compress_jax import bitstream, methods
from compress_jax.codec import CodecError, level_of
from compress_jax.exact import hyper, rates, tables
from compress_jax.images.sets import image_bytes
from compress_jax.methods.gan import networks
from compress_jax.model_zoo import pretrained
from experiments import fuzz
from tests.helpers import small_models
from tests.helpers.slow import but_for
from tests.helpers.small_models import MODELS, digest, picture

# Each method in each of its modes, with options that keep the tests quick.
CODECS = {
  'kmeans-universal': ('kmeans', {'codebook': 'universal', 'lmbda': 0.0035}),
  'kmeans-image': ('kmeans', {'codebook': 'image', 'lmbda': 0.0035, 'size': 4}),
  **{name: (name, {'model': small_models.path(name), 'lmbda': 0.013}) for name in MODELS},
}


class Limits(NamedTuple):
  """What the results of a method may be. Models of a few channels, minutes old, do worse."""

  error: float  # Root mean square, on a picture whose own is about 40.
  flat_bytes: int  # Of a file of one colour.
  flat_error: int  # Of any of its pixels.


LIMITS = {
  'kmeans': Limits(error=16, flat_bytes=140, flat_error=12),
  # A static prior: every symbol costs what it costs in photographs.
  'cae': Limits(error=12, flat_bytes=5000, flat_error=20),
  'gmm': Limits(error=22, flat_bytes=400, flat_error=24),
  # Its hyper-latents have hardly learned to tell flat cells from others.
  'gan': Limits(error=9, flat_bytes=1600, flat_error=12),
}


@pytest.fixture(params=CODECS)
def name(request):
  return request.param


@pytest.fixture(autouse=True)
def few_shapes(monkeypatch):
  """XLA compiles for every shape anew."""
  small_models.force_tiles(monkeypatch, **small_models.FEW_SHAPES)


def load(name, **changes):
  method, options = CODECS[name]
  return pretrained(method, **{**options, **changes})


def sizes(name):
  """All from 1 to 33 for blocks; for latents each height and each width, and some hyper-latents."""
  if name.startswith('kmeans'):
    return list(itertools.product(range(1, 34), repeat=2))
  return [(side, side * 5 % 34 or 34) for side in range(1, 34)] + [(64, 64), (65, 40), (70, 128)]


@pytest.mark.slow
def test_decoding_gives_shape_and_type_of_the_image_for_all_small_sizes(name):
  codec, released = load(name)
  image = picture(70, 128)
  for height, width in sizes(name):
    part = image[:height, :width]
    decoded = codec.decode(released, codec.encode(released, part))
    assert decoded.shape == part.shape and decoded.dtype == np.uint8


@pytest.mark.parametrize('size', [(1, 300), (300, 1), (63, 65), (129, 127)])
def test_decoding_gives_the_shape_of_long_and_odd_images(name, size):
  codec, released = load(name)
  image = picture(*size)
  assert codec.decode(released, codec.encode(released, image)).shape == image.shape


@pytest.mark.parametrize('end', [0, 1], ids=['low rate', 'high rate'])
def test_pictures_that_defy_every_expectation_come_back(name, end):
  method, _ = CODECS[name]
  kmeans = {'lmbda': (0.001, 1.0)[end], 'size': 512}
  learned = {'lmbda': (0.0009, 0.1)[end]}
  codec, released = load(name, **(kmeans if method == 'kmeans' else learned))
  rng = np.random.default_rng(0)
  checkers = np.kron(np.indices((32, 32)).sum(0) % 2, np.ones((4, 4)))[..., None]
  noisy = 16 + 223 * checkers + rng.normal(0, 25, (128, 128, 3))
  for image in (noisy, rng.integers(0, 256, (128, 128, 3)), 255 * checkers.repeat(3, 2)):
    image = np.clip(image, 0, 255).astype(np.uint8)
    data = codec.encode(released, image)
    assert codec.decode(released, data).shape == image.shape
    assert min(codec.split(released, data).values()) >= 0


def test_encoding_is_deterministic(name):
  codec, released = load(name)
  image = picture(40, 56)
  assert codec.encode(released, image) == codec.encode(released, image)


def test_the_file_resembles_the_image(name):
  codec, released = load(name)
  image = picture(64, 64)
  error = codec.decode(released, codec.encode(released, image)).astype(float) - image
  assert np.sqrt((error**2).mean()) < LIMITS[CODECS[name][0]].error


def test_a_flat_image_costs_next_to_nothing(name):
  codec, released = load(name)
  limits = LIMITS[CODECS[name][0]]
  image = np.full((256, 256, 3), 90, np.uint8)
  data = codec.encode(released, image)
  assert len(data) < limits.flat_bytes
  assert np.abs(codec.decode(released, data).astype(int) - image).max() <= limits.flat_error


def test_a_grey_image_decodes_to_grey_and_a_tinted_one_does_not(name):
  codec, released = load(name)
  image = np.repeat(picture(48, 48)[..., :1], 3, 2)
  file = codec.encode(released, image)
  decoded = codec.decode(released, file)
  np.testing.assert_array_equal(decoded, np.repeat(decoded[..., :1], 3, 2))
  assert bitstream.unpack(file)[0].flags & bitstream.GREY
  image[7, 9, 1] ^= 1
  assert not bitstream.unpack(codec.encode(released, image))[0].flags & bitstream.GREY


def test_a_file_names_its_method(name):
  codec, released = load(name)
  assert methods.of_file(codec.encode(released, picture(9, 9))) == CODECS[name][0]


def test_the_parts_of_a_file_sum_to_its_size(name):
  codec, released = load(name)
  data = codec.encode(released, picture(64, 64))
  parts = codec.split(released, data)
  assert sum(parts.values()) == pytest.approx(len(data))
  assert min(parts.values()) >= 0
  assert parts['header'] < 32


@pytest.mark.parametrize('method', MODELS)
@pytest.mark.parametrize('lmbda', [0.0009, 0.013, 0.1])
def test_a_file_holds_the_latents_that_the_encoder_quantised(method, lmbda):
  codec, released = load(method, lmbda=lmbda)
  for image in (picture(60, 90), picture(90, 60), small_models.photographs()['chelsea'][:64, :64]):
    held = codec.latents(released, codec.encode(released, image))
    assert digest(held) == digest(codec.quantise(released, image))
    assert held.q.any()  # Or nothing is shown.


# Few arrays of large shapes, or many small tiles.
ARRAYS = {'large arrays': small_models.FEW_SHAPES, 'tiles': {}}


@pytest.fixture(params=ARRAYS)
def arrays(request, few_shapes, monkeypatch):
  del few_shapes  # This one takes its place.
  small_models.force_tiles(monkeypatch, **ARRAYS[request.param])


@pytest.mark.parametrize('method', MODELS)
def test_decoded_pixels_are_those_of_one_synthesis_of_the_whole_image(method, arrays):
  lmbda, image = 0.1, small_models.strips()[0]
  codec, released = load(method, lmbda=lmbda)
  data = codec.encode(released, image)
  latents = codec.latents(released, data)
  whole = small_models.synthesise_whole(method, released, latents, level_of(lmbda))
  decoded = codec.decode(released, data)
  assert np.abs(decoded - whole[: len(image), : image.shape[1]]).max() <= 1
  assert decoded.std() > 20


@pytest.mark.parametrize('method', MODELS)
def test_quantised_latents_are_those_of_the_whole_image_but_at_rounding_boundaries(method, arrays):
  lmbda, image = 0.1, small_models.strips()[0]
  codec, released = load(method, lmbda=lmbda)
  level, table = level_of(lmbda), released.coding.rates
  latents = codec.quantise(released, image)
  y, z = small_models.analyse_whole(method, image)
  gain, mean = table.gain[level] * 2.0**-rates.GAIN_BITS, latents.mean * 2.0**-tables.FRACTION
  y_hat = rates.dequantise(latents.q, table, level, latents.mean)
  assert rounded_around(mean, y * gain, y_hat / (table.inverse[level] * 2.0**-rates.GAIN_BITS))
  # What `apply` rounds: gan's means are floats there, which differ from those of the coder.
  means = float_means(released, latents) * gain if method == 'gan' else 0.0
  assert rounded_around(means, y * gain, small_models.apply(method, image, level).y_hat[0] * gain)
  assert np.abs(mean - means).max() < 0.02
  if z is not None:
    median = released.coding.prior.median * 2.0**-hyper.BITS
    assert rounded_around(median, z, latents.z + median)


def float_means(released, latents):
  """Of gan's latents, in their units."""
  z_hat = hyper.dequantise(latents.z, released.coding.prior)
  network = networks.HyperSynthesis(latents.q.shape[-1])
  found = small_models.apply_whole(network, small_models.params('gan')['hyper_mean'], z_hat)
  return found[: latents.q.shape[0], : latents.q.shape[1]]


def rounded_around(mean, values, found):
  """Whether `found` lie whole steps from `mean`, the nearest to values not at a boundary."""
  steps = values - mean
  close = np.abs(steps - np.floor(steps) - 0.5) < 1e-3
  assert close.mean() < 0.02  # Or nothing is shown.
  return ((np.abs(found - mean - np.rint(steps)) < 0.02) | close).all()


@pytest.mark.parametrize(
  'image',
  [
    np.zeros((4, 4), 'u1'),
    np.zeros((4, 4, 4), 'u1'),
    np.zeros((0, 4, 3), 'u1'),
    np.zeros((4, 4, 3)),
  ],
)
def test_what_is_not_an_image_is_refused(name, image):
  codec, released = load(name)
  with pytest.raises(CodecError, match='need an image'):
    codec.encode(released, image)


def test_every_proper_prefix_of_ten_files_is_refused(name):
  codec, released = load(name)
  for seed in range(10):
    data = codec.encode(released, picture(16 + seed, 24, seed))
    for i in range(len(data)):
      with pytest.raises(CodecError):
        codec.decode(released, data[:i])


def test_what_other_programs_and_methods_wrote_is_refused(name):
  codec, released = load(name)
  image = picture(16, 16)
  others = [other for other in CODECS if CODECS[other][0] != CODECS[name][0]]
  written = [load(other) for other in others]
  foreign = [other.encode(model, image) for other, model in written]
  foreign += [image_bytes(image, '.png'), image.tobytes(), b'', b'text', bitstream.MAGIC]
  for data in foreign:
    with pytest.raises(CodecError):
      codec.decode(released, data)


@pytest.mark.slow
@pytest.mark.parametrize('mend', [False, True], ids=['raw', 'with checksum'])
def test_two_thousand_mutants_are_refused_or_give_an_image_of_their_size(name, mend):
  codec, released = load(name)
  files = [codec.encode(released, picture(24, 40, seed)) for seed in range(5)]
  codec.decode(released, files[0])  # Compiled before time is taken.
  n = 1000 if name.startswith('kmeans') else 2000  # Of each of two codecs.
  found = []
  for data in itertools.islice(fuzz.mutants(files, 2 * n, seed=7), int(mend), None, 2):
    found.append(fuzz.outcome(codec, released, data))
  assert not [outcome for outcome in found if outcome.kind == 'failed']
  assert max(outcome.seconds for outcome in found) < 2
  # Damage must reach the decoder to test it.
  assert (sum(outcome.kind == 'accepted' for outcome in found) > 20) == mend


def allowance(data):
  """Bytes that decoding a file may take, by what it claims."""
  try:
    header, _ = bitstream.unpack(data)
  except CodecError:
    return MEMORY[0]
  return MEMORY[0] + MEMORY[1] * header.height * header.width


MEMORY = 2**24, 64  # Of a decoder, and per pixel: four floats of three colours and the latents.


def peak_memory(codec, released, data):
  tracemalloc.start()
  try:
    codec.decode(released, data)
  except CodecError:
    pass
  finally:
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
  return peak


def test_memory_stays_within_what_the_claimed_size_allows(name):
  codec, released = load(name)
  files = [codec.encode(released, picture(24, 40, seed)) for seed in range(5)]
  codec.decode(released, files[0])
  flat = codec.encode(released, np.full((200, 300, 3), 90, np.uint8))
  mended = itertools.islice(fuzz.mutants(files, 100, seed=8), 1, None, 2)
  for data in (flat, bomb(files[0], 1 << 13), *mended):
    assert peak_memory(codec, released, data) <= allowance(data)


def bomb(data, side):
  """A file that claims to hold a square image."""
  header, payload = bitstream.unpack(data)
  return bitstream.pack(header._replace(height=side, width=side), payload)


@pytest.mark.parametrize('side', [1 << 13, 1 << 20])
def test_small_files_cannot_claim_large_images(name, side):
  codec, released = load(name)
  with pytest.raises(CodecError):
    codec.decode(released, bomb(codec.encode(released, picture(24, 40)), side))


def test_files_of_other_tables_are_refused_by_name(name):
  codec, released = load(name)
  header, payload = bitstream.unpack(codec.encode(released, picture(8, 8)))
  data = bitstream.pack(header._replace(model_id=b'\xde\xad\xbe\xef'), payload)
  with pytest.raises(CodecError, match='deadbeef'):
    codec.decode(released, data)


LEARNED = [name for name in methods.METHODS if methods.method(name).coding_of]


@functools.cache
def shipped(method):
  """The codec of a shipped model, its float parameters, and its forward pass without noise."""
  codec, released = pretrained(method)
  run = jax.jit(lambda params, x, level: codec.apply(params, x, level, None))
  return codec, codec.thaw(released), run


@pytest.mark.parametrize('method', LEARNED)
@pytest.mark.parametrize('lmbda', [0.0009, 0.0067, 0.1])
def test_the_forward_pass_predicts_the_file_of_a_shipped_model(method, lmbda):
  _, params, run = shipped(method)
  codec, released = pretrained(method, lmbda=lmbda)
  for photograph in list(small_models.photographs().values())[:3]:
    image = np.ascontiguousarray(photograph[:256, :256])
    file = codec.encode(released, image)
    coded = run(params, image[None] / np.float32(255), bitstream.unpack(file)[0].level)
    expected = sum(float(bits[0]) for bits in coded.bits.values()) / 8
    assert abs(len(file) - expected) < 0.01 * expected + 64
    decoded = np.clip(np.asarray(coded.x_hat[0]), 0, 1) * 255
    again = codec.decode(released, file).astype(float)
    assert np.mean((again - decoded) ** 2) < 0.03 * np.mean((again - image) ** 2)


@pytest.mark.parametrize('method', but_for(LEARNED, 'cae'))
def test_the_forward_pass_is_its_three_parts_one_after_the_other(method):
  codec, params = small_models.load(method)[0], small_models.params(method)
  x, key = picture(70, 50)[None].astype(np.float32) / 255, jax.random.key(3)
  for given in (None, key):
    whole = codec.apply(params, x, 100, given)
    rated = codec.rate(params, codec.analysis(params, x), 100, given)
    x_hat = codec.synthesis(params, rated.y_hat, x.shape[1:3])
    np.testing.assert_array_equal(x_hat, whole.x_hat)
    np.testing.assert_array_equal(rated.y_hat, whole.y_hat)
    assert jax.tree.all(jax.tree.map(np.array_equal, rated.bits, whole.bits))
  assert np.array_equal(rated.q, np.round(rated.q))


@pytest.mark.parametrize('method', LEARNED)
def test_what_is_no_batch_of_images_is_refused_in_one_sentence(method):
  codec, params = small_models.load(method)[0], small_models.params(method)
  for x in (np.zeros((64, 64, 3), np.float32), np.zeros((1, 64, 64, 3), np.uint8)):
    with pytest.raises(CodecError, match='not floats'):
      codec.apply(params, x, 0, None)
  with pytest.raises(CodecError, match=r'3.* for 2 examples'):
    codec.apply(params, np.zeros((2, 64, 64, 3), np.float32), np.zeros(3, int), None)
