"""The command line's train, for learned methods: from images to a model that codes files."""

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

from compress_jax import (
  allocation,
  cli_eval,
  data,
  estimates,
  feeding,
  fit,
  lambdas,
  methods,
  model_files,
  plans,
  presets,
  processes,
  scales,
  sources,
  training,
)
from compress_jax.cache import enable_cache
from compress_jax.checkpoints import Checkpoints, named
from compress_jax.codec import Codec, CodecError, Image, Params
from compress_jax.command import settings
from compress_jax.float_weights import measured_ratios
from compress_jax.hashing import digest
from compress_jax.plans import Plan
from compress_jax.pretrained import check_options
from compress_jax.progress import Progress
from compress_jax.released import flatten, halve, to_arrays
from compress_jax.stages import Setup, setup_of
from compress_jax.validation import LAMBDAS, validate

WEIGHTS, MODEL = 'weights.safetensors', 'model.safetensors'
_CALIBRATION, _SIDE = 8, 512
_VALIDATION = 8  # Images.


def run(values: flags.FlagValues) -> int:
  """Trains --method into --workdir, going on where a run there stopped, and evaluates it.

  Raises:
    CodecError: the data, the plan or the folder will not do.
  """
  if not values.workdir:
    values['workdir'].value = f'runs/{values.method}'
  allocation.keep_freed_memory()
  enable_cache()
  processes.join(values)
  plan, folder = plan_of(values), Path(values.workdir)
  codec = codec_of(plan)
  setup = setup_of(plan, codec, _log)
  source = sources.large_enough(_source(plan), plan.crop, log=_log)
  if values.dry_run:
    return _estimate(plan, setup)
  _log(f'training in {folder}; the same command goes on there')
  began, index = training.start(*setup.init(), setup.optimizer), feeding.indices(plan.batch)
  plans.settle(folder, plan)  # Nothing is written before all of that has worked.
  saves = Checkpoints(folder / 'checkpoints', _log)
  try:
    state = _train(values, plan, setup, source, saves, began, index)
  finally:
    saves.close()
  if jax.process_count() > 1:
    own = digest(named(state.params))
    multihost_utils.assert_equal(
      np.frombuffer(own, np.uint8), 'the processes hold different parameters'
    )
  finished = int(state.step) >= plan.steps
  if jax.process_index() == 0:
    host = jax.tree.map(np.asarray, setup.weights(state.average))
    config: dict[str, Any] = {'method': plan.method, 'options': plan.options}
    model_files.write(folder / WEIGHTS, flatten(host, 'params'), config, overwrite=True)
    if finished:
      examples = _examples(source)
      released = codec.export(halve(host), examples)
      ratios = measured_ratios(plan.method, plan.options, released, examples)
      config = {**config, lambdas.FIELD: ratios}
      model_files.write(folder / MODEL, to_arrays(released), config, overwrite=True)
      _log(f'{folder / MODEL}: {plan.method} model {released.model_id.hex()}')
      return _evaluate(values, folder / MODEL) if values.evaluate else 0
  if not finished:
    _log(f'stopped at step {int(state.step)}; the same command goes on from there')
  return 0


def trained(folder: Path) -> tuple[Params, dict[str, Any]]:
  """The averaged weights of the newest checkpoint of a run, with their method and options.

  Raises:
    CodecError: there is no run, or it has no checkpoint.
  """
  plan = plans.read(folder)
  setup = setup_of(plan, codec_of(plan))
  like = jax.eval_shape(lambda: training.start(*setup.init(), setup.optimizer))
  saves = Checkpoints(folder / 'checkpoints', _log)
  try:
    state = saves.restore(like)
  finally:
    saves.close()
  if state is None:
    raise CodecError(f'{folder} has no checkpoint yet')
  return setup.weights(state.average), {'method': plan.method, 'options': plan.options}


def plan_of(values: flags.FlagValues) -> Plan:
  """What the flags and the preset ask for."""
  recipe = presets.recipe(values.method, values.preset)
  if values.stage == 'scales':
    recipe = recipe._replace(steps=scales.STEPS, lr=scales.LR)
  options = {**methods.method(values.method).PRESETS[values.preset], **settings(values.set)}
  taken = plans.take(options)
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
    steps=values.steps or recipe.steps,
    batch=values.batch or recipe.batch,
    crop=values.crop or recipe.crop,
    lr=values.lr or recipe.lr,
    precision=values.precision or ('bfloat16' if accelerated else 'float32'),
    **taken,
  )


