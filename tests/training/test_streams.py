import contextlib
import multiprocessing
import threading

import numpy as np
import pytest

from compress_jax.codec import CodecError
from compress_jax.training import streams


def coordinates(number, height, width):
  """An image whose pixels say where they are: row, column, number of the image."""
  rows, columns = np.indices((height, width))
  return np.stack([rows, columns, np.full_like(rows, number)], -1).astype(np.uint8)


SOURCE = [coordinates(0, 40, 50), coordinates(1, 33, 24), coordinates(2, 24, 24)]
OPTIONS = {'seed': 7, 'size': 16, 'batch': 4}


def stream(source=SOURCE, **options):
  with contextlib.closing(streams.batches(source, **{**OPTIONS, **options})) as made:
    return np.array(list(made))


def examples(source, count, **options):
  crops = streams.Crops(source, **{'seed': 0, 'size': 16, 'scales': (0.5, 1.0), **options})
  return [streams.example(crops, 0, i) for i in range(count)]


def test_a_batch_is_uint8_of_the_asked_size():
  found = stream(stop=3)
  assert found.shape == (3, 4, 16, 16, 3) and found.dtype == np.uint8


def test_at_scale_one_every_window_of_every_image_comes_both_ways():
  source = [coordinates(0, 8, 9), coordinates(1, 6, 7)]
  seen = set()
  for crop in examples(source, 800, size=6, scales=(1.0, 1.0)):
    flipped = crop[0, 0, 1] > crop[0, 1, 1]
    crop = crop[:, ::-1] if flipped else crop
    top, left, number = crop[0, 0].tolist()
    np.testing.assert_array_equal(crop, source[number][top : top + 6, left : left + 6])
    seen.add((number, top, left, bool(flipped)))
  places = {0: (3, 4), 1: (1, 2)}
  assert seen == {
    (number, top, left, flipped)
    for number, (rows, columns) in places.items()
    for top in range(rows)
    for left in range(columns)
    for flipped in (False, True)
  }


def test_with_turns_crops_lie_in_all_eight_ways_and_are_else_the_same():
  source = [coordinates(0, 16, 16)]
  ways = {}
  for quarter in range(4):
    for mirrored in (False, True):
      way = np.rot90(source[0][:, ::-1] if mirrored else source[0], quarter)
      ways[np.ascontiguousarray(way).tobytes()] = 0
  for crop in examples(source, 800, turns=True):
    ways[crop.tobytes()] += 1
  assert len(ways) == 8 and min(ways.values()) > 60  # 100 each, with a deviation of 9.
  usual = examples(source, 20)
  for crop, turned in zip(usual, examples(source, 20, turns=True), strict=True):
    assert crop.tobytes() in {
      np.ascontiguousarray(way).tobytes()
      for way in (turned, turned[::-1], turned.swapaxes(0, 1), turned.swapaxes(0, 1)[::-1])
    }


def measured_scales(side, count=300, **options):
  """The scales of crops, from how fast a ramp of 4 levels per pixel rises in them."""
  ramp = np.broadcast_to(4 * np.arange(side), (side, side)).astype(np.uint8)
  crops = np.array(examples([np.stack([ramp] * 3, -1)], count, **options), float)
  return 4 / (np.abs(crops[:, 8, 12, 0] - crops[:, 8, 3, 0]) / 9)


def test_scales_are_uniform_between_the_limits():
  found = measured_scales(64)
  assert found.min() > 0.49 and found.max() < 1.01
  shares = np.histogram(found, 5, (0.5, 1.0))[0] / len(found)
  np.testing.assert_allclose(shares, 0.2, atol=0.08)


@pytest.mark.parametrize('side,least', [(24, 16 / 24), (16, 1.0), (32, 0.5)])
def test_no_side_shrinks_below_the_crop(side, least):
  found = measured_scales(side, 100)
  np.testing.assert_allclose(found.min(), least, atol=0.03)
  assert found.max() < 1.01


def test_even_the_highest_scale_gives_way_to_the_size_of_the_crop():
  found = measured_scales(20, 50, scales=(0.25, 0.5))  # 16 of 20 pixels is a scale of 0.8.
  np.testing.assert_allclose(found, 0.8, atol=0.03)


