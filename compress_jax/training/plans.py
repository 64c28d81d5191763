"""What a training run does, as its folder remembers it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from compress_jax.codec import CodecError
from compress_jax.evaluation.journal import fingerprint
from compress_jax.files.atomic import write_atomically

FILE = 'plan.json'
_DIGESTS = 'digests'  # Of files that the plan names, and of the options of the method.
_KINDS = {int: 'a whole number', bool: 'True or False', float: 'a number'}


class Plan(NamedTuple):
  """All that decides the result of a run. It goes on only under the plan that it began with."""

  method: str
  options: dict[str, Any]  # Of the method's factory.
  stage: str  # A name in `stages.STAGES`.
  start: str | None  # Weights to begin with.
  lmbda: float | None  # None: every rate.
  distortion: str
  lpips: str | None  # Weights.
  data: list[str]
  seed: int
  steps: int
  batch: int
  crop: int
  lr: float
  precision: str  # Of activations.
  minutes: float | None  # After which training ends, whatever the step; None: `steps` decide.
  # What has a default is given by --set, beside the options of the method.
  channel_steps: int = 0  # From one channel of cae's latents to the next; 0: all are on.
  refit_prior: bool = False  # In the stage of scales.
  adversarial_weight: float = 64.0  # Relative to MSE, in the stage of that name; HiFiC's is 64.
  details: bool = False  # What the discriminator of that stage sees: see `methods.gan.networks`.


def take(options: dict[str, Any]) -> dict[str, Any]:
  """Those fields of a plan that are among `options`, which loses them.

  Raises:
    CodecError: one is not of its type, or negative.
  """
  found = {name: options.pop(name) for name in Plan._field_defaults if name in options}
  for name, value in found.items():
    wanted = type(Plan._field_defaults[name])
    if type(value) not in ((int, float) if wanted is float else (wanted,)) or value < 0:
      raise CodecError(f'{name}={value} must be {_KINDS[wanted]}')
  return found


def settle(folder: Path, plan: Plan, digests: Mapping[str, str] | None = None) -> bool:
  """Writes the plan into a run's folder; True if it is there already.

  Args:
    folder: of the run.
    plan: of the command.
    digests: of the files that the plan names, by field. A file that has them under another name
      is the same file.

  Raises:
    CodecError: the run there has another plan.
  """
  path, digests = folder / FILE, digests or {}
  wanted = json.loads(json.dumps(plan._asdict()))
  if not path.exists():
    folder.mkdir(parents=True, exist_ok=True)
    whole = {**wanted, _DIGESTS: {**digests, 'options': fingerprint(wanted['options'])}}
    write_atomically(path, json.dumps(whole, indent=2).encode() + b'\n')
    return False
  found, began = read(folder)._asdict(), began_with(folder)
  for name, value in wanted.items():
    moved = name in digests and digests[name] == began.get(name)
    if found[name] != value and not moved:
      raise CodecError(
        f'{folder} holds a run with {name} {found[name]}, not {value}: use the flags it began '
        f'with, or another --workdir'
      )
  return True


def read(folder: Path) -> Plan:
  """The plan of a run.

  Raises:
    CodecError: there is none.
  """
  found = _load(folder)
  digests = found.pop(_DIGESTS, {})
  try:
    plan = Plan(**{'minutes': None, **found})
  except TypeError as error:
    raise _no_run(folder, error) from error
  if digests.get('options') not in (None, fingerprint(plan.options)):
    raise CodecError(f'{folder / FILE}: its options are not those that the run began with')
  return plan


def began_with(folder: Path) -> dict[str, str]:
  """Digests of the files that a run began with, by field; none of a run from before there were any.

  Raises:
    CodecError: there is no run.
  """
  found: dict[str, str] = _load(folder).get(_DIGESTS, {})
  return found


def check(folder: Path, name: str, value: str | None, digest: str | None) -> None:
  """Refuses a file that is not the one that a run began with.

  Args:
    folder: of the run.
    name: the field of the plan that names the file.
    value: that name.
    digest: of the file; None if it is not there.
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
    found = json.loads((folder / FILE).read_text())
    if not isinstance(found, dict) or not isinstance(found.get(_DIGESTS, {}), dict):
      raise ValueError('it holds no plan')
  except (OSError, ValueError) as error:
    raise _no_run(folder, error) from error
  return found


def _no_run(folder: Path, error: Exception) -> CodecError:
  return CodecError(f'{folder} is not the folder of a training run ({error})')
