"""Whole `encode(image) -> bytes` and `decode(bytes) -> image` of the learned methods.

  python -m experiments.bench codec                          # the models that are shipped
  python -m experiments.bench codec --preset=paper           # other sizes, as training starts
  python -m experiments.bench codec --peer=compressai --peer_python=PEER/bin/python

Times are medians in a warm process, split into the float transforms, the integer networks that
predict probabilities, and the rest: tables, range coder, arrays. `decode/synthesis` is what
decoding takes in units of its float transform. Models of a --preset start from the linear path, so
that their files are those of transform coding and not empty.

With --peer, gmm runs beside CompressAI's cheng2020-attn on the same image, cores and weights:
random ones, which the peer scales so that its file has --bpp, and which `interop.compressai`
converts. Our mixture has --mixtures equal components, so it costs what a mixture costs and
predicts what the one Gaussian does. Files of other sizes prove nothing: below 0.5 bpp, or where
bits or non-zero symbols differ by more than 10 %, the comparison is refused.
experiments/bench_codec_peer.py says how to make the environment of the peer.
"""

import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from absl import flags

from compress_jax import methods
from compress_jax.cli.command import guarded, parse
from compress_jax.cli.flag_types import define_path, define_positive
from compress_jax.codec import Codec, CodecError, Image, Params, Released
from compress_jax.evaluation import metrics
from compress_jax.exact import hyper
from compress_jax.images import sets
from compress_jax.interop import compressai
from compress_jax.learned import tiles
from compress_jax.methods.gmm import channels_coding, serial_coding
from compress_jax.model_zoo import pretrained
from compress_jax.runtime import allocation
from compress_jax.runtime.compilation_cache import enable_cache
from experiments import bench_growth

LEARNED = ('cae', 'gmm', 'gan')
LEAST_BPP, WITHIN = 0.5, 0.1
# The functions in which the time of a stage is spent.
STAGES = {
  'transform': [(tiles, 'run_many')],
  'parameters': [
    *((serial_coding, name) for name in ('predict', 'see_step', 'predict_step')),
    (channels_coding, 'predict'),
    (hyper, 'features'),
  ],
}


class Timing(NamedTuple):
  """Medians in seconds."""

  whole: float
  transform: float
  parameters: float

  @property
  def rest(self) -> float:
    """Tables, range coder, arrays."""
    return self.whole - self.transform - self.parameters


class Measured(NamedTuple):
  """A codec on an image."""

  encode: Timing
  decode: Timing
  bpp: float
  nonzero: float  # Symbols of the latents that are not 0, per pixel.


@contextlib.contextmanager
def stopwatch(seconds: dict[str, float]) -> Iterator[None]:
  """Adds to `seconds` what is spent in each of STAGES."""
  with contextlib.ExitStack() as stack:
    for stage, places in STAGES.items():
      for module, name in places:
        stack.enter_context(mock.patch.object(module, name, _timed(module, name, stage, seconds)))
    yield


def _timed(module: Any, name: str, stage: str, seconds: dict[str, float]) -> Any:
  function = getattr(module, name)

  def wrapper(*args: Any, **kwargs: Any) -> Any:
    start = time.perf_counter()
    try:
      return function(*args, **kwargs)
    finally:
      seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start

  return wrapper


def timing(call: Any, repeats: int) -> Timing:
  """Medians of a call, after one to warm up."""
  call()
  runs = []
  for _ in range(repeats):
    seconds: dict[str, float] = {}
    with stopwatch(seconds):
      start = time.perf_counter()
      call()
      whole = time.perf_counter() - start
    runs.append((whole, *(seconds.get(stage, 0.0) for stage in STAGES)))
  return Timing(*(statistics.median(column) for column in zip(*runs, strict=True)))


def measure(codec: Codec, released: Released, image: Image, repeats: int) -> Measured:
  """Times a codec on one image."""
  file = codec.encode(released, image)
  q = codec.latents(released, file).q
  pixels = image.shape[0] * image.shape[1]
  return Measured(
    timing(lambda: codec.encode(released, image), repeats),
    timing(lambda: codec.decode(released, file), repeats),
    metrics.bpp(len(file), *image.shape[:2]),
    np.count_nonzero(q) / pixels,
  )


def with_mixtures(params: Params, channels: int, mixtures: int) -> Params:
  """The parameters of one Gaussian as those of K equal ones."""
  head = params['parameters']['conv2']

  def repeated(values: np.ndarray) -> np.ndarray:
    scales, means = values[..., :channels], values[..., channels:]
    parts = [scales] * mixtures + [means] * mixtures + [0 * means] * mixtures
    return np.concatenate(parts, -1)

  if mixtures == 1:
    return params
  changed = {name: repeated(np.asarray(values)) for name, values in head.items()}
  return {**params, 'parameters': {**params['parameters'], 'conv2': changed}}


def run_peer(python: str, image: Path, weights: Path, values: Any, channels: int) -> dict[str, Any]:
  """What the peer measured; its weights are in a file then.

  Raises:
    CodecError: it failed.
  """
  script = Path(__file__).with_name('bench_codec_peer.py')
  options = {'channels': channels, 'bpp': values.bpp, 'repeats': values.repeats}
  options |= {'threads': values.threads, 'save': weights}
  flags_ = [f'--{name}={value}' for name, value in options.items()]
  done = subprocess.run([python, script, image, *flags_], capture_output=True, text=True)
  if done.returncode:
    raise CodecError(f'the peer failed: {done.stderr.strip().splitlines()[-1:]}')
  return json.loads(done.stdout.strip().splitlines()[-1])


