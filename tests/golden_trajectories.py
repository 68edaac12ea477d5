"""Trajectories: a few steps of the real training step against the recorded ones."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from golden_choices import other_choice
from golden_data import batch_from_polygons
from golden_network import MOST_DISTURBED_RUNS, disturbed, model_of, variables_of
from golden_rule import subsample
from golden_set import (
  Arrays,
  GoldenSet,
  canvas_of,
  images_of,
  pad_images,
  tight_canvas,
)
from golden_table import Report, over, rms

from embedmask_jax.devices import data_mesh, replicate
from embedmask_jax.import_weights import export_weights
from embedmask_jax.losses import loss_names
from embedmask_jax.models.embedmask import EmbedMask
from embedmask_jax.optim import OptimSettings, Schedule, is_trained, make_optimizer
from embedmask_jax.structures import Batch
from embedmask_jax.train_state import TrainState, create_train_state
from embedmask_jax.train_step import make_train_step

_DEFAULT_ARCH = 'R50'
# At the config's rate these weights train chaotically: later steps say nothing.
_COMPARABLE_STEPS = {'t_config': 2, 't_mid': 4}
# What rounding to float32 changes at most, relative to the number.
_HALF_STEP = 2.0**-24

_Run = Callable[[dict], Iterator[tuple[int, TrainState, dict[str, Any]]]]


@dataclasses.dataclass(frozen=True)
class Observation:
  """A number or array of a step, found and recorded.

  Attributes:
    quantity: of the table.
    place: record and step.
    found, expected: of one shape.
    spread: of the original's runs.
    size: RMS of what it is measured against.
    rounding: RMS that float32 cannot resolve.
  """

  quantity: str
  place: str
  found: np.ndarray
  expected: np.ndarray
  spread: float
  size: float
  rounding: float = 0.0

  def error(self, own_spread: float = 0.0) -> float:
    """The difference over what is allowed."""
    difference = max(rms(self.found - self.expected) - self.rounding, 0.0)
    return over(difference, 3 * max(self.spread, own_spread) + 1e-3 * self.size)


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """A record and what it was made from."""

  record: str
  arrays: Arrays
  model: EmbedMask
  variables: dict
  settings: OptimSettings
  schedule: Schedule
  batch: Batch
  steps: int


def check_trajectories(golden: GoldenSet, report: Report) -> None:
  """Every `t_*` record.

  Where a difference exceeds the spread of the original's own runs, ours are disturbed
  as those were, until that explains it: a rounding that moves one unit across zero
  moves both programs, and which of their runs it does so in is chance.
  """
  for record in golden.records('t_.*'):
    trajectory = _read(golden, record, report)
    run = _runner(trajectory)
    observations = list(_observations(trajectory, run, report))
    own = [0.0] * len(observations)
    exceeding = [o for o in observations if o.error() > 1]
    if exceeding:
      worst = max(exceeding, key=Observation.error)
      report.note(
        f'{record}: {len(exceeding)} of {len(observations)} differ by more than the '
        f"original's runs do ({worst.quantity}, {worst.place}: {worst.error():.2g}); "
        'held against the spread of our own disturbed runs'
      )
      for seed in range(MOST_DISTURBED_RUNS):
        if all(
          o.error(spread) <= 1 for o, spread in zip(observations, own, strict=True)
        ):
          break
        variables = disturbed(trajectory.variables, seed)
        disturbed_one = dataclasses.replace(trajectory, variables=variables)
        others = _observations(disturbed_one, run)
        for i, (first, other) in enumerate(zip(observations, others, strict=False)):
          own[i] = max(own[i], rms(first.found - other.found))
    for observation, own_spread in zip(observations, own, strict=True):
      report.observe(
        observation.quantity, observation.place, observation.error(own_spread)
      )


def _read(golden: GoldenSet, record: str, report: Report) -> Trajectory:
  """Reads a record; compares its rates and initial parameters."""
  arrays = golden.arrays(record)
  entry = golden.json('traj_index')[record]
  settings = dataclasses.replace(
    OptimSettings(**golden.config().optim),
    learning_rate=entry['base_lr'],
    warmup_steps=entry['warmup_iters'],
    milestones=tuple(entry['steps']),
  )
  total = len(arrays['losses'])
  schedule = Schedule(settings, total)
  rates = np.array([float(schedule(i)) for i in range(total)])
  rates = np.stack([rates, rates * settings.bias_rate_multiplier], axis=-1)
  report.compare('trajectory: rates', record, rates, arrays['lr_weight_bias'])

  names, sizes = zip(*entry['images'], strict=True)
  canvas = canvas_of(arrays) if 'input_shape' in arrays else tight_canvas(sizes)
  images = pad_images(images_of(arrays, list(names), list(sizes)), canvas)
  arch = entry.get('arch', _DEFAULT_ARCH)
  variables = variables_of(golden, arch, entry['seed'])
  initial = export_weights(variables)
  for name in map(str, arrays['param_names']):
    expected = arrays[f'init/{name}']
    sample = subsample(initial[name], expected.size)
    report.compare('trajectory: initial parameters', record, sample, expected)
  return Trajectory(
    record,
    arrays,
    model_of(golden, arch),
    variables,
    settings,
    schedule,
    batch_from_polygons(entry['instances'], sizes, canvas, images, golden.preset),
    min(_COMPARABLE_STEPS.get(record, total), total),
  )


def _observations(
  trajectory: Trajectory, run: _Run, report: Report | None = None
) -> Iterator[Observation]:
  """Runs the steps; yields what is recorded of each.

  Ends where another choice of locations explains a mask loss, which the report hears.
  """
  before = trajectory.variables
  for step, state, metrics in run(trajectory.variables):
    choice = _other_choice(trajectory, before, step, metrics) if report else None
    if report and choice:
      report.note(f'{trajectory.record}: compared up to step {step - 1}, then {choice}')
      return
    yield from _of_step(trajectory, step, state, metrics)
    # The next step gives the state's memory away.
    before = jax.tree.map(
      np.array, {'params': state.params, 'batch_stats': state.batch_stats}
    )


def _other_choice(
  trajectory: Trajectory, variables: dict, step: int, metrics: dict[str, Any]
) -> str | None:
  """Says which choice explains a mask loss that is not the recorded one."""
  arrays, names = trajectory.arrays, loss_names(trajectory.model.preset)
  box, mask = names.index('box'), names.index('mask')
  losses, spreads = arrays['losses'][step - 1], arrays['losses_spread'][step - 1]
  tolerance = 3 * spreads[mask] + 1e-3 * losses[mask]
  if abs(float(metrics['loss/mask']) - losses[mask]) <= tolerance:
    return None
  return other_choice(
    trajectory.model,
    variables,
    trajectory.batch,
    expected=losses[mask],
    tolerance=tolerance,
    noise=3 * spreads[box] / losses[box],
  )


def _runner(trajectory: Trajectory) -> _Run:
  """Returns a function of the initial variables that runs the steps.

  It yields each step's number, from 1, the state after it, and its metrics.
  """
  model, variables = trajectory.model, trajectory.variables
  trained = is_trained(variables['params'], model.frozen_stages)
  optimizer = make_optimizer(trajectory.settings, trajectory.schedule, trained=trained)
  mesh = data_mesh(1)
  train_step = make_train_step(model, optimizer, mesh)

  def run(variables: dict) -> Iterator[tuple[int, TrainState, dict[str, Any]]]:
    # The step gives its state's memory away; the drawn weights are kept.
    variables = jax.tree.map(jnp.array, variables)
    state = replicate(mesh, create_train_state(variables, optimizer))
    for step in range(1, trajectory.steps + 1):
      state, metrics = train_step(state, trajectory.batch)
      yield step, state, metrics

  return run


def _of_step(
  trajectory: Trajectory, step: int, state: TrainState, metrics: dict[str, Any]
) -> Iterator[Observation]:
  arrays, place = trajectory.arrays, f'{trajectory.record} {step}'
  for i, name in enumerate(loss_names(trajectory.model.preset)):
    loss = arrays['losses'][step - 1, i]
    yield Observation(
      'trajectory: losses',
      place,
      np.asarray(metrics[f'loss/{name}'], np.float64),
      loss,
      arrays['losses_spread'][step - 1, i],
      loss,
    )
  norm = arrays['grad_norm'][step - 1]
  yield Observation(
    'trajectory: gradient norms',
    place,
    np.asarray(metrics['grad_norm'], np.float64),
    norm,
    arrays['grad_norm_spread'][step - 1],
    norm,
  )
  names = [str(name) for name in arrays['param_names']]
  if not arrays.names(rf'step{step}/{re.escape(names[0])}'):
    return

  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  parameters = export_weights(variables)
  for key in arrays.names(rf'step{step}_bn/.*running_(mean|var)'):
    name, expected = key.split('/', 1)[1], arrays[key]
    yield Observation(
      'trajectory: running statistics',
      place,
      subsample(parameters[name], expected.size),
      expected,
      float(arrays[f'step{step}_bn_spread/{name}']),
      rms(expected),
    )
  momentum = export_weights({**variables, 'params': _momentum(state)})
  for name in names:
    expected = arrays[f'step{step}/{name}']
    yield Observation(
      'trajectory: parameters',
      place,
      subsample(parameters[name], expected.size),
      expected,
      float(arrays[f'step{step}_spread/{name}']),
      float(arrays[f'step{step}_delta_rms/{name}']),
      # Every step rounds the parameter, however small its change.
      step * _HALF_STEP * rms(expected),
    )
    expected = arrays[f'step{step}_momentum/{name}']
    yield Observation(
      'trajectory: momentum',
      place,
      subsample(momentum[name], expected.size),
      expected,
      float(arrays[f'step{step}_momentum_spread/{name}']),
      rms(expected),
    )


def _momentum(state: TrainState) -> dict:
  """The momentum of every parameter, zeros for those that are not trained."""
  is_trace = lambda node: isinstance(node, optax.TraceState)  # noqa: E731
  leaves = jax.tree.leaves(state.opt_state, is_leaf=is_trace)
  (trace,) = [leaf.trace for leaf in leaves if is_trace(leaf)]
  is_masked = lambda node: isinstance(node, optax.MaskedNode)  # noqa: E731
  return jax.tree.map(
    lambda own, parameter: jnp.zeros_like(parameter) if is_masked(own) else own,
    trace,
    state.params,
    is_leaf=is_masked,
  )
