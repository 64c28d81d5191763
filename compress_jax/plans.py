"""What a training run does, as its folder remembers it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from compress_jax.codec import CodecError
from compress_jax.writing import write_atomically

FILE = 'plan.json'
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
  details: bool = False  # What the discriminator of that stage sees: see `models.gan`.


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


def settle(folder: Path, plan: Plan) -> bool:
  """Writes the plan into a run's folder; True if it is there already.

  Raises:
    CodecError: the run there has another plan.
  """
  path = folder / FILE
  wanted = json.loads(json.dumps(plan._asdict()))
  if not path.exists():
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(wanted, indent=2).encode() + b'\n')
    return False
  found = read(folder)._asdict()
  for name, value in wanted.items():
    if found[name] != value:
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
  try:
    return Plan(**{'minutes': None, **json.loads((folder / FILE).read_text())})
  except (OSError, ValueError, TypeError) as error:
    raise CodecError(f'{folder} is not the folder of a training run ({error})') from error
