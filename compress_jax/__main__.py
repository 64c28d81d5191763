"""The command line as `python -m compress_jax`."""

import sys

from compress_jax.cli.main import main

if __name__ == '__main__':
  sys.exit(main())
