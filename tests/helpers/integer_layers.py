"""The arithmetic of integer layers in int64 or Python integers."""

import numpy as np

from compress_jax.exact.layers import LINEAR

SLOPES = (0, 655, 13107, LINEAR)


def integers(rng, shape, bits):
  """Signed integers, a third of them as large as `bits` allow."""
  high = 2**bits - 1
  values, ends = rng.integers(-high, high + 1, shape), rng.choice([-high, high], shape)
  return np.where(rng.random(shape) < 1 / 3, ends, values).astype(np.float64)


def integer_dense(x, layer):
  """The definition, in int64."""
  x, weight, bias = (np.asarray(a).astype(np.int64) for a in (x, layer.weight, layer.bias))
  values = (x @ weight + bias[..., None, :]) >> layer.shift
  if layer.slope != LINEAR:
    values = np.where(values < 0, (values * layer.slope + 2**15) >> 16, values)
  return np.clip(values, -layer.limit, layer.limit)


def integer_conv(x, layer):
  """The definition, position by position."""
  height, width, channels = x.shape
  reach = layer.kernel // 2
  out = np.zeros((height, width, len(layer.bias)), np.int64)
  for row, column in np.ndindex(height, width):
    seen = np.zeros((layer.kernel, layer.kernel, channels))
    for dr, dc in np.ndindex(layer.kernel, layer.kernel):
      r, c = row + dr - reach, column + dc - reach
      if 0 <= r < height and 0 <= c < width:
        seen[dr, dc] = x[r, c]
    out[row, column] = integer_dense(seen.reshape(1, -1), layer)[0]
  return integer_shuffle(out) if layer.shuffle else out


def integer_shuffle(x):
  """Channels (2i + j) * C .. of the input are the C of row 2h + i, column 2w + j."""
  height, width, channels = x.shape
  size = channels // 4
  out = np.zeros((2 * height, 2 * width, size), x.dtype)
  for i, j in np.ndindex(2, 2):
    out[i::2, j::2] = x[:, :, (2 * i + j) * size :][:, :, :size]
  return out


def integer_run(network, x):
  for layer in network:
    x = integer_conv(x, layer)
  return x
