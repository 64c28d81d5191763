"""Tiling changes speed and memory, not numbers: those of one run on the whole image."""

import itertools
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from compress_jax.codec import CodecError
from compress_jax.layers.blocks import Frame, masked
from compress_jax.learned import tiles
from compress_jax.learned.tiles import Transform

CELL = 4  # Of the toy networks, whose outputs depend on cells up to two away.
SIZES = [(1, 1), (1, 150), (97, 1), (31, 33), (32, 32), (67, 129)]


def convolve(x, layer, *, stride=1, padding='SAME'):
  kernel, bias = layer
  dims = ('NHWC', 'HWIO', 'NHWC')
  return lax.conv_general_dilated(x, kernel, (stride, stride), padding, None, None, dims) + bias


def shuffle(x):
  b, h, w, c = x.shape
  x = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, 2 * h, 2 * w, c // 4)


def layers(seed, *shapes):
  """Random kernels and biases; biases tell zero padding from padding with zero's image."""
  rng = np.random.default_rng(seed)
  kernels = [rng.normal(size=s) / np.sqrt(np.prod(s[:3])) for s in shapes]
  biases = [rng.normal(size=s[3]) for s in shapes]
  return [
    (kernel.astype(np.float32), bias.astype(np.float32))
    for kernel, bias in zip(kernels, biases, strict=True)
  ]


def analysis(params, x, frame=None):
  """Reaches 5 pixels before its cell of 4 and 7 behind it: two cells."""
  x = jax.nn.relu(convolve(masked(x, frame), params[0], stride=2))
  x = jax.nn.relu(convolve(masked(x, frame), params[1], stride=2))
  return convolve(masked(x, frame), params[2])


def synthesis(params, y, frame=None):
  """Reaches one cell, then half a cell, then two pixels: two cells."""
  y = shuffle(jax.nn.relu(convolve(masked(y, frame), params[0])))
  y = shuffle(jax.nn.relu(convolve(masked(y, frame), params[1])))
  return convolve(masked(y, frame), params[2])


