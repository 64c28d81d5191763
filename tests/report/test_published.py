"""Curves from the literature, and LPIPS at their rates."""

import math

import pytest

from compress_jax.report.curves import Curve
from compress_jax.report.published import Published, lpips_at, lpips_lines, read_published
from tests.helpers.rows import PUBLISHED


def curve(bpp, lpips, name='ours'):
  return Curve(name, '', (), bpp, (30.0,) * len(bpp), (math.nan,) * len(bpp), (), lpips)


def test_published_curves_name_their_source_and_rise():
  found = read_published(PUBLISHED)
  assert len(found) >= 10
  for entry in found:
    assert entry.source and entry.figures
    assert 3 <= len(entry.curve.bpp) <= 25
    assert list(entry.curve.psnr) == sorted(entry.curve.psnr)


def test_lpips_is_linear_in_the_logarithm_of_the_rate():
  ours = curve((0.1, 0.4), (0.3, 0.1))
  assert lpips_at(ours, 0.2) == pytest.approx(0.2)  # The middle: 0.2 is a factor of 2 from both.
  assert lpips_at(ours, 0.1) == pytest.approx(0.3)
  assert lpips_at(ours, 0.09) is lpips_at(ours, 0.41) is None
  assert lpips_at(curve((0.1, 0.4), ()), 0.2) is None


def test_a_table_has_the_published_points_that_a_curve_covers():
  paper = curve((0.05, 0.2, 0.8), (0.4, 0.05, 0.01), 'Paper')
  without = curve((0.2,), (math.nan,), 'no LPIPS')
  never = curve((0.2,), (), 'never measured')
  published = [Published(each, 'a source', ('all',)) for each in (paper, without, never)]
  ours, other = curve((0.1, 0.4), (0.3, 0.1)), curve((0.4, 1.0), (0.2, 0.1), 'other')
  head, lines = lpips_lines([ours, other, curve((0.1, 0.4), (), 'unmeasured')], published)
  assert head == ['', 'bpp', 'its LPIPS', 'ours', 'other']
  assert lines[0] == ['Paper', '0.200', '0.0500', '0.2000', '–']
  assert [line[1] for line in lines] == ['0.200', '0.800']


def test_hific_is_among_the_points():
  published = [each for each in read_published(PUBLISHED) if each.curve.codec == 'HiFiC 2020']
  _, lines = lpips_lines([curve((0.1, 1.0), (0.3, 0.1))], published)
  assert [line[:3] for line in lines] == [
    ['HiFiC 2020', '0.183', '0.0686'],
    ['HiFiC 2020', '0.351', '0.0428'],
    ['HiFiC 2020', '0.538', '0.0278'],
  ]
