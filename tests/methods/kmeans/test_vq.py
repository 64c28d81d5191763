"""Block quantisation: integers that come back, probabilities that are what they say."""

import numpy as np
import pytest

from compress_jax import coder
from compress_jax.methods.kmeans import (
  blocks,
  codebook,
  restore,
  shapes,
  sidematch,
  universal,
)
from compress_jax.methods.kmeans import (
  colour_blocks as whole,
)

RNG = np.random.default_rng(0)


def picture(height, width, channels=3):
  """A smooth gradient with an edge and some noise, i64[H, W, C]."""
  y, x = np.mgrid[:height, :width]
  base = 90 + 0.7 * y + 0.4 * x + 60 * (x > y)
  noise = np.random.default_rng(1).normal(0, 6, (height, width, channels))
  return np.clip(base[..., None] + noise, 0, 255).astype(np.int64)


def test_blocks_come_back():
  plane = RNG.integers(0, 256, (12, 20, 3))
  np.testing.assert_array_equal(blocks.from_blocks(blocks.to_blocks(plane)), plane)
  np.testing.assert_array_equal(blocks.to_blocks(plane)[1, 2], plane[4:8, 8:12])


def test_padding_repeats_the_edge():
  padded = blocks.pad_to(np.arange(6).reshape(2, 3, 1), 4)
  assert padded.shape == (4, 4, 1)
  np.testing.assert_array_equal(padded[..., 0], [[0, 1, 2, 2], *[[3, 4, 5, 5]] * 3])


def test_colours_come_back_within_two_levels():
  image = RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)
  back = blocks.ycbcr_to_rgb(blocks.rgb_to_ycbcr(image))
  assert np.abs(back.astype(int) - image).max() <= 2


def test_greys_come_back_exactly():
  grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, 2)
  ycbcr = blocks.rgb_to_ycbcr(grey)
  np.testing.assert_array_equal(ycbcr[:, 0], [[i, 128, 128] for i in range(256)])
  np.testing.assert_array_equal(blocks.ycbcr_to_rgb(ycbcr), grey)


def test_a_constant_survives_halving_and_doubling():
  plane = np.full((8, 12, 2), 77)
  np.testing.assert_array_equal(blocks.double(blocks.halve(plane)), plane)


def test_doubling_interpolates_a_ramp():
  ramp = np.broadcast_to(np.arange(0, 160, 16)[None, :, None], (4, 10, 1))
  inner = blocks.double(ramp)[3, 1:-1, 0]
  np.testing.assert_array_equal(np.diff(inner), 8)


def tile(rows):
  return np.repeat(np.array(rows, float)[:, :, None], 3, 2)


def test_eigenvalues_of_solved_blocks():
  flat = tile(np.full((4, 4), 50))
  # Rows 0, 0, 2, 2 times (1, 1, 1, 1): column covariance 4/3 everywhere, eigenvalue 16/3.
  step = tile([[0] * 4, [0] * 4, [2] * 4, [2] * 4])
  np.testing.assert_allclose(blocks.covariance(np.stack([flat, step])), [0, 16 / 3], atol=1e-9)
  np.testing.assert_allclose(blocks.trace(np.stack([flat, step])), [0, 16 / 3], atol=1e-9)
  # Gram of a flat block: 50^2 * 4 rows * 4 columns / 4.
  np.testing.assert_allclose(blocks.gram(flat[None]), [10_000])
  # Grey pixels: all variance lies on the grey axis; 3 * var(0, 2) with 15 in the denominator.
  np.testing.assert_allclose(blocks.colour(np.stack([flat, step])), [0, 3 * 16 / 15], atol=1e-9)


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


def book_of(seed, size, channels=3):
  rng = np.random.default_rng(seed)
  smooth = rng.normal(0, 40, (size, 1, 1, channels)) + rng.normal(0, 25, (size, 4, 4, channels))
  words = np.clip(128 + smooth, 0, 255)
  axes = codebook.RGB_AXES if channels == 3 else 16384 * np.eye(channels, dtype=np.int64)
  uses = rng.integers(1, 100, size).astype(float)
  price = np.full(channels, 0.005)
  return codebook.quantise(words, uses, price, codebook.flat_prior(), axes), words, axes


@pytest.mark.parametrize('size,channels', [(1, 3), (2, 3), (37, 3), (300, 3), (20, 1)])
def test_a_codebook_comes_back(size, channels):
  book, words, axes = book_of(size, size, channels)
  writer = coder.Writer()
  codebook.write(writer, book, codebook.flat_prior())
  reader = coder.Reader(writer.finish())
  for sent, got in zip(
    book, codebook.read(reader, channels, size, codebook.flat_prior()), strict=True
  ):
    np.testing.assert_array_equal(sent, got)
  reader.finish()
  order = np.argsort(words.mean((1, 2, 3)))
  error = codebook.reconstruct(book, axes) - words[order]
  assert np.sqrt((error**2).mean()) < 15