def framed(network, cell):
  """The network as `tiles` wants it."""

  def apply(params, x, edges):
    return network(params, x, Frame(edges, (x.shape[1] // cell, x.shape[2] // cell)))

  return apply


ANALYSIS = Transform(framed(analysis, CELL), CELL, 1, 2)
SYNTHESIS = Transform(framed(synthesis, 1), 1, CELL, 2)
PARAMS = {
  ANALYSIS: layers(0, (5, 5, 3, 6), (3, 3, 6, 6), (3, 3, 6, 5)),
  SYNTHESIS: layers(1, (3, 3, 5, 16), (3, 3, 4, 16), (5, 5, 4, 3)),
}
NETWORKS = {ANALYSIS: analysis, SYNTHESIS: synthesis}
BOTH = pytest.mark.parametrize('transform', [ANALYSIS, SYNTHESIS], ids=['analysis', 'synthesis'])


def image(transform, height, width, seed=0):
  channels = PARAMS[transform][0][0].shape[2]
  return np.random.default_rng(seed).normal(size=(height, width, channels)).astype(np.float32)


def extended(x, cell):
  height, width = x.shape[:2]
  return np.pad(x, ((0, -height % cell), (0, -width % cell), (0, 0)), 'edge')


def whole(transform, x):
  """One run on an array of just the size of the grid, without a frame."""
  x = extended(x, transform.cell_in)[None]
  return np.asarray(jax.jit(NETWORKS[transform])(PARAMS[transform], x))[0]


@BOTH
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_buckets_and_tiles_give_the_numbers_of_one_run_on_the_whole(transform, size):
  x = image(transform, *size)
  expected = whole(transform, x)
  for largest in (8, 64):  # Tiles of 8 cells; one array for everything.
    found = tiles.run(transform, PARAMS[transform], x, largest=largest)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@BOTH
def test_a_halo_one_too_small_is_noticed(transform):
  x = image(transform, 80, 80)
  found = tiles.run(transform._replace(halo=1), PARAMS[transform], x, largest=8)
  assert np.abs(found - whole(transform, x)).max() > 1e-3


@BOTH
def test_padding_with_more_than_zeros_is_noticed(transform):
  def unframed(params, x, edges):
    return NETWORKS[transform](params, x)

  x = image(transform, 9 * transform.cell_in, 9 * transform.cell_in)
  found = tiles.run(transform._replace(apply=unframed), PARAMS[transform], x, largest=16)
  assert np.abs(found - whole(transform, x)).max() > 1e-3


@settings(max_examples=200, deadline=None)
@given(
  st.integers(1, 400), st.integers(1, 400), st.integers(0, 23), st.sampled_from([48, 50, 64, 96])
)
def test_a_plan_keeps_every_cell_once_with_its_halo(height, width, halo, largest):
  planned = tiles.plan(height, width, halo, largest=largest)
  kept = np.zeros((height, width), np.int64)
  for tile in planned:
    kept[tile.rows.first : tile.rows.last, tile.columns.first : tile.columns.last] += 1
    for span, side in zip(tile, (height, width), strict=True):
      assert span.first < span.last
      assert span.start <= max(span.first - halo, 0)
      assert min(span.last + halo, side) <= span.start + span.size
      assert span.size in (*tiles.BUCKETS, largest)
      assert span.size <= largest
  np.testing.assert_array_equal(kept, 1)
  assert len({(tile.rows.size, tile.columns.size) for tile in planned}) == 1


def test_only_a_side_that_is_too_long_is_cut():
  planned = tiles.plan(3, 100, 2, largest=32)
  assert [tile.rows for tile in planned] == [tiles.Span(0, 4, 0, 3)] * 4
  assert [tile.columns for tile in planned] == [
    tiles.Span(0, 32, 0, 30),
    tiles.Span(28, 32, 30, 58),
    tiles.Span(56, 32, 58, 70),
    tiles.Span(68, 32, 70, 100),
  ]


def test_tiles_that_would_keep_nothing_are_refused():
  assert len(tiles.plan(32, 32, 16, largest=32)) == 1
  with pytest.raises(CodecError, match='32 cells are too small for a halo of 16'):
    tiles.plan(33, 32, 16, largest=32)


def counted(traces):
  """A network of one pixel in 256, which notes the shapes it is traced for."""

  def apply(params, x, edges):
    traces.append(x.shape)
    return params * x[:, ::16, ::16]

  return Transform(apply, 16, 1, 2)


@pytest.mark.parametrize('devices', [1, 4])
def test_fifty_sizes_compile_nine_programs_and_a_second_call_none(devices, monkeypatch):
  local = jax.local_devices()[:devices]
  monkeypatch.setattr(jax, 'local_devices', lambda: local)
  assert len(local) == devices
  rng = np.random.default_rng(0)
  sizes = rng.integers(200, 1001, (50, 2))
  xs = [np.full((*size, 1), i, np.float32) for i, size in enumerate(sizes)]
  traces = []
  transform = counted(traces)
  for scale in (2, 3):
    found = tiles.run_many(transform, np.float32(scale), xs, largest=48)
    for i, (x, y) in enumerate(zip(xs, found, strict=True)):
      assert y.shape == (-(-x.shape[0] // 16), -(-x.shape[1] // 16), 1)
      assert (y == scale * i).all()
    assert len(traces) == len(set(traces)) <= 9
  if devices == 1:
    for x in xs:
      tiles.run(transform, np.float32(2), x, largest=48)
    assert len(traces) == len(set(traces)) <= 9


def test_prepared_programs_are_neither_traced_nor_compiled_again(monkeypatch, caplog):
  local = jax.local_devices()[:1]
  monkeypatch.setattr(jax, 'local_devices', lambda: local)
  traces = []
  transform = counted(traces)
  tiles.prepare(transform, np.float32(2), [(3, 5), (4, 4), (60, 7)], 1, largest=48)
  prepared = list(traces)
  assert len(prepared) == len(set(prepared)) == 3
  with jax.log_compiles(), caplog.at_level('WARNING'):
    for height, width in ((40, 70), (64, 64), (960, 100)):
      x = np.full((height, width, 1), 5, np.float32)
      assert (tiles.run(transform, np.float32(2), x, largest=48) == 10).all()
    assert traces == prepared and 'Compiling' not in caplog.text
    tiles.run(transform, np.float32(2), np.ones((9, 9, 1), np.float32), largest=48)
    assert 'Compiling' in caplog.text  # So the log does show what is compiled.


@BOTH
def test_several_images_on_four_devices_give_the_numbers_of_each_alone(transform):
  assert jax.local_device_count() == 4
  sizes = [(31, 33), (90, 70), (5, 61), (30, 30), (64, 2), (1, 1)]
  xs = [image(transform, *size, seed) for seed, size in enumerate(sizes)]
  together = tiles.run_many(transform, PARAMS[transform], xs, largest=16)
  for x, found in zip(xs, together, strict=True):
    np.testing.assert_allclose(found, whole(transform, x), atol=1e-5)
    alone = tiles.run(transform, PARAMS[transform], x, largest=16)
    np.testing.assert_allclose(found, alone, atol=1e-5)


def test_progress_is_told_after_each_tile():
  told, xs = [], [image(ANALYSIS, 31, 33), image(ANALYSIS, 90, 70)]
  grids = [(-(-x.shape[0] // ANALYSIS.cell_in), -(-x.shape[1] // ANALYSIS.cell_in)) for x in xs]
  margin = ANALYSIS.margin / ANALYSIS.cell_in
  planned = [tiles.plan(*grid, ANALYSIS.halo, largest=16, margin=margin) for grid in grids]
  tiles.run_many(ANALYSIS, PARAMS[ANALYSIS], xs, largest=16, progress=lambda *at: told.append(at))
  total = sum(map(len, planned))
  assert total > 2 and told == [(i, total) for i in range(1, total + 1)]


def test_no_images_give_none():
  assert tiles.run_many(ANALYSIS, PARAMS[ANALYSIS], [], largest=16) == []


def test_bytes_are_seen_as_parts_of_255_and_floats_as_they_are():
  identity = Transform(lambda params, x, edges: x, 1, 1, 0)
  x = np.arange(256, dtype=np.uint8).reshape(4, 64, 1)
  found = tiles.run(identity, (), x, largest=48)
  np.testing.assert_array_equal(found, x / np.float32(255))
  np.testing.assert_array_equal(tiles.run(identity, (), found, largest=48), found)


# A valid network of cell 4: the first layer's outputs lie at pixels 2i + 2 of its input, the
# second's at 4i + 4; the third adds a cell on each side.
VALID = layers(2, (5, 5, 3, 6), (3, 3, 6, 6), (3, 3, 6, 5))
MARGIN = 8


def valid(params, x, edges=None):
  """Of 4n + 16 pixels the strided layers leave 2n + 6 and n + 2, the last one n."""
  x = jax.nn.relu(convolve(x, params[0], stride=2, padding='VALID'))
  x = jax.nn.relu(convolve(x, params[1], stride=2, padding='VALID'))
  return convolve(x, params[2], padding='VALID')


@pytest.mark.parametrize('size', [(1, 1), (2, 77), (67, 130), (133, 37)], ids=str)
@pytest.mark.parametrize('pad', ['mirror', 'edge'])
def test_a_margin_shows_what_padding_the_whole_image_would(pad, size):
  x = np.random.default_rng(0).normal(size=(*size, 3)).astype(np.float32)
  around = ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
  mode = {'mirror': 'reflect', 'edge': 'edge'}[pad]
  padded = np.pad(extended(x, CELL), around, mode)
  expected = np.asarray(jax.jit(valid)(VALID, padded[None]))[0]
  transform = Transform(valid, CELL, 1, 0, margin=MARGIN, pad=pad)
  for largest in (8, 64):
    found = tiles.run(transform, VALID, x, largest=largest)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('side', [1, 2, 3, 7])
def test_a_mirror_narrower_than_the_margin_reflects_again_and_again(side):
  shift = Transform(lambda params, x, edges: x[:, :-14, 14:], 1, 1, 0, margin=7, pad='mirror')
  x = np.random.default_rng(0).normal(size=(side, side, 1)).astype(np.float32)
  # The pixel seven above and seven to the right of each, found by walking to and fro.
  walk = [0, *itertools.chain(range(1, side), range(side - 2, 0, -1))]
  up = [walk[(i - 7) % len(walk)] for i in range(side)]
  right = [walk[(i + 7) % len(walk)] for i in range(side)]
  np.testing.assert_array_equal(tiles.run(shift, (), x, largest=8), x[up][:, right])


def test_memory_does_not_grow_with_the_image():
  x = np.broadcast_to(np.uint8(7), (2000, 2000, 3)).copy()
  small = x[:300, :300]
  transform = Transform(lambda params, x, edges: x[:, ::CELL, ::CELL], CELL, 1, 2)
  tiles.run(transform, (), small, largest=32)  # Compiles.
  tracemalloc.start()
  tiles.run(transform, (), x, largest=32)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  result = 500 * 500 * 3 * 4
  assert peak < result + x.nbytes / 2


@pytest.mark.parametrize(
  'x',
  [np.zeros((0, 5, 3), np.uint8), np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3))],
  ids=['empty', 'flat', 'f64'],
)
def test_arrays_that_are_no_images_are_refused(x):
  with pytest.raises(CodecError, match='u8 or f32'):
    tiles.run(ANALYSIS, PARAMS[ANALYSIS], x, largest=16)


def test_a_jax_array_is_as_good_as_a_numpy_array():
  x = image(SYNTHESIS, 9, 7)
  found = tiles.run(SYNTHESIS, PARAMS[SYNTHESIS], jnp.asarray(x), largest=16)
  np.testing.assert_allclose(found, whole(SYNTHESIS, x), atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 1100), st.integers(1, 1100))
def test_a_margin_makes_small_tiles_dear(height, width):
  planned = tiles.plan(height, width, 0, largest=96, margin=35 / 8)
  computed = sum((t.rows.size + 35 / 4) * (t.columns.size + 35 / 4) for t in planned)
  whole = (-(-height // 96) * (96 + 35 / 4)) * (-(-width // 96) * (96 + 35 / 4))
  assert computed <= whole + 1e-6  # At worst what the largest tiles compute.
