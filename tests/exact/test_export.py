"""From float layers to integer ones: close to them, and proven not to overflow."""

import numpy as np
import pytest

from compress_jax.codec import CodecError
from compress_jax.exact import export, layers
from compress_jax.exact.export import FloatLayer
from compress_jax.exact.layers import LINEAR, Layer
from tests.helpers.float_layers import IN_BITS, IN_LIMIT, float_layer, hyper_like, latents, rms
from tests.helpers.integer_layers import integer_run


def quantise(network, inputs, **options):
  return export.quantise(network, inputs, in_bits=IN_BITS, in_limit=IN_LIMIT, **options)


def run(network, x):
  return layers.run(network, x * 2.0**IN_BITS)


@pytest.mark.parametrize('seed', range(10))
@pytest.mark.parametrize('out_bits', [None, 8, 12])
def test_integers_stay_close_to_floats(seed, out_bits):
  rng = np.random.default_rng(seed)
  network = hyper_like(rng)
  exact, bits = quantise(network, [latents(rng) for _ in range(3)], out_bits=out_bits)
  x = latents(rng)
  assert out_bits is None or bits == out_bits
  expected = export.float_run(network, x)[-1]
  rounding = 2.0**-bits / np.sqrt(12)
  assert rms(run(exact, x) * 2.0**-bits - expected) < 3e-4 * rms(expected) + rounding


def test_a_linear_layer_of_dyadic_weights_is_reproduced_exactly():
  rng = np.random.default_rng(0)
  weight, bias = rng.integers(-512, 513, (1, 1, 8, 4)) / 64, rng.integers(-64, 65, 4) / 32
  network = [FloatLayer(weight.astype(np.float32), bias.astype(np.float32))]
  x = latents(rng, (5, 5, 8))
  exact, bits = quantise(network, [x], out_bits=IN_BITS + 6)
  np.testing.assert_array_equal(run(exact, x) * 2.0**-bits, x @ weight[0, 0] + bias)


def test_outputs_are_rounded_to_nearest():
  network = [FloatLayer(np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32))]
  (layer,), _ = quantise(network, [np.ones((1, 1, 1))], out_bits=IN_BITS - 2)
  x = np.arange(-8, 9.0)[:, None]  # Quarters of an output.
  np.testing.assert_array_equal(layers.dense(x, layer)[:, 0], np.floor(x[:, 0] / 4 + 0.5))


def test_float_run_is_a_convolution_with_its_activation_and_shuffle():
  kernel = np.zeros((3, 3, 1, 4), np.float32)
  kernel[1, 1, 0] = [1, 2, 3, 4]
  kernel[0, 1, 0, 0] = 10  # Of the position above.
  x = np.array([[[1.0]], [[-2.0]]])
  (out,) = export.float_run([FloatLayer(kernel, np.zeros(4, np.float32), 0.5, True)], x)
  np.testing.assert_allclose(out[..., 0], [[1, 2], [3, 4], [8, -2], [-3, -4]])


def test_weights_use_16_bits_and_activations_20_with_their_margin():
  rng = np.random.default_rng(1)
  network, x = hyper_like(rng), latents(rng)
  exact, _ = quantise(network, [x])
  peaks = [np.abs(layer.weight).max(0) for layer in exact]
  assert all((peak <= 2**15 - 1).all() and (peak >= 2**14 - 1).all() for peak in peaks)
  y = x * 2.0**IN_BITS
  for layer in exact:
    y = layers.conv(y, layer)
    assert 2**19 / 16 * 0.99 < np.abs(y).max() <= 2**19 / 8 * 1.01
    assert layer.limit == 2**19 - 1


def test_narrow_integers_stay_near_floats():
  rng = np.random.default_rng(1)
  network, x = hyper_like(rng), latents(rng)
  exact, bits = quantise(network, [x], precision=export.NARROW)
  for layer in exact:
    peak = np.abs(layer.weight).max(0)
    assert layer.weight.dtype == np.float32
    assert (peak <= 2**9 - 1).all() and (peak >= 2**8 - 1).all()
    assert layer.limit == 2**14 - 1
  expected = export.float_run(network, x)[-1]
  assert rms(run(exact, x) * 2.0**-bits - expected) < 1e-2 * rms(expected)


def test_outputs_have_more_fraction_bits_than_sums_if_asked():
  layer = float_layer(np.random.default_rng(2), 1, 6, 4)
  x = latents(np.random.default_rng(3))
  (exact,), bits = quantise([layer], [x], precision=export.NARROW, out_bits=26, out_limit=2**40)
  assert bits == 26 and (exact.shift < 0).all()
  assert np.abs(exact.weight).max() <= 2**9 - 1
  expected = export.float_run([layer], x)[-1]
  assert rms(run([exact], x) * 2.0**-bits - expected) < 5e-3 * rms(expected)


