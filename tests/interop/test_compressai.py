"""CompressAI's checkpoints: our networks on converted weights do what its networks do.

The reference here is written in NumPy from PyTorch's definitions, channels first; one test
compares with numbers of CompressAI itself.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy import special

from compress_jax.codec import CodecError
from compress_jax.interop import compressai
from compress_jax.layers import entropy, quantization
from compress_jax.methods.gmm.networks import Model

N = 6
HEIGHT, WIDTH = 64, 128
GOLDEN = Path(__file__).parents[1] / 'golden/compressai/attn.safetensors'


class Reference:
  """CompressAI's model on f64[C, H, W]; draws each tensor when it is first asked for."""

  def __init__(self, attention, seed=0):
    self.attention = attention
    self.weights = {}
    self.rng = np.random.default_rng(seed)

  def get(self, name, shape, low=-1.0, high=1.0):
    if name not in self.weights:
      self.weights[name] = self.rng.uniform(low, high, shape).astype(np.float32)
    assert self.weights[name].shape == shape
    return self.weights[name].astype(np.float64)

  def conv(self, name, x, out, size=3, stride=1, mask=1.0):
    bound = 1 / np.sqrt(x.shape[0] * size * size)
    weight = mask * self.get(f'{name}.weight', (out, x.shape[0], size, size), -2 * bound, 2 * bound)
    bias = self.get(f'{name}.bias', (out,), -0.3, 0.3)
    x = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    windows = windows[:, ::stride, ::stride]
    return np.einsum('chwij,ocij->ohw', windows, weight, optimize=True) + bias[:, None, None]

  def subpixel(self, name, x, out):
    x = self.conv(f'{name}.0', x, 4 * out)
    shuffled = np.zeros((out, 2 * x.shape[1], 2 * x.shape[2]))
    for i in range(2):  # torch.nn.PixelShuffle: channel c * 4 + i * 2 + j goes to (i, j).
      for j in range(2):
        shuffled[:, i::2, j::2] = x[2 * i + j :: 4]
    return shuffled

  def gdn(self, name, x, inverse):
    n = x.shape[0]
    beta = np.maximum(self.get(f'{name}.beta', (n,), -0.1, 1.5), (1e-6 + 2**-36) ** 0.5)
    gamma = np.maximum(self.get(f'{name}.gamma', (n, n), -0.2, 0.6), 2**-18)
    norm = np.einsum('oi,ihw->ohw', gamma**2 - 2**-36, x**2) + (beta**2 - 2**-36)[:, None, None]
    return x * np.sqrt(norm) if inverse else x / np.sqrt(norm)

  def block(self, name, x):
    out = leaky(self.conv(f'{name}.conv1', x, N))
    return x + leaky(self.conv(f'{name}.conv2', out, N))

  def down(self, name, x):
    out = leaky(self.conv(f'{name}.conv1', x, N, stride=2))
    out = self.gdn(f'{name}.gdn', self.conv(f'{name}.conv2', out, N), inverse=False)
    return out + self.conv(f'{name}.skip', x, N, 1, stride=2)

  def up(self, name, x):
    out = leaky(self.subpixel(f'{name}.subpel_conv', x, N))
    out = self.gdn(f'{name}.igdn', self.conv(f'{name}.conv', out, N), inverse=True)
    return out + self.subpixel(f'{name}.upsample', x, N)

  def attend(self, name, x):
    trunk = gate = x
    for i in range(3):
      trunk = self.unit(f'{name}.conv_a.{i}.conv', trunk)
      gate = self.unit(f'{name}.conv_b.{i}.conv', gate)
    return x + trunk * special.expit(self.conv(f'{name}.conv_b.3', gate, N, 1))

  def unit(self, name, x):
    out = np.maximum(self.conv(f'{name}.0', x, N // 2, 1), 0)
    out = np.maximum(self.conv(f'{name}.2', out, N // 2), 0)
    return np.maximum(x + self.conv(f'{name}.4', out, N, 1), 0)

  def last(self, name, x):
    return self.conv(name, x, N, stride=2)

  def to_image(self, name, x):
    return self.subpixel(name, x, 3)

  def sequence(self, name, x, steps):
    steps = [step for step in steps if self.attention or step != self.attend]
    for i, step in enumerate(steps):
      x = step(f'{name}.{i}', x)
    return x

  def analysis(self, x):
    steps = [self.down, self.block, self.down, self.attend, self.block, self.down, self.block]
    return self.sequence('g_a', x, [*steps, self.last, self.attend])

  def synthesis(self, y):
    steps = [self.attend, self.block, self.up, self.block, self.up, self.attend, self.block]
    return self.sequence('g_s', y, [*steps, self.up, self.block, self.to_image])

  def hyper_analysis(self, y):
    for i, stride in enumerate((1, 1, 2, 1, 2)):
      y = self.conv(f'h_a.{2 * i}', leaky(y) if i else y, N, stride=stride)
    return y

  def hyper_synthesis(self, z):
    z = leaky(self.conv('h_s.0', z, N))
    z = leaky(self.subpixel('h_s.2', z, N))
    z = leaky(self.conv('h_s.4', z, 3 * N // 2))
    z = leaky(self.subpixel('h_s.6', z, 3 * N // 2))
    return self.conv('h_s.8', z, 2 * N)

  def context(self, y):
    mask = np.ones((5, 5))
    mask[2, 2:] = 0
    mask[3:] = 0
    return self.conv('context_prediction', y, 2 * N, 5, mask=mask)

  def parameters(self, features):
    x = leaky(self.conv('entropy_parameters.0', features, 10 * N // 3, 1))
    x = leaky(self.conv('entropy_parameters.2', x, 8 * N // 3, 1))
    return self.conv('entropy_parameters.4', x, 2 * N, 1)

  def cumulative(self, z):
    """Probability of less than f64[C, H, W]."""
    x = z.reshape(N, 1, -1)
    for i, (m, n) in enumerate([(3, 1), (3, 3), (3, 3), (3, 3), (1, 3)]):
      matrix = self.get(f'entropy_bottleneck.matrices.{i}', (N, m, n), -2, 0)
      bias = self.get(f'entropy_bottleneck.biases.{i}', (N, m, 1))
      x = np.log1p(np.exp(matrix)) @ x + bias
      if i < 4:
        x = x + np.tanh(self.get(f'entropy_bottleneck.factors.{i}', (N, m, 1))) * np.tanh(x)
    return special.expit(x).reshape(z.shape)

  def medians(self):
    return self.get('entropy_bottleneck.quantiles', (N, 1, 3), -3, 3)[:, 0, 1, None, None]

  def forward(self, x):
    """All intermediate results of CompressAI's forward() in evaluation."""
    y = self.analysis(x)
    z = self.hyper_analysis(y)
    z_hat = np.round(z - self.medians()) + self.medians()
    features, context = self.hyper_synthesis(z_hat), self.context(np.round(y))
    scale, mean = np.split(self.parameters(np.concatenate([features, context])), 2)
    likelihood = self.cumulative(z_hat + 0.5) - self.cumulative(z_hat - 0.5)
    found = {'y': y, 'z': z, 'z_hat': z_hat, 'features': features, 'context': context}
    found |= {'scale': scale, 'mean': mean, 'z_likelihood': likelihood}
    return {**found, 'x_hat': self.synthesis(np.round(y))}


def leaky(x):
  return np.where(x > 0, x, 0.01 * x)


def nhwc(x):
  """[C, H, W] as f32[1, H, W, C]."""
  return jnp.asarray(x, jnp.float32).transpose(1, 2, 0)[None]


def ours(checkpoint, x, reference):
  """The same results of our networks, each from the reference's input to it."""

  @jax.jit
  def run(params, x, given):
    model = Model(**checkpoint.options).bind({'params': params})
    z_hat = jnp.round(given['z'] - model.prior.medians()) + model.prior.medians()
    seen = jnp.concatenate([given['features'], given['context']], -1)
    scale, mean, logits = jnp.moveaxis(model.parameters[0](seen), (3, 4), (0, 1))
    return {
      'y': model.analysis(x),
      'z': model.hyper_analysis(given['y']),
      'z_hat': z_hat,
      'features': model.hyper_synthesis(z_hat),
      'context': model.neighbours(given['y_hat']),
      'scale': scale[0],
      'mean': mean[0],
      'y_likelihood': entropy.mixture_likelihood(given['symbols'], logits, mean, scale),
      'z_likelihood': model.prior(z_hat),
      'x_hat': model.synthesis(given['y_hat']),
    }

  return run(checkpoint.params, nhwc(x), {name: nhwc(v) for name, v in reference.items()})


def check_parity(checkpoint, x, reference):
  for name, value in ours(checkpoint, x, reference).items():
    expected = nhwc(reference[name])
    size = max(float(jnp.abs(expected).max()), 1.0)
    np.testing.assert_allclose(value, expected, atol=1e-4 * size, rtol=0, err_msg=name)


@pytest.fixture(scope='module', params=[False, True], ids=['anchor', 'attn'])
def reference(request):
  """A model that has run on a picture, the picture, and what it found."""
  model = Reference(attention=request.param)
  x = np.random.default_rng(1).uniform(0, 1, (3, HEIGHT, WIDTH))
  found = model.forward(x)
  y_hat = np.round(found['y'])
  symbols = y_hat + np.round(found['mean'])  # Likely ones and unlikely ones.
  scale = np.maximum(found['scale'], 0.11)
  low, high = (special.ndtr((symbols + half - found['mean']) / scale) for half in (-0.5, 0.5))
  return model, x, {**found, 'y_hat': y_hat, 'symbols': symbols, 'y_likelihood': high - low}


@pytest.fixture(scope='module')
def weights():
  """Those of an anchor that has run."""
  model = Reference(attention=False)
  model.forward(np.zeros((3, 64, 64)))
  return model.weights


def test_the_reference_is_no_trivial_case(reference):
  _, _, found = reference
  assert np.count_nonzero(found['y_hat']) > found['y_hat'].size // 4
  for name, value in found.items():
    assert np.isfinite(value).all(), name
    assert value.std() > 0.02, name


def test_every_network_does_what_the_original_does(reference):
  model, x, found = reference
  checkpoint = compressai.convert(model.weights)
  assert checkpoint.options['attention'] == model.attention
  assert checkpoint.options['widths'] == (20, 16)
  check_parity(checkpoint, x, found)


def test_converted_parameters_are_those_that_the_model_has(reference):
  checkpoint = compressai.convert(reference[0].weights)
  x, level = jnp.zeros((1, 64, 64, 3)), jnp.zeros(1, jnp.int32)
  expected = jax.eval_shape(Model(**checkpoint.options).init, jax.random.key(0), x, level)
  shapes = jax.tree.map(lambda array: array.shape, checkpoint.params)
  assert shapes == jax.tree.map(lambda array: array.shape, expected['params'])


def test_no_level_scales_the_latents(weights):
  log_gains = jnp.asarray(compressai.convert(weights).params['log_gains'])
  gains = quantization.gains(log_gains, jnp.array([0, 100, 255]))
  np.testing.assert_array_equal(gains, np.ones((3, N)))


def test_every_number_is_used_once(weights):
  """But for those of the context model that its mask hides."""
  names = list(weights)
  sizes = np.cumsum([weights[name].size for name in names])
  numbered = {
    name: np.arange(end - weights[name].size, end, dtype=np.float32).reshape(weights[name].shape)
    for name, end in zip(names, sizes, strict=True)
  }
  params = compressai.convert(numbered).params
  del params['log_gains']
  kernel = params['context'].pop('kernel')
  seen = np.concatenate([kernel[:2].ravel(), kernel[2, :2].ravel()])
  found = np.sort(np.concatenate([seen, *(leaf.ravel() for leaf in jax.tree.leaves(params))]))
  masked = numbered['context_prediction.weight'].reshape(2 * N, N, 25)[:, :, 12:]
  np.testing.assert_array_equal(found, np.setdiff1d(np.arange(sizes[-1]), masked))


BUFFERS = {
  'entropy_bottleneck._offset': np.zeros(N, np.int32),
  'entropy_bottleneck._quantized_cdf': np.zeros((N, 9), np.int32),
  'entropy_bottleneck._cdf_length': np.zeros(N, np.int32),
  'entropy_bottleneck.target': np.zeros(3, np.float32),
  'entropy_bottleneck.likelihood_lower_bound.bound': np.float32([1e-9]),
  'gaussian_conditional._quantized_cdf': np.zeros((64, 9), np.int32),
  'gaussian_conditional.scale_table': np.zeros(64, np.float32),
  'gaussian_conditional.scale_bound': np.float32([0.11]),
  'gaussian_conditional.lower_bound_scale.bound': np.float32([0.11]),
  'context_prediction.mask': np.zeros((2 * N, N, 5, 5), np.float32),
  'g_a.0.gdn.beta_reparam.pedestal': np.float32([2**-36]),
  'g_a.0.gdn.beta_reparam.lower_bound.bound': np.float32([0.0010000072760]),
  'g_s.1.igdn.gamma_reparam.lower_bound.bound': np.float32([2**-18]),
}


def equal(a, b):
  return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_buffers_of_its_coder_change_nothing(weights):
  plain = compressai.convert(weights)
  assert equal(compressai.convert({**weights, **BUFFERS}).params, plain.params)


@pytest.mark.parametrize('style', ['_{}{}', '_{}s.{}'])
def test_names_of_earlier_versions_are_known(style, weights):
  singular = {'matrices': 'matrix', 'biases': 'bias', 'factors': 'factor'}
  plural = {'matrices': 'matrice', 'biases': 'biase', 'factors': 'factor'}
  old = {}
  for name, value in weights.items():
    prior, _, index = name.removeprefix('entropy_bottleneck.').partition('.')
    if name.startswith('entropy_bottleneck.') and prior in singular:
      known = (plural if 's.' in style else singular)[prior]
      name = 'entropy_bottleneck.' + style.format(known, index)
    old[name.replace('.skip.', '.downsample.')] = value
  assert not set(old) >= set(weights)
  assert equal(compressai.convert(old).params, compressai.convert(weights).params)


WRONG = {
  'a tensor of another model': ({'g_a.9.weight': np.zeros(1)}, r"unknown tensor 'g_a.9.weight'"),
  'another shape': ({'h_a.0.bias': np.zeros(7, np.float32)}, r'h_a.0.bias has shape \(7,\)'),
  'not a number': ({'h_a.0.bias': np.full(N, np.nan, np.float32)}, 'not finite'),
  'integers': ({'h_a.0.bias': np.zeros(N, np.int64)}, 'not finite numbers'),
  'another GDN': (
    {'g_a.0.gdn.beta_reparam.lower_bound.bound': np.float32([0.1])},
    'bound is not 0.001',
  ),
  'other scales': ({'gaussian_conditional.scale_bound': np.float32([0.2])}, 'is not 0.11'),
  'two names': ({'entropy_bottleneck._matrix0': np.zeros((N, 3, 1))}, 'old and its new name'),
}


@pytest.mark.parametrize('case', WRONG)
def test_what_does_not_fit_is_refused(case, weights):
  change, reason = WRONG[case]
  with pytest.raises(CodecError, match=reason):
    compressai.convert({**weights, **change})


@pytest.mark.parametrize('name', ['g_s.7.0.weight', 'entropy_bottleneck.quantiles', 'h_s.8.bias'])
def test_a_missing_tensor_is_named(name, weights):
  with pytest.raises(CodecError, match=f'{name} is missing'):
    compressai.convert({key: value for key, value in weights.items() if key != name})


def test_another_model_is_refused():
  with pytest.raises(CodecError, match='not a cheng2020 model of CompressAI'):
    compressai.convert({'g_a.0.weight': np.zeros((N, 3, 5, 5), np.float32)})


def test_a_file_gives_the_model_and_errors_name_it(weights, tmp_path):
  save_file(weights, tmp_path / 'model.safetensors')
  got = compressai.read(tmp_path / 'model.safetensors')
  assert equal(got.params, compressai.convert(weights).params)
  save_file({'a': np.zeros(1)}, tmp_path / 'other.safetensors')
  (tmp_path / 'broken.pth').write_bytes(b'PK\x03\x04')
  for name in ('other.safetensors', 'broken.pth'):
    with pytest.raises(CodecError, match=f'^{name}: '):
      compressai.read(tmp_path / name)


def test_compressai_itself_agrees():
  """With numbers that tests/golden/compressai/make.py has computed by CompressAI."""
  kept = load_file(GOLDEN)
  weights = {k.removeprefix('weight.'): v for k, v in kept.items() if k.startswith('weight.')}
  found = {k.removeprefix('result.'): v for k, v in kept.items() if k.startswith('result.')}
  checkpoint = compressai.convert(weights)
  assert checkpoint.options['attention'] and checkpoint.options['channels'] == 8
  check_parity(checkpoint, kept['image'] / 255, found)
