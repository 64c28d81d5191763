"""--mode=train of the command line for learned methods: from images to a model that codes files."""

import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from compress_jax import methods
from compress_jax.cli import evaluate
from compress_jax.cli.command import settings
from compress_jax.cli.processes import join
from compress_jax.codec import Codec, CodecError, Params
from compress_jax.files import models
from compress_jax.files.digests import digest
from compress_jax.images import sets, sources
from compress_jax.learned import lambdas
from compress_jax.learned.released import flatten, halve, to_arrays
from compress_jax.model_zoo import check_options
from compress_jax.runtime import allocation, processes
from compress_jax.runtime.compilation_cache import enable_cache
from compress_jax.training import estimates, feeding, fit, plans, resume, scales, trainer
from compress_jax.training.checkpoints import Checkpoints, named
from compress_jax.training.float_weights import WEIGHTS, examples_of, measured_ratios
from compress_jax.training.plans import Plan
from compress_jax.training.progress import Progress
from compress_jax.training.resume import MODEL
from compress_jax.training.stages import Setup, setup_of
from compress_jax.training.validation import LAMBDAS, validate

CHECKPOINTS = 'checkpoints'  # The subfolder of a run that holds its checkpoints.
_VALIDATION = 8  # Number of images to validate on.
_MANY = 10**9  # Number of steps where only the time is limited.


def run(values: flags.FlagValues) -> int:
  """Trains --method in --workdir, or resumes the run there, and evaluates it; returns the status.

  Raises:
    CodecError: the data, the plan or the folder cannot be used.
  """
  allocation.keep_freed_memory()
  enable_cache()
  share = join(values)
  with trainer.usual_settings():
    return _run(values, share)


def _run(values: flags.FlagValues, share: processes.Share) -> int:
  plan, folder = plan_of(values), Path(values.workdir or f'runs/{values.method}')
  pace = None if plan.minutes is None else fit.Pace(60 * plan.minutes, plan.steps)
  codec, begun = codec_of(plan), (folder / plans.FILE).exists()
  setup = setup_of(plan, codec, _log) if values.dry_run or not begun else _reading(plan, codec)
  source = sources.large_enough(_source(plan), max(plan.crop, plan.least_side), log=_log)
  if values.dry_run:
    return _estimate(plan, setup)
  _log(f'training in {folder}; the same command goes on there')
  index, digests = feeding.indices(plan.batch), resume.digests_of(plan)
  state = None
  if not begun:  # Nothing is written before all of that has worked.
    resume.keep_results(folder)
    state = trainer.start(*setup.init(), setup.optimizer, plan.steps)
  with resume.held(folder, plan, digests, share):
    saves = Checkpoints(folder / CHECKPOINTS, _log)
    try:
      state = resume.newest(folder, plan, digests, setup, saves, _log) or state
      before = state is not None and trainer.finished(state)
      if not before:
        setup = setup_of(plan, codec, _log) if begun else setup
        state = state or trainer.start(*setup.init(), setup.optimizer, plan.steps)
        state = _train(values, folder, plan, setup, source, saves, state, index, pace)
    finally:
      saves.close()
    assert state is not None
    if before and (folder / WEIGHTS).exists() and (folder / MODEL).exists():
      _log(f'{folder / MODEL}: finished before')
    elif share.rank == 0:
      _leave(folder, plan, codec, setup, state, source)
  if not trainer.finished(state):
    _log(f'stopped at step {int(state.step)}; the same command goes on from there')
    return 0
  return _evaluate(values, folder / MODEL) if values.evaluate and share.rank == 0 else 0


def _leave(
  folder: Path,
  plan: Plan,
  codec: Codec,
  setup: Setup,
  state: trainer.TrainState,
  source: sources.Source,
) -> None:
  """Writes the averaged weights so far; writes a model too if the run is finished."""
  host, config = _leave_weights(folder, plan, setup, state)
  if trainer.finished(state):
    examples = examples_of(source)
    released = codec.export(halve(host), examples)
    ratios = measured_ratios(plan.method, plan.options, released, examples)
    config = {**config, lambdas.FIELD: ratios}
    models.write(folder / MODEL, to_arrays(released), config, overwrite=True)
    _log(f'{folder / MODEL}: {plan.method} model {released.model_id.hex()}')