def test_extreme_codewords_are_escaped_and_come_back():
  words = np.zeros((3, 4, 4, 3))
  words[1] = 255
  words[2, ::2, ::2] = 255
  uses, price = np.full(3, 1e6), np.ones(3)
  book = codebook.quantise(words, uses, price, codebook.flat_prior(), codebook.RGB_AXES)
  assert np.abs(book.levels).max() > 15
  writer = coder.Writer()
  codebook.write(writer, book, codebook.flat_prior())
  got = codebook.read(coder.Reader(writer.finish()), 3, 3, codebook.flat_prior())
  decoded = codebook.reconstruct(got, codebook.RGB_AXES)
  np.testing.assert_allclose(decoded, words[[0, 2, 1]], atol=3)


def test_the_codebook_transform_is_orthonormal():
  x = RNG.normal(size=(5, 4, 4, 3))
  y = codebook.coefficients(x, codebook.RGB_AXES)
  np.testing.assert_allclose((y**2).sum((1, 2, 3)), (x**2).sum((1, 2, 3)), rtol=1e-3)


@pytest.mark.parametrize('size', [1, 2, 50])
def test_indices_come_back_and_their_length_is_foreseen(size):
  plane = picture(40, 28)
  words = codebook.reconstruct(book_of(3, size)[0], codebook.RGB_AXES)
  writer = coder.Writer()
  labels, bits, decoded = whole.choose(plane, words, np.full(3, 0.001), writer)
  np.testing.assert_array_equal(decoded, blocks.from_blocks(words[labels]))
  data = writer.finish()
  assert abs(8 * len(data) - bits) < 64
  np.testing.assert_array_equal(whole.read(coder.Reader(data), 40, 28, words), decoded)


def test_without_a_price_every_block_takes_its_nearest_codeword():
  plane, words = picture(32, 32), RNG.integers(0, 256, (30, 4, 4, 3))
  labels, _, _ = whole.choose(plane, words, None)
  tiles = blocks.to_blocks(plane)[:, :, None]
  distance = ((tiles - words) ** 2).sum((3, 4, 5))
  np.testing.assert_array_equal(
    np.take_along_axis(distance, labels[..., None], 2)[..., 0], distance.min(2)
  )


def test_a_higher_price_of_error_buys_less_error_with_more_bits():
  plane, words = picture(64, 64), codebook.reconstruct(book_of(5, 60)[0], codebook.RGB_AXES)
  found = [whole.choose(plane, words, np.full(3, price)) for price in (1e-4, 1e-3, 1e-2)]
  errors = [((decoded - plane) ** 2).mean() for _, _, decoded in found]
  assert errors[0] > errors[1] > errors[2]
  assert found[0][1] < found[1][1] < found[2][1]


def shape_model(channels, contexts, size=40):
  words = RNG.normal(0, 20, (size, 4, 4, channels))
  words = np.rint(words - words.mean((1, 2), keepdims=True)).astype(np.int64)
  words[0] = 0
  counts = RNG.integers(1, 500, (contexts, size)).astype(float)
  span = 2 * shapes.reach(8) + 1
  q = np.abs(np.arange(span) - span // 2)
  means = np.broadcast_to(np.floor(1000 * 0.7**q) + 1, (channels, shapes.MISFITS, span))
  return shapes.Shapes(words, counts, means, step=8, alpha=6, tau=20_000, seen=16.0)


@pytest.mark.parametrize('channels', [1, 2])
def test_planes_come_back(channels):
  plane, model = picture(40, 24, channels), shape_model(channels, 9)
  extra = RNG.integers(0, 3, (10, 6))
  writer = coder.Writer()
  choice = shapes.choose(plane, model, extra, np.full(channels, 0.01), writer)
  data = writer.finish()
  assert abs(8 * len(data) - choice.bits) < 64
  reader = coder.Reader(data)
  labels, decoded = shapes.read(reader, 40, 24, model, extra)
  reader.finish()
  np.testing.assert_array_equal(labels, choice.labels)
  np.testing.assert_array_equal(decoded, choice.plane)
  assert np.sqrt(((decoded - plane) ** 2).mean()) < 15


def test_the_predicted_mean_continues_the_neighbours():
  words = np.zeros((1, 4, 4, 1), np.int64)
  match = sidematch.match(words, alpha=6, tau=10, remove_mean=True)
  plane = np.zeros((8, 8, 1), np.int64)
  plane[:4, 4:], plane[4:, :4] = 100, 60
  sides = [s for s in sidematch.scan(plane) if (s.rows == 1).any() and (s.columns == 1).any()][-1]
  assert shapes._predict(match, sides, np.zeros(1, np.int64)).tolist() == [[80]]


def test_models_survive_their_arrays():
  taps = RNG.integers(-99, 99, (restore.CLASSES, len(restore.OFFSETS)))
  model = universal.Model(shape_model(1, 3), shape_model(2, 9), taps)
  back = universal.from_arrays(universal.to_arrays(model, 'x'), 'x')
  np.testing.assert_array_equal(back.taps, taps)
  for part, other in zip(model[:2], back[:2], strict=True):
    for a, b in zip(part, other, strict=True):
      np.testing.assert_array_equal(a, b)
