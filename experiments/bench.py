"""Benchmarks: python -m experiments.bench COMMAND [--flags], or COMMAND --help.

kmeans   time and memory to equal inertia beside scikit-learn and faiss
codec    encoding and decoding of the learned methods, also beside CompressAI
train    training steps of the learned methods, also beside CompressAI
data     images per second of each input pipeline
"""

import sys
from collections.abc import Callable, Sequence

from absl import flags

from compress_jax.cli.command import guarded
from experiments import bench_codec, bench_data, bench_kmeans, bench_train

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
  'kmeans': bench_kmeans.main,
  'codec': bench_codec.main,
  'train': bench_train.main,
  'data': bench_data.main,
}


def run(argv: Sequence[str]) -> int:
  """Hands the flags to the command named first."""
  name = argv[1] if len(argv) > 1 else '--help'
  if name in ('--help', '-h'):
    print(__doc__)
    return 0
  if name not in COMMANDS:
    raise flags.Error(f'no command {name!r}: choose from {", ".join(COMMANDS)}')
  return COMMANDS[name]([f'{argv[0]} {name}', *argv[2:]])


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one benchmark; returns the exit status."""
  arguments = list(sys.argv if argv is None else argv)
  return guarded('bench', lambda: run(arguments))


if __name__ == '__main__':
  raise SystemExit(main())
