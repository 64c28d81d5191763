"""The studies of `experiments.sweep`: the models that each compares, which differ in one thing.

ladder: a model for each lambda. rates: one model of every rate against those.
mixtures: gmm with 1 and 3 Gaussians. attention: none, two modules, or all four.
context: the serial context against that of channels.
crop: crops of twice the side, with as many pixels in a step or with as many crops.
levels: how a batch draws its levels.
shortcuts: the linear path, wavelet shortcuts beside it, and these alone.
balanced: rate and distortion weighted equally in all steps, or anew in each.
augment: the usual crops against crops in all orientations, crops limited by sharpness, and images
drawn by hardness.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from compress_jax import methods
from compress_jax.cli.command import settings
from compress_jax.training import level_draws, plans

STUDIES = (
  'ladder',
  'rates',
  'mixtures',
  'attention',
  'context',
  'crop',
  'levels',
  'augment',
  'balanced',
  'shortcuts',
)
FLAGS = ('batch', 'crop')  # Flags that a study may vary; all else that it varies is set by --set.


class Arm(NamedTuple):
  """One of the variants that a study compares."""

  label: str  # Name of its curve, which models of one rate share.
  varied: Mapping[str, Any]  # Options of method and training, and flags, that make it what it is.
  lambdas: tuple[float, ...]  # Operating points; that of the training for a model of one rate.


class Run(NamedTuple):
  """A model to train, and where to measure it."""

  name: str  # Name of its folder.
  label: str  # Name of its curve.
  varied: Mapping[str, Any]  # The part of the arm's `varied` in which it differs from the base.
  lambdas: tuple[float, ...]  # As of the arm.
  seed: int


def base_of(values: flags.FlagValues) -> dict[str, Any]:
  """The options of method and training, and the flags, of a run without anything varied.

  Raises:
    flags.Error: --set is not of the form key=value.
  """
  method = methods.method(values.method)
  preset = method.preset(values.preset)
  parameters = inspect.signature(method.codec).parameters.values()
  base = {parameter.name: parameter.default for parameter in parameters}
  base |= {name: plans.Plan._field_defaults[name] for name in plans.SET}
  base |= {name: values[name].value or getattr(preset, name) for name in FLAGS}
  base |= {**preset.options, **settings(values.set)}
  if base.get('attention') is True:  # By the name that says which modules these are.
    base['attention'] = 'all' if base['latents'] in (None, base['channels']) else 'inner'
  return base


def arms_of(study: str, lambdas: tuple[float, ...], base: Mapping[str, Any]) -> list[Arm]:
  """The arms of a study; the first curve is what the others are compared with.

  Raises:
    flags.Error: the base has no such study.
  """

  def arms(**varied: Mapping[str, Any]) -> list[Arm]:
    return [Arm(label.replace('_', '-'), options, lambdas) for label, options in varied.items()]

  if study in ('ladder', 'rates'):
    fixed = [Arm('fixed-rates', {'levels': 1}, (lmbda,)) for lmbda in lambdas]
    return fixed if study == 'ladder' else [*fixed, *arms(every_rate={'levels': base['levels']})]
  if study == 'mixtures':
    return arms(mixtures_1={'mixtures': 1}, mixtures_3={'mixtures': 3})
  if study == 'attention':
    return arms(
      no_attention={'attention': False},
      two_modules={'attention': 'inner'},
      four_modules={'attention': 'all'},
    )
  if study == 'context':
    return arms(serial={'context': 'serial'}, channels={'context': 'channels'})
  if study == 'levels':
    return arms(**{f'levels_{kind}': {'level_draw': kind} for kind in level_draws.KINDS})
  if study == 'augment':
    ways = 'turns', 'sharp_scales', 'hard_images'
    return arms(usual_crops=dict.fromkeys(ways, False), **{way: {way: True} for way in ways})
  if study == 'balanced':
    return arms(equal_weights={'balanced': False}, balanced={'balanced': True})
  if study == 'shortcuts':
    alone = {'linear': False, 'restoration': 0, 'centred': False, 'shortcuts': True}
    return arms(linear_path={'shortcuts': False}, both={'shortcuts': True}, shortcuts=alone)
  assert study == 'crop'
  return _crops(base['crop'], base['batch'], lambdas)


def _crops(crop: int, batch: int, lambdas: tuple[float, ...]) -> list[Arm]:
  """The arms of the study of crops: all of them draw from the images that hold the larger crops."""
  if batch % 4:
    raise flags.Error(f'--study=crop needs a --batch of a multiple of 4, not {batch}')
  kinds = (crop, batch), (2 * crop, batch // 4), (2 * crop, batch)
  return [
    Arm(f'{side}-by-{count}', {'crop': side, 'batch': count, 'least_side': 2 * crop}, lambdas)
    for side, count in kinds
  ]


def runs_of(arms: Sequence[Arm], seeds: Sequence[int], base: Mapping[str, Any]) -> list[Run]:
  """The runs of a study: each arm with each seed.

  An arm that equals the base is named `base`, so that studies share its runs.
  """
  runs = []
  for arm in arms:
    varied = {name: value for name, value in arm.varied.items() if base.get(name) != value}
    name = f'fixed-{arm.lambdas[0]:g}' if 'levels' in varied else arm.label
    for seed in seeds:
      label = arm.label if len(seeds) == 1 else f'{arm.label}-seed{seed}'
      folder = f'{name if varied else "base"}-seed{seed}'
      runs.append(Run(folder, label, varied, arm.lambdas, seed))
  return runs
