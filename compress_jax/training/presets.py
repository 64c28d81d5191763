"""How each preset of a learned method is trained."""

from typing import NamedTuple

from compress_jax.codec import CodecError


class Recipe(NamedTuple):
  """What a run does where no flag says otherwise."""

  steps: int
  batch: int  # Crops per step, over all devices of all processes.
  crop: int  # Pixels of a crop's side.
  lr: float  # At the peak of the schedule.


RECIPES: dict[str, dict[str, Recipe]] = {
  'cae': {
    'tiny': Recipe(7_000, 4, 128, 1e-3),
    'small': Recipe(60_000, 8, 128, 5e-4),
    'paper': Recipe(300_000, 32, 128, 1e-4),  # Theis et al. (2017), section 4: 32 crops of 128.
  },
  'gmm': {
    'tiny': Recipe(11_000, 4, 128, 5e-4),
    'small': Recipe(100_000, 8, 192, 5e-4),
    'paper': Recipe(1_000_000, 8, 256, 1e-4),  # Cheng et al. (2020), section 4.1.
    'large': Recipe(1_000_000, 8, 256, 1e-4),
  },
  'gan': {
    'tiny': Recipe(10_000, 8, 128, 5e-4),
    'small': Recipe(100_000, 8, 192, 3e-4),
    'base': Recipe(500_000, 8, 256, 1e-4),
    'paper': Recipe(1_000_000, 8, 256, 1e-4),  # Mentzer et al. (2020), for each of two stages.
  },
}


def recipe(method: str, preset: str) -> Recipe:
  """The recipe of a preset.

  Raises:
    CodecError: there is none of that name.
  """
  found = RECIPES.get(method, {})
  if preset not in found:
    raise CodecError(f'{method} has no preset {preset!r}; there are: {", ".join(found)}')
  return found[preset]