def test_given_fraction_bits_leave_room_in_the_last_layer_alone():
  rng = np.random.default_rng(2)
  exact, bits = quantise(hyper_like(rng), [latents(rng)], out_bits=16, out_limit=2**30)
  assert bits == 16
  assert [layer.limit for layer in exact] == [2**19 - 1] * 3 + [2**30]


@pytest.mark.parametrize('bias', [0.0, 3.25, -1000.0])
def test_channels_without_weights_give_their_bias(bias):
  rng = np.random.default_rng(3)
  layer = float_layer(rng, 3, 6, 5)
  layer.kernel[..., 2] = 0
  layer.bias[2] = bias
  exact, _ = quantise([layer], [latents(rng)], out_bits=8)
  assert (run(exact, latents(rng))[..., 2] == bias * 2**8).all()


def test_a_network_that_gives_only_zeros_works():
  dead = FloatLayer(np.zeros((3, 3, 2, 4), np.float32), np.zeros(4, np.float32), 0.0)
  after = dead._replace(kernel=dead.kernel[:, :, [0, 1, 0, 1]])
  exact, _ = quantise([dead, after], [np.ones((4, 4, 2))])
  assert not run(exact, np.ones((4, 4, 2))).any()


@pytest.mark.parametrize('scale', [1e-12, 1e-6, 1.0, 100.0])
def test_weights_of_any_size_work(scale):
  rng = np.random.default_rng(4)
  layer = float_layer(rng, 3, 6, 5)
  layer = layer._replace(kernel=(layer.kernel * scale).astype(np.float32), bias=layer.bias * 0)
  x = latents(rng)
  exact, bits = quantise([layer], [x], out_bits=8)
  expected = export.float_run([layer], x)[0]
  error = np.abs(run(exact, x) * 2.0**-bits - expected).max()
  assert error <= 2.0**-9 + 1e-4 * np.abs(expected).max()  # Half a unit, and the weights'.


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('field', ['kernel', 'bias'])
def test_numbers_that_are_not_finite_are_refused(value, field):
  rng = np.random.default_rng(5)
  layer = float_layer(rng, 1, 3, 2)
  getattr(layer, field)[..., 1] = value
  with pytest.raises(CodecError, match=r'layer 1, channel 1: .* not finite'):
    quantise([float_layer(rng, 1, 3, 3), layer], [latents(rng, (2, 2, 3))])


def integer_layer(weight, bias=0, slope=LINEAR, shift=0, limit=2**15 - 1):
  weight = np.array(weight, np.float64)
  return Layer(
    weight, np.full(weight.shape[1], float(bias)), np.full(weight.shape[1], shift), slope, limit
  )


def test_the_proof_stops_at_2_53():
  network = [integer_layer([[1], [1 - 2**40]])]  # Their magnitudes sum to 2^40.
  export.prove(network, 2**13 - 1)
  with pytest.raises(CodecError, match='layer 0, channel 0: sums can exceed'):
    export.prove(network, 2**13)

  export.prove([integer_layer([[2**40]], 2**40 - 1)], 2**13 - 1)
  with pytest.raises(CodecError):
    export.prove([integer_layer([[2**40]], -(2**40))], 2**13 - 1)


def test_the_proof_knows_that_a_negative_shift_multiplies():
  export.prove([integer_layer([[2**20 - 1]], shift=-13)], 2**20)
  with pytest.raises(CodecError, match='layer 0, channel 0: sums can exceed'):
    export.prove([integer_layer([[2**20]], shift=-13)], 2**20)


def test_the_proof_follows_the_limits_of_layers_and_names_the_culprit():
  first = integer_layer([[1, 1]], limit=2**20)
  second = integer_layer([[1, 2**33], [1, 1]])
  with pytest.raises(CodecError, match='layer 1, channel 1'):
    export.prove([first, second], 1)
  export.prove([first._replace(limit=2**19), second], 1)


def test_the_proof_covers_the_product_with_the_slope():
  layer = integer_layer([[2**40]], slope=2**15)
  with pytest.raises(CodecError):
    export.prove([layer], 1)
  export.prove([layer._replace(slope=LINEAR)], 1)  # No product is made.
  export.prove([layer._replace(shift=np.array([4]))], 1)


@pytest.mark.parametrize('field', ['weight', 'bias'])
@pytest.mark.parametrize('value', [0.5, np.nan, np.inf])
def test_the_proof_refuses_what_is_not_an_integer(field, value):
  layer = integer_layer([[1, 2], [3, 4]])
  getattr(layer, field)[..., 1] = value
  with pytest.raises(CodecError, match=r'layer 0, channel 1: .* not an integer'):
    export.prove([layer], 1)


def test_quantised_networks_are_exact_on_extreme_inputs():
  rng = np.random.default_rng(6)
  exact, _ = quantise(hyper_like(rng), [latents(rng)])
  x = rng.choice([-IN_LIMIT, IN_LIMIT], (3, 4, 6)).astype(np.float64)
  np.testing.assert_array_equal(layers.run(exact, x), integer_run(exact, x))