def compare(values: Any, image: Image, channels: int) -> None:
  """Prints one comparison.

  Raises:
    CodecError: the files are too different, or too small, to compare.
  """
  with tempfile.TemporaryDirectory() as folder:
    path, weights = Path(folder) / 'image.png', Path(folder) / 'weights.pth'
    sets.save_image(path, image)
    peer = run_peer(values.peer_python, path, weights, values, channels)
    params, found = compressai.read(weights)
  options = {**found, 'mixtures': values.mixtures}
  codec = methods.method('gmm').codec(**options)
  params = with_mixtures(params, channels, values.mixtures)
  released = codec.export(params, [image[:256, :256]])
  ours = measure(codec, released, image, values.repeats)
  print(
    f'\n{image.shape[1]}x{image.shape[0]}, N={channels}: ours {ours.bpp:.4f} bpp, '
    f'{ours.nonzero:.4f} non-zero symbols per pixel; '
    f'CompressAI {peer["bpp"]:.4f} and {peer["nonzero"]:.4f}'
  )
  for name, own, other in (
    ('bpp', ours.bpp, peer['bpp']),
    ('non-zero', ours.nonzero, peer['nonzero']),
  ):
    if abs(own / other - 1) > WITHIN:
      raise CodecError(f'{name} differs by more than {WITHIN:.0%}: not comparable')
  if min(ours.bpp, peer['bpp']) < LEAST_BPP:
    raise CodecError(f'less than {LEAST_BPP} bpp: near-empty files are not comparable')
  print(
    f'{"":8}{"ours":>8}{"transform":>11}{"parameters":>12}{"rest":>8}{"CompressAI":>12}{"ratio":>8}'
  )
  for name, timed in (('encode', ours.encode), ('decode', ours.decode)):
    ratio = peer[name] / timed.whole
    print(f'{name:8}{_columns(timed)}{peer[name]:12.3f}{ratio:8.2f}', flush=True)


def _columns(own: Timing) -> str:
  return f'{own.whole:8.3f}{own.transform:11.3f}{own.parameters:12.3f}{own.rest:8.3f}'


def alone(values: Any, image: Image) -> None:
  """Prints the times of models of ours on one image."""
  print(f'\n{image.shape[1]}x{image.shape[0]}, lambda {getattr(values, "lambda"):g}')
  print(
    f'{"":13}{"whole":>8}{"transform":>11}{"parameters":>12}{"rest":>8}{"decode/synthesis":>18}'
  )
  for method in values.methods:
    codec, released = _model(method, values.preset, getattr(values, 'lambda'))
    own = measure(codec, released, image, values.repeats)
    ratio = own.decode.whole / own.decode.transform
    label = bench_growth.named(method)[0]
    print(f'{label:5}encode  {_columns(own.encode)}   {own.bpp:.3f} bpp')
    print(f'{label:5}decode  {_columns(own.decode)}{ratio:18.2f}', flush=True)


@functools.cache
def _model(method: str, preset: str | None, lmbda: float) -> tuple[Codec, Released]:
  if preset is None:
    _, method, options = bench_growth.named(method)
    return pretrained(method, lmbda=lmbda, **options)
  found = methods.method(method)
  codec = found.codec(**{**found.preset(preset).options, 'linear': True}, lmbda=lmbda)
  params = jax.tree.map(np.asarray, jax.jit(codec.init)(jax.random.key(0)))
  return codec, codec.export(params, [bench_growth.photograph(256, 256)])


def define_flags() -> flags.FlagValues:
  """Of this command."""
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  flags.DEFINE_enum('peer', None, ('compressai',), 'Measure beside this codec.', **here)
  define_path('peer_python', None, 'The Python that has the peer.', **here)
  flags.DEFINE_list('methods', list(LEARNED), 'Of these; LABEL=METHOD:MODEL for others.', **here)
  flags.DEFINE_string('preset', None, 'A size of the methods, untrained.', **here)
  flags.DEFINE_list('sizes', ['256x256', '768x512'], 'WIDTHxHEIGHT, several.', **here)
  flags.DEFINE_list('channels', ['128', '192'], 'N beside the peer, several.', **here)
  flags.DEFINE_integer('mixtures', 3, 'Gaussians per symbol beside the peer.', 1, 3, **here)
  define_positive('bpp', 0.85, 'Bits per pixel beside the peer.', **here)
  flags.DEFINE_float('lambda', 0.013, 'Of models of ours.', **here)
  define_path('image', None, 'Cropped to the sizes; else a photograph at hand.', **here)
  flags.DEFINE_integer('repeats', 5, 'Timed runs.', lower_bound=1, **here)
  flags.DEFINE_integer('threads', os.cpu_count() or 1, 'Of the peer.', lower_bound=1, **here)
  flags.DEFINE_bool('growth', False, 'Time and memory over the size instead.', **here)
  flags.DEFINE_bool('help', False, 'Show this.', short_name='h', **here)
  return values


def run(values: Any) -> int:
  """Measures what the flags ask for."""
  if values.peer and not values.peer_python:
    raise flags.Error('--peer needs --peer_python')
  allocation.keep_freed_memory()
  enable_cache()
  load = os.getloadavg()[0]
  print(f'{os.cpu_count()} cores, load {load:.2f} at the start; medians of {values.repeats}')
  if values.growth:
    bench_growth.table(values.methods, getattr(values, 'lambda'))
    return 0
  sizes = [tuple(map(int, size.split('x'))) for size in values.sizes]
  for width, height in sizes:
    image = bench_growth.photograph(width, height, values.image)
    if not values.peer:
      alone(values, image)
    else:
      for channels in values.channels:
        compare(values, image, int(channels))
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit status."""
  arguments = list(sys.argv if argv is None else argv)
  return guarded('bench codec', lambda: run(parse(define_flags(), __doc__, arguments)))
