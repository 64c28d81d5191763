"""Calls of the command line that train."""

SMALL = ['--method=cae', '--set=widths=(4,8,8)', '--set=linear=True', '--batch=4', '--crop=64']
OFTEN = ['--log_every=2', '--save_every=4', '--noevaluate']


def arguments(photos, folder, *more, steps=8):
  """A short training on the images in `photos`; later flags take the place of earlier ones."""
  common = ['run.py', '--mode=train', f'--data={photos}', f'--val={photos}', f'--workdir={folder}']
  usual = [*common, f'--steps={steps}', *SMALL, *OFTEN]
  changed = {flag.partition('=')[0] for flag in more} - {'--set'}
  return [flag for flag in usual if flag.partition('=')[0] not in changed] + list(more)
