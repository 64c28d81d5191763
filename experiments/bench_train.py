"""Images per second and model-FLOP/s of a training step, also beside CompressAI.

  python -m experiments.bench train                                  # each method's step
  python -m experiments.bench train --peer=compressai --peer_python=PEER/bin/python

A step is what `run.py --mode=train` dispatches: loss, gradients, clipping, Adam, the average,
the guard against NaNs. FLOPs are those the compiler counts for the loss and its gradients alone,
so what is recomputed or moved counts as nothing; --peak gives the device's peak for a ratio.

With --peer, gmm at N=128 with attention and one Gaussian runs beside CompressAI's
cheng2020-attn: its forward pass, backward pass, clipping and Adam (both of its optimizers), on
the same number of crops and cores, in turns of a few steps.
"""

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from compress_jax import methods
from compress_jax.cli.command import guarded, parse, settings
from compress_jax.cli.flag_types import define_path, define_positive
from compress_jax.codec import CodecError
from compress_jax.runtime import allocation
from compress_jax.runtime.compilation_cache import enable_cache
from compress_jax.training import objectives, trainer

_TURN = 4  # Steps in a row, the first not counted: it finds cold caches and waking cores.
LEARNED = ('cae', 'gmm', 'gan')
# One of the peer's steps: times in seconds, a line of JSON each, for as many lines as it reads.
PEER = """
import json, sys, time, torch
from compressai.losses import RateDistortionLoss
from compressai.models import Cheng2020Attention
threads, batch, crop = map(int, sys.argv[1:])
torch.set_num_threads(threads)
net = Cheng2020Attention(N=128).train()
main = [p for n, p in net.named_parameters() if not n.endswith('.quantiles')]
tails = [p for n, p in net.named_parameters() if n.endswith('.quantiles')]
optimizer, second = torch.optim.Adam(main, 1e-4), torch.optim.Adam(tails, 1e-3)
criterion, x = RateDistortionLoss(lmbda=0.01), torch.rand(batch, 3, crop, crop)
for _ in sys.stdin:
  start = time.perf_counter()
  optimizer.zero_grad(); second.zero_grad()
  criterion(net(x), x)['loss'].backward()
  torch.nn.utils.clip_grad_norm_(main, 1.0)
  optimizer.step(); net.aux_loss().backward(); second.step()
  print(json.dumps(time.perf_counter() - start), flush=True)
"""


def define_flags() -> flags.FlagValues:
  """The flags, in a registry of their own."""
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  flags.DEFINE_list('methods', list(LEARNED), 'Of these.', **here)
  flags.DEFINE_string('preset', 'tiny', 'A size of the methods.', **here)
  flags.DEFINE_multi_string('set', [], 'An option of the methods, as key=value.', **here)
  flags.DEFINE_integer('batch', 8, 'Crops per step.', 1, **here)
  flags.DEFINE_integer('crop', 128, 'Pixels of their sides.', 64, **here)
  flags.DEFINE_enum(
    'precision', 'float32', ('float32', 'bfloat16'), 'Number format of activations.', **here
  )
  flags.DEFINE_integer('inner', 1, 'Steps per dispatch.', 1, **here)
  flags.DEFINE_integer('repeats', 5, 'Timed dispatches.', 1, **here)
  define_positive('peak', None, 'TFLOP/s that the device can do.', **here)
  flags.DEFINE_enum('peer', None, ('compressai',), 'Measure beside this codec.', **here)
  define_path('peer_python', None, 'The Python that has the peer.', **here)
  flags.DEFINE_integer('threads', 2, 'Of the peer.', 1, **here)
  flags.DEFINE_bool('help', False, 'Show this.', short_name='h', **here)
  return values


