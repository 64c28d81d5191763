"""How time and memory of the learned methods grow with the image, each size in its own process.

python -m experiments.bench codec --growth
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from compress_jax.cli import comparison
from compress_jax.codec import CodecError, Image
from compress_jax.images import sets
from compress_jax.model_zoo import pretrained
from compress_jax.runtime import allocation
from compress_jax.runtime.compilation_cache import enable_cache

SIZES = ((256, 256), (768, 512), (1024, 1024), (2048, 2048), (4096, 4096), (6000, 4000))


def table(methods: Sequence[str], lmbda: float) -> None:
  """Prints a line per method and size. Memory is the peak of the whole process.

  Raises:
    CodecError: a method could not be measured.
  """
  titles = ('image', 'bpp', 'encode s', 'decode s', 'us/pixel', 'peak MiB')
  print(f'{"":6}' + ''.join(f'{title:>12}' for title in titles))
  for method in methods:
    label = named(method)[0]
    for width, height in SIZES:
      arguments = [method, str(width), str(height), str(lmbda)]
      command = [sys.executable, '-m', 'experiments.bench_growth', *arguments]
      done = subprocess.run(command, capture_output=True, text=True)
      if done.returncode:
        reasons = done.stderr.strip().splitlines() or [f'ended with status {done.returncode}']
        raise CodecError(f'{label} at {width}x{height}: {reasons[-1]}')
      row = json.loads(done.stdout.strip().splitlines()[-1])
      each = 1e6 * (row['encode'] + row['decode']) / (width * height)
      print(
        f'{label:6}{f"{width}x{height}":>12}{row["bpp"]:12.3f}{row["encode"]:12.2f}'
        f'{row["decode"]:12.2f}{each:12.2f}{row["peak"]:12.0f}',
        flush=True,
      )


def named(codec: str) -> tuple[str, str, dict[str, Any]]:
  """Returns the label, the method and the options of a codec, such as LABEL=METHOD:MODEL.

  Raises:
    CodecError: there is no such codec, or the name is that of several.
  """
  found = comparison.variants(codec)
  if len(found) > 1:
    raise CodecError(f'{codec} has several codecs; name one of {", ".join(found)}')
  [(label, (method, options))] = found.items()
  return label, method, options


def photograph(width: int, height: int, path: str | None = None) -> Image:
  """An image, or a photograph at hand, repeated in mirrors and cropped to a size."""
  image = sets.load_image(path) if path else sets.sample_photographs()[0][1]
  around = [
    (0, max(want - have, 0)) for want, have in zip((height, width), image.shape, strict=False)
  ]
  return np.ascontiguousarray(np.pad(image, [*around, (0, 0)], 'symmetric')[:height, :width])


def main(codec_name: str, width: int, height: int, lmbda: float) -> None:
  """Codes one image and prints a line of JSON; the second run of small images is timed."""
  allocation.keep_freed_memory()
  enable_cache()
  image = photograph(width, height)
  _, method, options = named(codec_name)
  codec, released = pretrained(method, lmbda=lmbda, **options)
  if width * height < 2**21:
    codec.decode(released, codec.encode(released, image))
  start = time.perf_counter()
  file = codec.encode(released, image)
  middle = time.perf_counter()
  codec.decode(released, file)
  end = time.perf_counter()
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  row = {'encode': middle - start, 'decode': end - middle, 'peak': peak}
  print(json.dumps({**row, 'bpp': 8 * len(file) / (width * height)}))


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