def _leave_weights(
  folder: Path, plan: Plan, setup: Setup, state: trainer.TrainState
) -> tuple[Params, dict[str, Any]]:
  """Writes the averaged weights so far; returns them, with their method and options."""
  host = jax.tree.map(np.asarray, setup.weights(state.params, state.average))
  config: dict[str, Any] = {'method': plan.method, 'options': plan.options}
  models.write(folder / WEIGHTS, flatten(host, 'params'), config, overwrite=True)
  return host, config


def _reading(plan: Plan, codec: Codec) -> Setup:
  """Returns a setup that can read the run's checkpoints, without files that only training needs."""
  return setup_of(plan._replace(lpips=None, perceptual='lpips'), codec)


def trained(folder: Path) -> tuple[Params, dict[str, Any]]:
  """Returns the averaged weights of the newest checkpoint of a run, their method and options.

  Raises:
    CodecError: there is no run in the folder, or it has no checkpoint.
  """
  plan = plans.read(folder)
  with trainer.usual_settings():
    setup = _reading(plan, codec_of(plan))
    state = Checkpoints(folder / CHECKPOINTS, _log).restore(resume.form_of(setup))
  if state is None:
    raise CodecError(f'{folder} has no checkpoint yet')
  weights = setup.weights(state.params, state.average)
  return weights, {'method': plan.method, 'options': plan.options}


def plan_of(values: flags.FlagValues) -> Plan:
  """Returns the plan of a run that follows from the flags and the preset."""
  preset = methods.method(values.method).preset(values.preset)
  if values.stage == 'scales':
    preset = preset._replace(steps=scales.STEPS, lr=scales.LR)
  options = {**preset.options, **settings(values.set)}
  overrides = plans.pop_fields(options)
  fixed = options.get('levels') == 1
  accelerated = jax.default_backend() != 'cpu'
  return Plan(
    method=values.method,
    options=options,
    stage=values.stage,
    start=values.start,
    lmbda=getattr(values, 'lambda') if fixed else None,
    distortion=values.distortion,
    lpips=values.lpips,
    data=list(values.data or []),
    seed=values.seed,
    steps=_steps(values, preset.steps),
    batch=preset.batch if values.batch is None else values.batch,
    crop=preset.crop if values.crop is None else values.crop,
    lr=preset.lr if values.lr is None else values.lr,
    precision=values.precision or ('bfloat16' if accelerated else 'float32'),
    minutes=values.minutes,
    perceptual=values.perceptual,
    learns=values.learns,
    updates=values.updates,
    target_rate=values.target_rate,
    **overrides,
  )


def _steps(values: flags.FlagValues, usual: int) -> int:
  """Returns the number of updates: --steps, or no limit with --minutes, or else the usual one."""
  if values.steps is not None:
    steps: int = values.steps
    return steps
  return usual if values.minutes is None else _MANY


def codec_of(plan: Plan, lmbda: float | None = None) -> Codec:
  """Returns the codec that a plan trains, at `lmbda` if it is given."""
  factory = methods.method(plan.method).codec
  check_options(plan.method, factory, plan.options)
  codec: Codec = factory(**plan.options, **({} if lmbda is None else {'lmbda': lmbda}))
  return codec


def _estimate(plan: Plan, setup: Setup) -> int:
  """Prints the memory and the time that the run would need on these devices; returns 0."""
  each = trainer.shares(plan.batch, jax.process_count(), jax.local_device_count())
  estimate = estimates.estimate(
    setup.init, setup.form, setup.loss, setup.optimizer, batch=each, crop=plan.crop
  )
  pixels = each * plan.crop**2
  estimates.report(estimate, steps=plan.steps, pixels=pixels, log=print, minutes=plan.minutes)
  return 0


def _source(plan: Plan) -> sources.Source:
  if plan.data:
    return sources.open_sources(plan.data, log=_log)
  _log('no --data: training on the photographs that scikit-image carries')
  return sources.from_images(sets.photographs_at_hand())


