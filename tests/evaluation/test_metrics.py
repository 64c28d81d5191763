import io
import math

import bjontegaard
import jax.numpy as jnp
import numpy as np
import pytest
import skimage
from PIL import Image as PILImage

from compress_jax.codec import CodecError
from compress_jax.evaluation import metrics


def pair(height, width):
  """Two images made of integer arithmetic alone: fine patterns, and noise of +-20 on them."""
  y, x, c = np.indices((height, width, 3))
  a = (x * x + 3 * y * y + 7 * x * y // 5 + 50 * c * (x + y)) // 64 % 256
  noise = (x * 7919 + y * 104729 + c * 1299709) * 2654435761 % 2**32 // 2**16 % 41 - 20
  return a.astype(np.uint8), np.clip(a + noise, 0, 255).astype(np.uint8)


def flat(value, height=8, width=8):
  return np.full((height, width, 3), value, np.uint8)


def test_bpp_counts_the_bits_of_the_file():
  assert metrics.bpp(1000, 20, 40) == 10


def test_mse_does_not_wrap_around():
  assert metrics.mse(flat(0), flat(255)) == metrics.mse(flat(255), flat(0)) == 65025


def test_psnr_of_hand_solved_cases():
  assert metrics.psnr(flat(7), flat(7)) == math.inf
  assert metrics.psnr(flat(0), flat(255)) == 0
  np.testing.assert_allclose(metrics.psnr(flat(3), flat(4)), 20 * math.log10(255))


def test_images_of_different_sizes_are_refused():
  for metric in (metrics.mse, metrics.psnr, metrics.ms_ssim):
    with pytest.raises(CodecError, match='cannot compare'):
      metric(flat(0, 200, 200), flat(0, 200, 201))


@pytest.mark.parametrize(
  'height,width,expected',
  [
    (176, 208, 0.9894441875941705),
    (177, 203, 0.9892576130739069),
    (192, 256, 0.9911259861047103),
  ],
)
def test_ms_ssim_agrees_with_pytorch_msssim(height, width, expected):
  """Constants of pytorch-msssim 1.0.0 under torch 2.13.0, in double precision.

  to = lambda image: torch.from_numpy(image).permute(2, 0, 1)[None].double()
  pytorch_msssim.ms_ssim(*map(to, pair(height, width)), data_range=255)
  """
  assert abs(metrics.ms_ssim(*pair(height, width)) - expected) < 2e-6


def reference_ms_ssim(a, b):
  """Wang, Simoncelli and Bovik 2003, equation 7, written as dense sums for even sides."""
  window = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
  window = np.outer(window, window) / window.sum() ** 2

  def local(x):
    return np.einsum(
      'hwcij,ij->hwc', np.lib.stride_tricks.sliding_window_view(x, (11, 11), (0, 1)), window
    )

  a, b, score = a.astype(float), b.astype(float), 1.0
  for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
    mean_a, mean_b = local(a), local(b)
    var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    term = (2 * (local(a * b) - mean_a * mean_b) + 58.5225) / (var_a + var_b + 58.5225)
    if scale == 4:
      term = term * (2 * mean_a * mean_b + 6.5025) / (mean_a**2 + mean_b**2 + 6.5025)
    score = score * np.maximum(term.mean((0, 1)), 0) ** weight
    if scale < 4:
      a, b = ((x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4 for x in (a, b))
  return score.mean()


def test_ms_ssim_agrees_with_dense_sums():
  a, b = pair(176, 208)
  for other in (b, a // 2, 255 - a):
    assert abs(metrics.ms_ssim(a, other) - reference_ms_ssim(a, other)) < 1e-5


def test_ms_ssim_of_equal_images_is_one_and_is_symmetric():
  a, b = pair(176, 208)
  assert abs(metrics.ms_ssim(a, a) - 1) < 1e-6
  assert abs(metrics.ms_ssim(a, b) - metrics.ms_ssim(b, a)) < 1e-6


def test_ms_ssim_of_a_side_up_to_160_is_not_a_number():
  assert math.isnan(metrics.ms_ssim(flat(0, 160, 400), flat(0, 160, 400)))
  assert math.isnan(metrics.ms_ssim(flat(0, 1, 1), flat(0, 1, 1)))
  assert metrics.ms_ssim(flat(0, 161, 176), flat(0, 161, 176)) == 1


RATE = np.array([0.12, 0.25, 0.4, 0.75, 1.1, 1.9])
PSNR = np.array([24.0, 26.5, 28.1, 30.9, 33.2, 36.0])


def test_a_curve_with_a_tenth_fewer_bits_is_ten_per_cent_better():
  found = metrics.bd_rate(RATE, PSNR, 0.9 * RATE, PSNR)
  np.testing.assert_allclose(found.percent, -10)
  assert found[1:] == (24, 36, 6)


def test_rates_in_any_unit_give_the_same():
  a = metrics.bd_rate(RATE, PSNR, RATE**1.1, PSNR)
  b = metrics.bd_rate(1000 * RATE, PSNR, 1000 * RATE**1.1, PSNR)
  np.testing.assert_allclose(a.percent, b.percent)


def test_straight_lines_are_solved_by_hand_on_a_fixed_interval():
  psnr = np.array([20.0, 24, 28, 32])
  a = np.exp(0.1 * psnr)
  b = np.exp(0.2 * psnr - 2.5)  # ln b - ln a = 0.1 psnr - 2.5: 0.1 on average over 24..28.
  found = metrics.bd_rate(a, psnr, b, psnr, interval=(24, 28))
  np.testing.assert_allclose(found.percent, 100 * math.expm1(0.1))
  assert found[1:] == (24, 28, 2)


@pytest.mark.parametrize('method', ['pchip', 'akima'])
def test_bd_rate_agrees_with_the_bjontegaard_package(method):
  rate, psnr = 0.8 * RATE**1.1 + 0.01, PSNR + np.sin(PSNR) / 3 + 0.4
  expected = bjontegaard.bd_rate(RATE, PSNR, rate, psnr, method=method, min_overlap=0)
  found = metrics.bd_rate(RATE, PSNR, rate, psnr, method=method)
  np.testing.assert_allclose(found.percent, expected, rtol=1e-9)


def test_the_interval_is_clipped_to_both_curves_and_reported():
  found = metrics.bd_rate(RATE, PSNR, 0.5 * RATE, PSNR + 3, interval=(20, 35))
  assert (found.low, found.high) == (27, 35)


def test_too_little_in_common_is_no_overlap():
  assert metrics.bd_rate(RATE, PSNR, RATE, PSNR + 11.1) is None
  assert metrics.bd_rate(RATE, PSNR, RATE, PSNR + 20) is None
  assert metrics.bd_rate(RATE, PSNR, RATE, PSNR, interval=(30, 30.9)) is None
  assert metrics.bd_rate(RATE, PSNR, RATE[:3], PSNR[:3]) is None
  assert metrics.bd_rate(RATE, PSNR, [], []) is None
  assert metrics.bd_rate(RATE, PSNR, RATE, PSNR + 10.9) is not None


def test_order_duplicates_and_beaten_points_change_nothing():
  order = np.array([3, 0, 5, 1, 4, 2])
  rate = np.concatenate([RATE[order], [RATE[2], 0.8, 2.5]])
  psnr = np.concatenate([PSNR[order], [PSNR[2], 30.0, math.inf]])
  np.testing.assert_allclose(metrics.bd_rate(rate, psnr, 0.9 * RATE, PSNR).percent, -10)


def test_floats_in_0_to_1_have_the_values_of_their_bytes():
  a, b = pair(176, 208)
  for dtype in (np.float32, np.float64, jnp.float32):
    x, y = (np.asarray(image, np.float64).astype(dtype) / dtype(255) for image in (a, b))
    for metric in (metrics.mse, metrics.psnr, metrics.ms_ssim):
      for found in (metric(x, y), metric(a, y), metric(x, b)):
        np.testing.assert_allclose(found, metric(a, b), rtol=1e-5)
  assert metrics.psnr(np.zeros((8, 8, 3)), np.full((8, 8, 3), 0.1)) == pytest.approx(20)
  half = np.zeros((8, 8, 3), np.float16)
  assert metrics.psnr(half, half + np.float16(0.5)) == pytest.approx(20 * math.log10(2))


@pytest.mark.parametrize('metric', [metrics.mse, metrics.psnr, metrics.ms_ssim])
@pytest.mark.parametrize(
  ('image', 'message'),
  [
    (flat(3).astype(np.uint16), 'uint16'),
    (flat(3).astype(np.int32), 'int32'),
    (flat(1).astype(bool), 'bool'),
    (flat(3).astype(np.float32), '3 to 3'),
    (flat(0) - 0.5, r'-0\.5'),
    (np.full((8, 8, 3), np.nan), 'nan'),
    (np.full((8, 8, 3), 1j), 'complex'),
    (np.zeros((2, 8, 8, 3), np.uint8), r'\(2, 8, 8, 3\)'),
    (np.zeros((3, 8, 8), np.uint8), r'\(3, 8, 8\)'),
    (np.zeros((8, 8, 4), np.uint8), r'\(8, 8, 4\)'),
    (np.zeros((0, 8, 3), np.uint8), r'\(0, 8, 3\)'),
    (np.zeros(8, np.uint8), r'\(8,\)'),
  ],
)
def test_what_is_no_image_is_refused(metric, image, message):
  with pytest.raises(CodecError, match=message):
    metric(image, image)


def test_grey_images_are_compared_as_one_channel():
  a, b = pair(176, 208)
  for metric in (metrics.mse, metrics.psnr, metrics.ms_ssim):
    assert metric(a[..., 0], b[..., 0]) == metric(a[..., :1], b[..., :1])


@pytest.mark.parametrize('told', [(-1, 8, 8), (1, 0, 8), (1, 8, -8), (math.nan, 8, 8)])
def test_rates_of_nothing_are_refused(told):
  with pytest.raises(CodecError, match='no rate'):
    metrics.bpp(*told)


@pytest.mark.parametrize(
  ('curve', 'options', 'message'),
  [
    ((RATE[:5], PSNR), {}, '5 and 6'),
    ((-RATE, PSNR), {}, 'not negative'),
    ((RATE * math.nan, PSNR), {}, 'finite'),
    ((RATE, PSNR * math.nan), {}, 'numbers'),
    ((RATE, PSNR), {'method': 'cubic'}, 'cubic'),
    ((RATE, PSNR), {'interval': (30, 28)}, 'lower'),
    ((RATE, PSNR), {'interval': (math.nan, 28)}, 'lower'),
  ],
)
def test_curves_of_something_else_are_refused(curve, options, message):
  with pytest.raises(CodecError, match=message):
    metrics.bd_rate(RATE, PSNR, *curve, **options)


def test_lossless_points_are_left_out_of_curves():
  found = metrics.bd_rate([*RATE, 9], [*PSNR, math.inf], 0.9 * RATE, PSNR)
  np.testing.assert_allclose(found.percent, -10)


def jpeg(image, quality):
  file = io.BytesIO()
  PILImage.fromarray(image).save(file, 'jpeg', quality=quality, subsampling=2)
  return np.asarray(PILImage.open(file).convert('RGB'))


def test_ssimulacra2_is_that_of_the_package_on_files(tmp_path):
  """Its first file is the original: the two are not treated alike."""
  package = pytest.importorskip('ssimulacra2')
  a = skimage.data.astronaut()[:240, :300]
  b = jpeg(a, 20)
  for name, image in (('a', a), ('b', b)):
    PILImage.fromarray(image).save(tmp_path / f'{name}.png')
  expected = package.compute_ssimulacra2(str(tmp_path / 'a.png'), str(tmp_path / 'b.png'))
  assert metrics.ssimulacra2(a, b) == pytest.approx(expected, abs=1e-9)
  assert abs(metrics.ssimulacra2(b, a) - expected) > 0.01
  assert metrics.ssimulacra2(a, a) == 100


def test_ssimulacra2_is_near_where_its_authors_put_jpeg():
  """Their page: 30 is the average of libjpeg-turbo at quality 20 with 4:2:0, 50 at quality 35."""
  pytest.importorskip('ssimulacra2')
  photo = skimage.data.astronaut()
  low, medium, high = (metrics.ssimulacra2(photo, jpeg(photo, q)) for q in (20, 35, 90))
  assert low < medium < high < 100
  assert abs(low - 30) < 20 and abs(medium - 50) < 20


def test_ssimulacra2_of_small_images_is_not_a_number_and_of_others_is_refused():
  pytest.importorskip('ssimulacra2')
  small, enough = (np.zeros((side, 300, 3), np.uint8) for side in (224, 225))
  assert math.isnan(metrics.ssimulacra2(small, small))
  assert metrics.ssimulacra2(enough, enough) == 100
  for other in (small, enough / 255, enough[..., 0]):
    with pytest.raises(CodecError, match='SSIMULACRA2 compares two'):
      metrics.ssimulacra2(enough, other)


def test_a_bd_rate_needs_the_overlap_that_is_asked_for():
  rates, quality = [1, 2, 4, 8], [10.0, 12.0, 14.0, 16.0]
  found = [metrics.bd_rate(rates, quality, rates, quality, overlap=n) for n in (6, 6.5)]
  assert found[0].percent == pytest.approx(0) and found[1] is None
