"""The plan of a training run, which its folder records."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from compress_jax.codec import CodecError
from compress_jax.evaluation.journal import fingerprint
from compress_jax.files.atomic import write_atomically
from compress_jax.training import level_draws

FILE = 'plan.json'
_DIGESTS = 'digests'  # Digests of the files that the plan names, and of the method's options.
_KINDS = {int: 'a whole number', bool: 'True or False', float: 'a number'}


class Plan(NamedTuple):
  """The settings that decide the result of a run; it continues only under the same plan."""

  method: str
  options: dict[str, Any]  # Keyword arguments of the method's factory.
  stage: str  # A name in `stages.STAGES`.
  start: str | None  # File of the initial weights.
  lmbda: float | None  # None trains for every rate.
  distortion: str  # A name in `stages.DISTORTIONS`.
  lpips: str | None  # File of LPIPS's weights.
  data: list[str]
  seed: int
  steps: int
  batch: int
  crop: int
  lr: float
  precision: str  # Type of activations.
  minutes: float | None  # Time after which training ends, whatever the step; None sets no limit.
  # The fields in `SET` are set by --set, like the options of the method.
  channel_steps: int = 0  # Steps until cae's next channel is enabled; 0 enables all at once.
  refit_prior: bool = False  # In the stage scales: whether the prior learns too.
  adversarial_weight: float = 64.0  # In the stage adversarial: weight relative to MSE.
  coarse_weight: float = 0.0  # In the stage adversarial: weight of the error of 4x4 means.
  details: bool = False  # In the stage adversarial: see `methods.gan.networks.Discriminator`.
  balanced: bool = False  # In the stage rate-distortion: gradients weighted as `balance` does.
  level_draw: str = level_draws.EVEN  # A name in `level_draws.KINDS`.
  turns: bool = False  # This and the next two: see `feeding.Augmentation`.
  sharp_scales: bool = False
  hard_images: bool = False
  least_side: int = 0  # Images with a side below this are left out, like those below the crop.
  # The distance that the weights in `lpips` compute: 'lpips' or 'wasserstein'.
  perceptual: str = 'lpips'
  learns: str = 'generator'  # In the stage adversarial: the part of the codec, or 'all'.
  updates: str = 'once'  # In the stage adversarial: 'once' or 'alternate', see docs/methods/gan.md.
  target_rate: float | None = None  # Bits per pixel; None leaves the rate to lambda.


SET = (
  'channel_steps',
  'refit_prior',
  'adversarial_weight',
  'coarse_weight',
  'details',
  'balanced',
  'level_draw',
  'turns',
  'sharp_scales',
  'hard_images',
  'least_side',
)
_CHOICES = {'level_draw': level_draws.KINDS}  # Values of fields that are names.


def pop_fields(options: dict[str, Any]) -> dict[str, Any]:
  """Removes the fields of a plan from `options` and returns them.

  Raises:
    CodecError: a value is not of its type, negative or an unknown name.
  """
  fields = {name: options.pop(name) for name in SET if name in options}
  for name, value in fields.items():
    wanted = type(Plan._field_defaults[name])
    if name in _CHOICES:
      if value not in _CHOICES[name]:
        raise CodecError(f'{name}={value} is not one of {", ".join(_CHOICES[name])}')
    elif type(value) not in ((int, float) if wanted is float else (wanted,)) or value < 0:
      raise CodecError(f'{name}={value} must be {_KINDS[wanted]}')
  return fields


def record(folder: Path, plan: Plan, digests: Mapping[str, str] | None = None) -> bool:
  """Records the plan in a run's folder; returns whether it was there already.

  Args:
    folder: the folder of the run.
    plan: the plan of the command.
    digests: digests of the files that the plan names, by field. A file of the same digest under
      another name counts as the same file.

  Raises:
    CodecError: the folder holds a run of another plan.
  """
  path, digests = folder / FILE, digests or {}
  wanted = json.loads(json.dumps(plan._asdict()))
  if not path.exists():
    folder.mkdir(parents=True, exist_ok=True)
    recorded = {**wanted, _DIGESTS: {**digests, 'options': fingerprint(wanted['options'])}}
    write_atomically(path, json.dumps(recorded, indent=2).encode() + b'\n')
    return False
  previous, began = read(folder)._asdict(), began_with(folder)
  for name, value in wanted.items():
    moved = name in digests and digests[name] == began.get(name)
    if previous[name] != value and not moved:
      raise CodecError(
        f'{folder} holds a run with {name} {previous[name]}, not {value}: use the flags it began '
        f'with, or another --workdir'
      )
  return True


def read(folder: Path) -> Plan:
  """Reads the plan of a run.

  Raises:
    CodecError: there is none.
  """
  fields = _load(folder)
  digests = fields.pop(_DIGESTS, {})
  try:
    plan = Plan(**{'minutes': None, **fields})
  except TypeError as error:
    raise _no_run(folder, error) from error
  if digests.get('options') not in (None, fingerprint(plan.options)):
    raise CodecError(f'{folder / FILE}: its options are not those that the run began with')
  return plan


def began_with(folder: Path) -> dict[str, str]:
  """Returns digests of the files that a run began with, by field; empty in folders of old runs.

  Raises:
    CodecError: there is no run.
  """
  digests: dict[str, str] = _load(folder).get(_DIGESTS, {})
  return digests


def check(folder: Path, name: str, value: str | None, digest: str | None) -> None:
  """Raises CodecError for a file that is not the one that a run began with.

  Args:
    folder: the folder of the run.
    name: the field of the plan that names the file.
    value: the file's name.
    digest: the file's digest; None if it does not exist.
  """
  began = began_with(folder).get(name)
  if began not in (None, digest):
    now = 'is not there any more' if digest is None else f'has changed (SHA-256 {digest[:12]}...)'
    raise CodecError(
      f'--{name}={value} {now} since the run in {folder} began (SHA-256 {began[:12]}...), which '
      f'needs it to go on: put the file back, or begin anew in another --workdir'
    )


def _load(folder: Path) -> dict[str, Any]:
  try:
    fields = json.loads((folder / FILE).read_text())
    if not isinstance(fields, dict) or not isinstance(fields.get(_DIGESTS, {}), dict):
      raise ValueError('it holds no plan')
  except (OSError, ValueError) as error:
    raise _no_run(folder, error) from error
  return fields


def _no_run(folder: Path, error: Exception) -> CodecError:
  return CodecError(f'{folder} is not the folder of a training run ({error})')
