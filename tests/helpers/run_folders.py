"""The plan of a run, and what is done to its folder."""

import os

from compress_jax.training import plans

PLAN = plans.Plan(
  method='cae',
  options={'widths': (4, 8, 8)},
  stage='rate-distortion',
  start=None,
  lmbda=None,
  distortion='mse',
  lpips=None,
  data=['photos'],
  seed=0,
  steps=10,
  batch=4,
  crop=64,
  lr=1e-3,
  precision='float32',
  minutes=None,
)


def damage(folder, step):
  """Cuts the largest file of a step in half."""
  files = [path for path in (folder / str(step)).rglob('*') if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  os.truncate(largest, largest.stat().st_size // 2)


def contents(folder):
  """All files below a folder."""
  files = sorted(path for path in folder.rglob('*') if path.is_file())
  return {str(path.relative_to(folder)): path.read_bytes() for path in files}
