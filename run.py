"""The command line without installing: `python run.py --method=kmeans`."""

import sys

from compress_jax.cli.main import main

if __name__ == '__main__':
  sys.exit(main())
