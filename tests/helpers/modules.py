"""Flax modules with random parameters."""

import functools

import flax.linen as nn
import jax
import numpy as np

# These programs run once: compiling them is what takes time.
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def normal(*shape, seed=0):
  return np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32)


def init(module, x, seed=0):
  """Parameters of the module, all of them random."""
  # By the class: Conv has a field of that name.
  shapes = jax.eval_shape(lambda x: nn.Module.init(module, jax.random.key(0), x), x)['params']
  leaves, tree = jax.tree.flatten(shapes)
  return jax.tree.unflatten(tree, [normal(*v.shape, seed=seed + i) for i, v in enumerate(leaves)])


def apply(module, params, *args):
  return np.asarray(jax.jit(module.apply)({'params': params}, *args))


def leaky(x, slope=0.01):
  return np.where(x > 0, x, slope * x)


def random(shapes, draw):
  """Parameters: `draw(shape)` of every kernel, and of the rest what `rest` says by its name."""
  rest = {'bias': 0.0, 'beta': 1.0, 'gamma': 1.0}

  def value(path, leaf):
    name = path[-1].key
    if name in rest:
      return np.full(leaf.shape, rest[name], np.float32)
    return np.asarray(draw(leaf.shape), np.float32)

  return jax.tree_util.tree_map_with_path(value, shapes)