def _train(
  values: flags.FlagValues,
  folder: Path,
  plan: Plan,
  setup: Setup,
  source: sources.Source,
  saves: Checkpoints,
  began: trainer.TrainState,
  index: np.ndarray,
  pace: fit.Pace | None,
) -> trainer.TrainState:
  """Trains from the state `began` until the run ends or is stopped; returns the last state."""
  state = trainer.replicated(began)
  first, inner = int(state.step), values.inner or _inner(plan.steps)
  fed = feeding.feed(
    source,
    seed=plan.seed,
    size=plan.crop,
    batch=plan.batch,
    inner=inner,
    first=first,
    workers=values.workers or 0,
    stream=values.stream,
    augmentation=feeding.Augmentation(plan.turns, plan.sharp_scales, plan.hard_images),
  )
  _log(f'{fed.about}; {jax.device_count()} {jax.devices()[0].device_kind} devices')
  train_step = trainer.make_train_step(
    setup.loss, setup.optimizer, seed=plan.seed, draw=fed.draw, inner=inner
  )
  total = int(state.total)
  if total < plan.steps:  # A resumed run keeps the number of steps that --minutes gave it.
    pace = None
  rhythm = fit.Rhythm(total, inner, values.log_every, values.save_every, values.validate_every)
  with _watching(values, folder, plan, setup, source, first, total, pace) as watch:
    state = fit.fit(state, train_step, fed.data, index, rhythm=rhythm, saves=saves, watch=watch)
  if jax.process_count() > 1:
    local = digest(named(state.params))
    multihost_utils.assert_equal(
      np.frombuffer(local, np.uint8), 'the processes hold different parameters'
    )
  return state


def _inner(steps: int) -> int:
  """Returns the number of steps per dispatch: 1 on a CPU, where several gain nothing."""
  return 1 if jax.default_backend() == 'cpu' else math.gcd(steps, 10)


@contextmanager
def _watching(
  values: flags.FlagValues,
  folder: Path,
  plan: Plan,
  setup: Setup,
  source: sources.Source,
  first: int,
  total: int,
  pace: fit.Pace | None,
) -> Iterator[fit.Watch]:
  """Yields callbacks that record progress, validate, and stop the run on SIGTERM or Ctrl-C.

  Only process 0 writes to the run's folder. A run that is stopped saves its state first.
  """
  asked: list[int] = []
  before = {
    number: signal.signal(number, lambda number, _: asked.append(number))
    for number in (signal.SIGTERM, signal.SIGINT)
  }

  def stopping(step: int) -> bool:
    if jax.process_count() == 1:
      return bool(asked)
    return multihost_utils.reached_preemption_sync_point(step)

  def ending(step: int) -> int:
    assert pace is not None
    return int(multihost_utils.broadcast_one_to_all(np.int32(pace(step))))

  until = ending if pace else None
  try:
    if jax.process_index():
      yield fit.Watch(lambda step, means, seconds: None, None, stopping, until)
      return
    progress = Progress(folder, _log, step=first, steps=total, batch=plan.batch)

    def shown(step: int) -> int:
      progress.steps = ending(step)
      return progress.steps

    validator = _validator(values.val, folder, plan, setup, source, progress)
    yield fit.Watch(progress.metrics, validator, stopping, shown if pace else None)
    progress.close()
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _validator(
  val: str | None,
  folder: Path,
  plan: Plan,
  setup: Setup,
  source: sources.Source,
  progress: Progress,
) -> Callable[[int, trainer.TrainState], float]:
  """Returns a function that scores a state by the real files of validation images.

  The images are those of `val`, or the photographs that scikit-image carries. The function writes
  the averaged weights to the run's folder first, because validation can take long.
  """
  named = sets.default_images(val, report=_log)[1] if val else sets.photographs_at_hand()
  images = [sets.centre_crop(image.load()) for image in named[:_VALIDATION]]
  lambdas = LAMBDAS if plan.lmbda is None else (plan.lmbda,)
  codecs = {lmbda: codec_of(plan, lmbda) for lmbda in lambdas}
  examples = examples_of(source)

  def score(step: int, state: trainer.TrainState) -> float:
    host, _ = _leave_weights(folder, plan, setup, state)
    codec = next(iter(codecs.values()))
    result = validate(codecs, codec.export(host, examples), images)
    progress.validation(step, result.values, result.decoded)
    return result.score

  return score


def _evaluate(values: flags.FlagValues, model: Path) -> int:
  """Prints the overview of `--mode=eval`; returns its exit status."""
  return evaluate.overview(
    values.method,
    getattr(values, 'lambda'),
    {'model': str(model)},
    images=values.images,
    protocol=values.protocol,
    processes=values.workers,
    seed=values.seed,
  )


def _log(line: str) -> None:
  if jax.process_index() == 0:
    print(line, file=sys.stderr, flush=True)
