"""Trains the float model of a learned method, plainly: one device, no resume.

  python -m experiments.train --method=gmm --preset=tiny --data=DIR --steps=2000 \
      --output=weights.safetensors

The averaged weights are written every --save_every steps. `--start` goes on from such a
file with a fresh optimizer. `python run.py --mode=export` makes a model of it.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from compress_jax import losses, methods, model_files, quantization
from compress_jax.codec import Codec, CodecError, Params
from compress_jax.command import guarded, settings
from compress_jax.data import find_images
from compress_jax.reading import load_image
from compress_jax.released import flatten, unflatten

FLAGS = flags.FlagValues()
flags.DEFINE_string('method', None, 'cae, gmm or gan.', flag_values=FLAGS)
flags.DEFINE_string('preset', 'tiny', 'A size of the method.', flag_values=FLAGS)
flags.DEFINE_multi_string('set', [], 'Options of the method, KEY=VALUE.', flag_values=FLAGS)
flags.DEFINE_multi_string('data', [], 'Folders of images.', flag_values=FLAGS)
flags.DEFINE_integer('steps', 2000, 'Updates.', lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer('batch', 8, 'Crops per update.', lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer('crop', 128, 'Side of a crop in pixels.', lower_bound=64, flag_values=FLAGS)
flags.DEFINE_float('lr', 1e-3, 'Peak of the learning rate.', lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer('seed', 0, 'Of initialisation, crops and noise.', flag_values=FLAGS)
flags.DEFINE_string('start', None, 'Weights to go on from.', flag_values=FLAGS)
flags.DEFINE_string('output', None, 'Where the weights go.', flag_values=FLAGS)
flags.DEFINE_integer('save_every', 500, 'Steps between writes.', lower_bound=1, flag_values=FLAGS)
_AVERAGE = 0.999


def batches(images: list[np.ndarray], batch: int, crop: int, seed: int) -> Iterator[np.ndarray]:
  """Endless u8[B, crop, crop, 3]: step i is a function of (seed, i) alone."""
  step = 0
  while True:
    rng = np.random.default_rng((seed, step))
    out = []
    for index in rng.integers(len(images), size=batch):
      image = images[index]
      top, left = (rng.integers(side - crop + 1) for side in image.shape[:2])
      patch = image[top : top + crop, left : left + crop]
      patch = patch[:, ::-1] if rng.random() < 0.5 else patch
      out.append(patch.transpose(1, 0, 2) if rng.random() < 0.5 else patch)
    yield np.stack(out)
    step += 1


def optimizer(lr: float, steps: int) -> optax.GradientTransformation:
  """Adam with a warm-up, cosine decay and clipped gradients."""
  warm = min(200, steps // 10)
  schedule = optax.warmup_cosine_decay_schedule(0.0, lr, warm, steps, 0.02 * lr)
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def make_step(codec: Codec, tx: optax.GradientTransformation) -> Callable:
  """Returns jitted `step(params, average, opt_state, images, key, count)`."""

  def loss(params, x, key):
    key_level, key_noise = jax.random.split(key)
    level = jax.random.randint(key_level, (x.shape[0],), 0, 256)
    assert codec.apply is not None
    coded = codec.apply(params, x, level, key_noise)
    return losses.rate_distortion(x, coded, quantization.lambda_of(level))

  def step(params, average, opt_state, images, key, count):
    grads, metrics = jax.grad(loss, has_aux=True)(params, images / 255.0, key)
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    decay = jnp.minimum(_AVERAGE, count / (count + 9))  # Forgets the start sooner.
    average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
    return params, average, opt_state, metrics

  return jax.jit(step, donate_argnums=(0, 1, 2))


def _start(path: str) -> Params:
  return unflatten(model_files.read(path)[0], 'params')


def train(values: flags.FlagValues) -> int:
  """Trains and writes weights as the flags say."""
  for name in ('method', 'data', 'output'):
    if not values[name].value:
      raise flags.Error(f'--{name} is missing')
  module = methods.method(values.method)
  if values.preset not in module.PRESETS:
    raise CodecError(f'no preset {values.preset!r}; there are: {", ".join(module.PRESETS)}')
  config = {**module.PRESETS[values.preset], **settings(values.set)}
  codec = module.codec(**config)
  paths = [path for folder in values.data for path in find_images(Path(folder))]
  images = [image for path in paths if min((image := load_image(path)).shape[:2]) >= values.crop]
  print(f'{len(images)} of {len(paths)} images hold a crop', file=sys.stderr)
  key = jax.random.key(values.seed)
  params = _start(values.start) if values.start else codec.init(key)
  average = jax.tree.map(jnp.copy, params)
  tx = optimizer(values.lr, values.steps)
  opt_state, step = tx.init(params), make_step(codec, tx)
  started, total = time.monotonic(), None
  stream = batches(images, values.batch, values.crop, values.seed)
  for i, batch in zip(range(1, values.steps + 1), stream, strict=False):
    params, average, opt_state, metrics = step(
      params, average, opt_state, batch, jax.random.fold_in(key, i), i
    )
    total = metrics if total is None else jax.tree.map(jnp.add, total, metrics)
    if i % 100 == 0 or i == values.steps:
      n = 100 if i % 100 == 0 else i % 100
      text = '  '.join(f'{name} {float(value) / n:.4f}' for name, value in sorted(total.items()))
      print(f'step {i}  {text}  {(time.monotonic() - started) / i:.3f} s/step', flush=True)
      total = None
    if i % values.save_every == 0 or i == values.steps:
      weights = flatten(average, 'params')
      about = {'method': values.method, 'options': config}
      model_files.write(values.output, weights, about, overwrite=True)
  return 0


def main(argv: list[str] | None = None) -> int:
  """Returns the exit status."""
  arguments = list(sys.argv if argv is None else argv)
  FLAGS(arguments)
  return guarded('train', lambda: train(FLAGS))


if __name__ == '__main__':
  raise SystemExit(main())