def test_shrinking_averages_what_it_cannot_show():
  checkers = 255 * (np.indices((40, 40)).sum(0) % 2).astype(np.uint8)
  for crop in examples([np.stack([checkers] * 3, -1)], 20, scales=(0.5, 0.5)):
    np.testing.assert_allclose(crop[4:-4, 4:-4], 127.5, atol=8)


def test_a_batch_depends_on_seed_and_step_alone():
  first = stream(stop=4)
  np.testing.assert_array_equal(first, stream(stop=4))
  assert len({batch.tobytes() for batch in first}) == 4
  assert len({example.tobytes() for example in first.reshape(16, 16, 16, 3)}) == 16
  assert not np.array_equal(first, stream(stop=4, seed=8))


def test_a_later_start_continues_the_same_stream():
  whole = stream(stop=7)
  np.testing.assert_array_equal(stream(start=3, stop=7), whole[3:])
  turned = stream(stop=7, turns=True)
  np.testing.assert_array_equal(stream(start=3, stop=7, turns=True), turned[3:])
  endless = streams.batches(SOURCE, **OPTIONS, start=5)
  with contextlib.closing(endless):
    np.testing.assert_array_equal([next(endless), next(endless)], whole[5:])


def test_shards_are_the_parts_of_the_global_batch():
  whole = stream(stop=3)
  parts = [stream(stop=3, start=1, shard=(k, 4)) for k in range(4)]
  np.testing.assert_array_equal(np.concatenate(parts, 1), whole[1:])
  halves = [stream(stop=3, shard=(k, 2)) for k in range(2)]
  np.testing.assert_array_equal(np.concatenate(halves, 1), whole)


def test_worker_processes_threads_and_a_loop_give_the_same_stream():
  before = set(multiprocessing.active_children())
  crops = streams.Crops(SOURCE, 7, 16, (0.5, 1.0))
  loop = [[streams.example(crops, step, i) for i in (2, 3)] for step in range(2, 7)]
  shard = {'start': 2, 'stop': 7, 'shard': (1, 2)}
  np.testing.assert_array_equal(stream(**shard), loop)
  np.testing.assert_array_equal(stream(**shard, workers=2), loop)
  assert ended(set(multiprocessing.active_children()) - before)


def test_closing_ends_the_threads():
  made = streams.batches(SOURCE, **OPTIONS)
  started = begun_by(made, threading.enumerate)
  assert started
  made.close()
  assert ended(started)


def test_closing_ends_the_processes():
  made = streams.batches(SOURCE, **OPTIONS, workers=1)
  started = begun_by(made, multiprocessing.active_children)
  assert len(started) == 1
  made.close()
  assert ended(started)


def begun_by(made, running):
  """The threads or processes that are there since the first batch: other tests have theirs."""
  before = set(running())
  next(made)
  return set(running()) - before


def ended(started):
  """Whether all end, however slow the machine is."""
  for one in started:
    one.join(600)
  return not any(one.is_alive() for one in started)


@pytest.mark.parametrize(
  'options,text',
  [
    ({'seed': -1}, 'seed=-1 is less than 0'),
    ({'size': 0}, 'size=0 is less than 1'),
    ({'batch': 0}, 'batch=0 is less than 1'),
    ({'start': -2}, 'start=-2 is less than 0'),
    ({'start': 3, 'stop': 2}, 'stop=2 is less than 3'),
    ({'workers': -1}, 'workers=-1 is less than 0'),
    ({'shard': (0, 3)}, 'batch=4 does not divide into 3 shards'),
    ({'shard': (2, 2)}, r'shard=\(2, 2\) is not one of'),
    ({'scales': (0.0, 1.0)}, r'scales=\(0.0, 1.0\)'),
    ({'scales': (0.5, 2.0)}, r'scales=\(0.5, 2.0\)'),
    ({'scales': (0.8, 0.7)}, r'scales=\(0.8, 0.7\)'),
  ],
)
def test_a_wrong_argument_is_named_at_once(options, text):
  with pytest.raises(CodecError, match=text):
    streams.batches(SOURCE, **{**OPTIONS, **options})


def test_an_image_smaller_than_the_crop_is_named():
  with pytest.raises(CodecError, match='an image of 15x40 pixels has no crop of 16'):
    examples([coordinates(0, 40, 15)], 1)