def stepper(
  method: str, options: dict[str, Any], *, batch: int, crop: int, precision: str, inner: int
) -> tuple[Callable[[], float], float]:
  """A function that makes one dispatch and tells its seconds, and the FLOPs of an update."""
  codec = methods.method(method).codec(**options)
  loss = objectives.rate_distortion(codec.apply, compute_dtype=jnp.dtype(precision))
  params = codec.init(jax.random.key(0))
  optimizer = trainer.adam(1e-4)
  step = trainer.make_train_step(loss, optimizer, seed=0, inner=inner)
  state = [trainer.replicated(trainer.start(params, {}, optimizer, 1000))]
  devices = jax.local_device_count()
  each = trainer.shares(batch, 1, devices)
  shape = (devices, inner, each, crop, crop, 3)
  data = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
  index = np.arange(batch, dtype=np.int32).reshape(devices, each)

  def dispatch() -> float:
    start = time.perf_counter()
    state[0], _ = jax.block_until_ready(step(state[0], data, index))
    return time.perf_counter() - start

  grads = jax.jit(jax.grad(lambda p, x, k: loss(p, {}, x, k, jnp.zeros((), int))[0]))
  x = jnp.zeros((batch, crop, crop, 3))
  cost: Any = grads.lower(params, x, jax.random.split(jax.random.key(0), batch)).cost_analysis()
  return dispatch, float(cost['flops'])


def table(values: flags.FlagValues) -> None:
  """A line per method."""
  print(f'{"":6}{"s/step":>9}{"images/s":>10}{"GFLOP/step":>12}{"GFLOP/s":>10}{"of peak":>9}')
  for method in values.methods:
    options = {**methods.method(method).preset(values.preset).options, **settings(values.set)}
    dispatch, flops = stepper(
      method,
      options,
      batch=values.batch,
      crop=values.crop,
      precision=values.precision,
      inner=values.inner,
    )
    dispatch()
    seconds = statistics.median(dispatch() for _ in range(values.repeats)) / values.inner
    share = f'{flops / seconds / values.peak / 1e12:9.1%}' if values.peak else f'{"-":>9}'
    print(
      f'{method:6}{seconds:9.3f}{values.batch / seconds:10.1f}{flops / 1e9:12.1f}'
      f'{flops / seconds / 1e9:10.1f}{share}',
      flush=True,
    )


def beside(values: flags.FlagValues) -> None:
  """Ours and the peer's step in turns."""
  options = {'channels': 128, 'mixtures': 1}
  size = {'batch': values.batch, 'crop': values.crop}
  dispatch, _ = stepper('gmm', options, **size, precision=values.precision, inner=1)
  arguments = [str(n) for n in (values.threads, values.batch, values.crop)]
  command = [values.peer_python, '-c', PEER, *arguments]
  with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
    assert peer.stdin and peer.stdout

    def theirs() -> float:
      assert peer.stdin and peer.stdout
      peer.stdin.write('\n')
      peer.stdin.flush()
      line = peer.stdout.readline()
      if not line:
        raise CodecError('the peer ended; its own words are above')
      return float(json.loads(line))

    def turn(step: Callable[[], float]) -> float:
      return statistics.median([step() for _ in range(_TURN)][1:])

    dispatch(), theirs()  # Compiles.
    pairs = [(turn(dispatch), turn(theirs)) for _ in range(values.repeats)]
    peer.stdin.close()
  ours, other = (statistics.median(column) for column in zip(*pairs, strict=True))
  print(f'gmm N=128 with attention, {values.batch} crops of {values.crop}x{values.crop}')
  print(f'ours {ours:.3f} s, CompressAI {other:.3f} s: {other / ours:.2f} times as fast')


def run(values: flags.FlagValues) -> int:
  """Prints what was asked for."""
  allocation.keep_freed_memory()
  enable_cache()
  if not values.peer:
    table(values)
  elif not values.peer_python:
    raise flags.Error('--peer needs --peer_python; experiments/bench_codec_peer.py makes one')
  else:
    beside(values)
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit status."""
  return guarded('bench train', lambda: run(parse(define_flags(), __doc__, argv)))
