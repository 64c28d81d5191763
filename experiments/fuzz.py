"""Damaged files must be refused with CodecError or decode to an image: nothing else may happen.

  python -m experiments.fuzz --method=gmm [--model=model.safetensors] [--mutants=100000] [--seed=0]

Mutants of small files at three rates; in every second one, lengths and checksum are mended, so
that the damage reaches the decoder. Prints how many were refused, the slowest and the peak
memory; the exit status is 1 if anything went wrong, and the mutants that did are printed.
"""

import resource
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from compress_jax import bitstream
from compress_jax.cli.command import guarded, parse
from compress_jax.cli.flag_types import define_path
from compress_jax.codec import Codec, CodecError, Released
from compress_jax.images import sets
from compress_jax.model_zoo import lambda_range, pretrained

_SIZE = 24, 40  # Pixels of the images behind the files.
_SHOWN = 5  # Mutants that went wrong.


class Outcome(NamedTuple):
  """What became of a file."""

  kind: str  # 'refused', 'accepted' or 'failed'.
  message: str
  seconds: float  # Processor time of reading what the file holds, without synthesis.


def mutated(file: bytes, rng: np.random.Generator) -> bytes:
  """One to four of: a flipped bit, another byte, a byte more, a byte less, a part copied."""
  out = bytearray(file)
  for _ in range(rng.integers(1, 5)):
    at = int(rng.integers(len(out)))
    kind = rng.integers(5)
    if kind == 0:
      out[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
      out[at] = int(rng.integers(256))
    elif kind == 2:
      out.insert(at, int(rng.integers(256)))
    elif kind == 3 and len(out) > 1:
      del out[at]
    else:
      source = int(rng.integers(len(out)))
      out[at : at + 4] = out[source : source + 4]
  return bytes(out)


def with_checksum(file: bytes) -> bytes:
  """The file with lengths and CRC-32 mended, so that damage reaches the decoder."""
  body = bytearray(file[:-4])
  try:
    at = bitstream.read_varint(file, bitstream.read_varint(file, 8)[1])[1] + 1
    end = bitstream.read_varint(file, at)[1]
    body[at:end] = bitstream.varint(max(len(body) - end, 0))
  except CodecError:
    pass
  return bytes(body) + zlib.crc32(body).to_bytes(4, 'little')


def outcome(codec: Codec, released: Released, file: bytes) -> Outcome:
  """Decodes a file; whatever is raised is caught."""
  start = time.process_time()
  seconds = None
  try:
    codec.split(released, file)
    seconds = time.process_time() - start
    image = codec.decode(released, file)
    header = bitstream.unpack(file)[0]
    sound = image.shape == (header.height, header.width, 3) and image.dtype == np.uint8
    kind, message = ('accepted', '') if sound else ('failed', f'gave {image.dtype}{image.shape}')
  except CodecError as error:
    message = str(error)
    kind = 'failed' if '\n' in message or seconds is not None else 'refused'
  except Exception as error:
    kind, message = 'failed', f'{type(error).__name__}: {error}'
  return Outcome(kind, message, time.process_time() - start if seconds is None else seconds)


def mutants(files: Sequence[bytes], n: int, seed: int) -> Iterator[bytes]:
  """Every second one with its checksum mended."""
  rng = np.random.default_rng(seed)
  for i in range(n):
    file = mutated(files[i // 2 % len(files)], rng)
    yield with_checksum(file) if i % 2 else file


def _files(method: str, options: dict[str, str]) -> list[bytes]:
  """Parts of photographs at low, medium and high rate."""
  low, high = lambda_range(method)
  files = []
  for i, (_, photograph) in enumerate(sets.sample_photographs()):
    codec, released = pretrained(method, lmbda=(low, (low * high) ** 0.5, high)[i % 3], **options)
    files.append(codec.encode(released, sets.centre_crop(photograph)[: _SIZE[0], : _SIZE[1]]))
  return files


def fuzz(values: flags.FlagValues) -> int:
  """Runs the mutants that the flags ask for; returns the exit status."""
  if not values.method:
    raise flags.Error('--method is missing')
  options = {'model': values.model} if values.model else {}
  files = _files(values.method, options)
  codec, released = pretrained(values.method, **options)
  counts: Counter[str] = Counter()
  slowest = 0.0
  for file in mutants(files, values.mutants, values.seed):
    found = outcome(codec, released, file)
    counts[found.kind] += 1
    slowest = max(slowest, found.seconds)
    if found.kind == 'failed' and counts['failed'] <= _SHOWN:
      print(f'failed: {found.message.splitlines()[0]}\n  {file.hex()}', flush=True)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  print(
    f'{values.method}: {counts["refused"]} refused, {counts["accepted"]} accepted, '
    f'{counts["failed"]} failed; slowest {slowest:.3f} s, peak memory {peak:.0f} MiB'
  )
  return int(counts['failed'] > 0)


def define_flags() -> flags.FlagValues:
  """The flags of the fuzzer."""
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  flags.DEFINE_string('method', None, 'cae, gan, gmm or kmeans.', **here)
  define_path('model', None, 'A model file in place of ours.', **here)
  flags.DEFINE_integer('mutants', 100_000, 'How many.', lower_bound=1, **here)
  flags.DEFINE_integer('seed', 0, 'Of the damage.', 0, **here)
  flags.DEFINE_bool('help', False, 'Show this help.', short_name='h', **here)
  return values


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit status."""
  return guarded('fuzz', lambda: fuzz(parse(define_flags(), __doc__, argv)))


if __name__ == '__main__':
  sys.exit(main())