def codec_of(plan: Plan, lmbda: float | None = None) -> Codec:
  """The codec that a plan trains."""
  factory = methods.method(plan.method).codec
  check_options(plan.method, factory, plan.options)
  codec: Codec = factory(**plan.options, **({} if lmbda is None else {'lmbda': lmbda}))
  return codec


def _estimate(plan: Plan, setup: Setup) -> int:
  """Says what the run would take, on these devices."""
  each = training.shares(plan.batch, jax.process_count(), jax.local_device_count())
  found = estimates.estimate(*setup.init(), setup.loss, setup.optimizer, batch=each, crop=plan.crop)
  estimates.report(found, steps=plan.steps, pixels=each * plan.crop**2, log=print)
  return 0


def _source(plan: Plan) -> sources.Source:
  if plan.data:
    return sources.open_sources(plan.data, log=_log)
  _log('no --data: training on the photographs that scikit-image carries')
  return sources.from_images(data.photographs_at_hand())


def _train(
  values: flags.FlagValues,
  plan: Plan,
  setup: Setup,
  source: sources.Source,
  saves: Checkpoints,
  began: training.TrainState,
  index: np.ndarray,
) -> training.TrainState:
  """From the newest checkpoint, or the beginning, to the end."""
  found = saves.restore(began)
  if found is not None:
    _log(f'going on from step {int(found.step)}')
  state = training.replicated(began if found is None else found)
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
  )
  _log(f'{fed.about}; {jax.device_count()} {jax.devices()[0].device_kind} devices')
  train_step = training.make_train_step(
    setup.loss, setup.optimizer, seed=plan.seed, draw=fed.draw, inner=inner
  )
  rhythm = fit.Rhythm(plan.steps, inner, values.log_every, values.save_every, values.validate_every)
  with _watching(values, plan, setup, source, first) as watch:
    return fit.fit(state, train_step, fed.data, index, rhythm=rhythm, saves=saves, watch=watch)


def _inner(steps: int) -> int:
  """Steps per dispatch: a CPU gains nothing from several."""
  return 1 if jax.default_backend() == 'cpu' else math.gcd(steps, 10)


@contextmanager
def _watching(
  values: flags.FlagValues, plan: Plan, setup: Setup, source: sources.Source, first: int
) -> Iterator[fit.Watch]:
  """Progress in the run's folder, by one process only; a SIGTERM or Ctrl-C stops in order."""
  asked: list[int] = []
  before = {
    number: signal.signal(number, lambda number, _: asked.append(number))
    for number in (signal.SIGTERM, signal.SIGINT)
  }

  def stopping(step: int) -> bool:
    if jax.process_count() == 1:
      return bool(asked)
    return multihost_utils.reached_preemption_sync_point(step)

  try:
    if jax.process_index():
      yield fit.Watch(lambda step, means, seconds: None, None, stopping)
      return
    folder = Path(values.workdir)
    progress = Progress(folder, _log, step=first, steps=plan.steps, batch=plan.batch)
    yield fit.Watch(progress.metrics, _validator(values, plan, setup, source, progress), stopping)
    progress.close()
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _validator(
  values: flags.FlagValues, plan: Plan, setup: Setup, source: sources.Source, progress: Progress
) -> Callable[[int, Params], float]:
  """Real files of --val, or of the photographs at hand, at a few lambdas."""
  named = data.default_images(values.val)[1] if values.val else data.photographs_at_hand()
  images = [data.centre_crop(image.load()) for image in named[:_VALIDATION]]
  lambdas = LAMBDAS if plan.lmbda is None else (plan.lmbda,)
  codecs = {lmbda: codec_of(plan, lmbda) for lmbda in lambdas}
  examples = _examples(source)

  def score(step: int, params: Params) -> float:
    host = jax.tree.map(np.asarray, setup.weights(params))
    codec = next(iter(codecs.values()))
    found = validate(codecs, codec.export(host, examples), images)
    progress.validation(step, found.values, found.decoded)
    return found.score

  return score


def _examples(source: sources.Source) -> list[Image]:
  """A few images that calibrate an export."""
  chosen = range(0, len(source), max(len(source) // _CALIBRATION, 1))
  return [source[i][:_SIDE, :_SIDE] for i in list(chosen)[:_CALIBRATION]]


def _evaluate(values: flags.FlagValues, model: Path) -> int:
  """The overview of `--mode=eval`."""
  values['model'].value, values['output'].value = str(model), None
  values['set'].value = []
  return cli_eval.overview(values)


def _log(line: str) -> None:
  if jax.process_index() == 0:
    print(line, file=sys.stderr, flush=True)
