import math

import pytest

from compress_jax.codec import CodecError
from compress_jax.evaluation import budget


def curve(lmbda):
  """A codec whose bpp is lambda and whose PSNR is 20 dB + 10 log10(lambda / 0.001)."""
  return budget.Point(lmbda, b'', lmbda, 20 + 10 * math.log10(lmbda / 0.001))


def test_the_best_file_within_a_rate_is_found():
  point = budget.within_bpp(curve, 0.03, (0.001, 1.0))
  assert 0.03 * 0.99 < point.bpp <= 0.03


def test_the_smallest_file_of_a_quality_is_found():
  point = budget.reaching_psnr(curve, 30, (0.001, 1.0))
  assert 0.01 <= point.bpp < 0.01 * 1.01


def test_a_budget_beyond_the_scale_takes_its_end():
  assert budget.within_bpp(curve, 9, (0.001, 1.0)).lmbda == 1
  assert budget.reaching_psnr(curve, 10, (0.001, 1.0)).lmbda == 0.001


def test_an_unreachable_budget_says_what_is_reachable():
  with pytest.raises(CodecError, match=r'within 0.0005 bpp: the smallest has 0.0010'):
    budget.within_bpp(curve, 0.0005, (0.001, 1.0))
  with pytest.raises(CodecError, match=r'reaches 60 dB: the best has 50.00'):
    budget.reaching_psnr(curve, 60, (0.001, 1.0))


@pytest.mark.parametrize('size', [1, 80, 1000, 3000, 10**6])
def test_the_nearest_size_is_met_on_an_exponential_scale(size):
  made = []

  def encode(q):
    made.append(q)
    return bytes(round(50 * math.exp(0.05 * q)))

  points = range(1, 101)
  best = min((len(encode(q)) for q in points), key=lambda n: abs(n - size))
  made.clear()
  assert len(budget.nearest_size(encode, points, size)) == pytest.approx(best, rel=0.05)
  assert len(made) <= 4


@pytest.mark.parametrize('size', range(60, 5000, 190))
def test_sizes_that_locally_fall_do_not_lead_the_search_away(size):
  # An exponential whose steps alternate up and down by more than its slope.
  sizes = [round(50 * math.exp(0.05 * q + 0.04 * (-1) ** q)) for q in range(1, 101)]
  found = len(budget.nearest_size(lambda q: bytes(sizes[q - 1]), range(1, 101), size))
  # Neighbours differ by at most 0.05 + 2 * 0.04, and whole bytes add a little.
  assert abs(math.log(found / size)) < 0.13 / 2 + 0.01


@pytest.mark.parametrize(('size', 'end'), [(1, 1), (10**6, 100)])
def test_a_size_beyond_the_scale_takes_its_end_and_makes_no_file_twice(size, end):
  made = []

  def encode(q):
    made.append(q)
    return bytes(100 + q)

  budget.nearest_size(encode, range(1, 101), size)
  assert made[-1] == end and len(set(made)) == len(made)


@pytest.mark.parametrize(('search', 'target'), [('within_bpp', 0.03), ('reaching_psnr', 30)])
def test_a_search_says_how_many_files_it_has_made(search, target):
  made, told = [], []

  def code(lmbda):
    made.append(lmbda)
    return curve(lmbda)

  getattr(budget, search)(code, target, (0.001, 1.0), progress=lambda *at: told.append(at))
  # Two ends, then halvings of log(1000) = 6.9 until a hundredth is left: 2^9 < 691 < 2^10.
  assert told == [(i, 12) for i in range(1, 13)] and len(made) == 12
