"""Training: parameter gradients end to end, and trajectories of the optimiser."""

import dataclasses
import re
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import golden_rule
import jax
import jax.numpy as jnp
import numpy as np
import optax
from golden_batch import batch_of
from golden_choices import other_choice
from golden_data import batch_from_polygons
from golden_losses import without_accident
from golden_network import model_of, variables_of
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
from embedmask_jax.losses import compute_losses, loss_names, normalisers
from embedmask_jax.models.embedmask import EmbedMask
from embedmask_jax.optim import OptimSettings, Schedule, is_trained, make_optimizer
from embedmask_jax.structures import Batch, Targets
from embedmask_jax.targets import assign_targets
from embedmask_jax.train_state import TrainState, create_train_state
from embedmask_jax.train_step import make_train_step

_DEFAULT_ARCH = 'R50'
# At the config's rate these weights train chaotically: later steps say nothing.
_COMPARABLE_STEPS = {'t_config': 2, 't_mid': 4}
# What rounding to float32 changes at most, relative to the number.
_HALF_STEP = 2.0**-24


def check_parameter_gradients(
  golden: GoldenSet, report: Report, only: str = '.*'
) -> None:
  """Loss records from their pixels: losses, gradient of every parameter."""
  for record in golden.records(rf'loss_(?!.*_head){only}'):
    arrays = golden.arrays(record)
    if 'grad_norm' not in arrays:
      continue
    entry = golden.json('loss_index')[record.removeprefix('loss_')]
    sizes = entry['resized_hw']
    images = pad_images(images_of(arrays, entry['files'], sizes), canvas_of(arrays))
    batch = batch_of(arrays, images)
    arch = entry.get('arch', _DEFAULT_ARCH)
    variables = variables_of(golden, arch, entry['seed'])
    targets = jax.jit(partial(assign_targets, preset=golden.preset))(batch)
    if golden.is_adelaidet:
      targets = without_accident(report, record, batch, targets)
    losses, gradients, statistics = _gradients(
      model_of(golden, arch).clone(axis_name=None)
    )(variables, batch, targets)
    _compare_losses(report, record, arrays, np.asarray(losses))
    parts = [_named(part, variables) for part in gradients]
    frozen = [
      place.key
      for place in golden_rule.tensor_places(arch, golden.config(arch).model)
      if place.path[0] == 'params' and place.key not in arrays['param_names']
    ]
    _compare_gradients(report, record, arrays, parts, frozen)
    if keys := arrays.names(r'bn_after/.*running_(mean|var)'):
      after = export_weights({**variables, 'batch_stats': statistics})
      for key in keys:
        found = after[key.removeprefix('bn_after/')]
        report.compare('end to end: running statistics', record, found, arrays[key])


@cache
def _gradients(model: EmbedMask):
  """(variables, batch, targets) -> losses [n], a gradient for each, statistics."""
  names = loss_names(model.preset)

  @jax.jit
  def gradient(variables: dict, batch: Batch, targets: Targets, weights: jax.Array):
    total = normalisers(batch, targets)

    def weighted(params: dict):
      outputs, updated = model.apply(
        {**variables, 'params': params},
        batch.images,
        batch.image_size,
        batch.valid_size,
        train=True,
        mutable=['batch_stats'],
      )
      losses = compute_losses(
        outputs, targets, batch, total, preset=model.preset, key=jax.random.key(0)
      )
      losses = jnp.stack([losses[name] for name in names])
      return weights @ losses, (losses, updated['batch_stats'])

    gradients, others = jax.grad(weighted, has_aux=True)(variables['params'])
    return gradients, *others

  def run(variables: dict, batch: Batch, targets: Targets):
    # Not mapped in one program: XLA's convolutions are slow in a loop on CPUs.
    results = [gradient(variables, batch, targets, row) for row in jnp.eye(len(names))]
    _, losses, statistics = results[0]
    return losses, [gradients for gradients, *_ in results], statistics

  return run


def _named(params: dict, variables: dict) -> dict[str, np.ndarray]:
  """A tree like the parameters, under the authors' names and in their layout."""
  return export_weights({**variables, 'params': params})


def _compare_losses(
  report: Report, record: str, arrays: Arrays, losses: np.ndarray
) -> None:
  expected, noise = arrays['losses'], arrays['losses_noise']
  for found, loss, own in zip(losses, expected, noise, strict=True):
    error = over(abs(found - loss), 3 * own + 1e-5 * max(loss, 1e-3))
    report.observe('end to end losses', record, error)


def _compare_gradients(
  report: Report,
  record: str,
  arrays: Arrays,
  parts: list[dict[str, np.ndarray]],
  frozen: list[str],
) -> None:
  """Compares gradients; `parts` has one for each loss, `frozen` must be zero."""
  names = [str(name) for name in arrays['param_names']]
  whole = {name: sum(part[name].astype(np.float64) for part in parts) for name in names}
  moving = sum(np.any(part[key]) for part in parts for key in frozen)
  report.observe('end to end: gradients of frozen parameters', record, moving)

  unrest = 0.0
  for key in arrays.names('grad/.*'):
    name = key.removeprefix('grad/')
    noise = float(arrays[f'grad_noise/{name}'])
    size = float(arrays[f'grad_rms/{name}'])
    unrest = max(unrest, noise / size if size else 0.0)
    error = _sample_error(whole[name], arrays[key])
    report.observe(
      'end to end: parameter gradients', record, over(error, 3 * noise + 1e-3 * size)
    )
    error = abs(rms(whole[name]) - size)
    report.observe(
      'end to end: parameter gradients', record, over(error, 3 * noise + 1e-3 * size)
    )

  def compare_norm(found: float, expected: float, noise: float) -> None:
    error = over(abs(found - expected), 3 * noise + 1e-3 * expected)
    report.observe('end to end: gradient norms', record, error)

  for name, expected in zip(names, arrays['param_grad_norms'], strict=True):
    compare_norm(np.linalg.norm(whole[name]), expected, unrest * expected)
  noise = float(arrays['grad_norm_noise'])
  compare_norm(_norm(whole, names), float(arrays['grad_norm']), noise)
  for part, expected in zip(parts, arrays['grad_norm_per_loss'], strict=True):
    compare_norm(_norm(part, names), float(expected), noise)


def _sample_error(array: np.ndarray, expected: np.ndarray) -> float:
  """RMS of the differences from as many values of an array as are recorded."""
  return rms(subsample(array, expected.size) - expected)


def _norm(gradients: dict[str, np.ndarray], names: list[str]) -> float:
  squares = [np.sum(gradients[name].astype(np.float64) ** 2) for name in names]
  return float(np.sqrt(np.sum(squares)))


def check_trajectories(golden: GoldenSet, report: Report) -> None:
  """Every `t_*` record: a few steps of the real training step."""
  for record in golden.records('t_.*'):
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
    batch = batch_from_polygons(
      entry['instances'], sizes, canvas, images, golden.preset
    )
    steps = min(_COMPARABLE_STEPS.get(record, total), total)
    model = model_of(golden, entry.get('arch', _DEFAULT_ARCH))
    variables = variables_of(golden, entry.get('arch', _DEFAULT_ARCH), entry['seed'])
    names, before = loss_names(model.preset), variables
    for step, state, metrics in _run(
      model, variables, settings, schedule, batch, steps
    ):
      if step and (
        choice := _other_choice(model, before, batch, arrays, step, metrics)
      ):
        report.note(f'{record}: compared up to step {step - 1}, then {choice}')
        break
      _compare_step(report, record, arrays, names, step, state, metrics)
      # The next step gives the state's memory away.
      before = jax.tree.map(
        np.array, {'params': state.params, 'batch_stats': state.batch_stats}
      )


def _other_choice(
  model: EmbedMask,
  variables: dict,
  batch: Batch,
  arrays: Arrays,
  step: int,
  metrics: dict[str, Any],
) -> str | None:
  """Says which choice explains a mask loss that is not the recorded one."""
  if step == 0:
    return None
  names = loss_names(model.preset)
  box, mask = names.index('box'), names.index('mask')
  losses, spreads = arrays['losses'][step - 1], arrays['losses_spread'][step - 1]
  tolerance = 3 * spreads[mask] + 1e-3 * losses[mask]
  if abs(float(metrics['loss/mask']) - losses[mask]) <= tolerance:
    return None
  return other_choice(
    model,
    variables,
    batch,
    expected=losses[mask],
    tolerance=tolerance,
    noise=3 * spreads[box] / losses[box] + 1e-3,
  )


def _run(
  model: EmbedMask,
  variables: dict,
  settings: OptimSettings,
  schedule: Schedule,
  batch: Batch,
  steps: int,
) -> Iterator[tuple[int, TrainState, dict[str, Any]]]:
  """Yields the state before the first step, then after each with its metrics."""
  # The step gives its state's memory away; the drawn weights are kept.
  variables = jax.tree.map(jnp.array, variables)
  trained = is_trained(variables['params'], model.frozen_stages)
  optimizer = make_optimizer(settings, schedule, trained=trained)
  mesh = data_mesh(1)
  train_step = make_train_step(model, optimizer, mesh)
  state = replicate(mesh, create_train_state(variables, optimizer))
  yield 0, state, {}
  for step in range(1, steps + 1):
    state, metrics = train_step(state, batch)
    yield step, state, metrics


def _compare_step(
  report: Report,
  record: str,
  arrays: Arrays,
  losses: tuple[str, ...],
  step: int,
  state: TrainState,
  metrics: dict[str, Any],
) -> None:
  def observe(quantity: str, error: float, spread: float, size: float) -> None:
    report.observe(quantity, f'{record} {step}', over(error, 3 * spread + 1e-3 * size))

  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  names = [str(name) for name in arrays['param_names']]
  if step == 0:
    found = export_weights(variables)
    for name in names:
      expected = arrays[f'init/{name}']
      sample = subsample(found[name], expected.size)
      report.compare('trajectory: initial parameters', record, sample, expected)
    return

  for i, name in enumerate(losses):
    loss = arrays['losses'][step - 1, i]
    spread = arrays['losses_spread'][step - 1, i]
    error = abs(float(metrics[f'loss/{name}']) - loss)
    observe('trajectory: losses', error, spread, loss)
  norm = arrays['grad_norm'][step - 1]
  error = abs(float(metrics['grad_norm']) - norm)
  spread = arrays['grad_norm_spread'][step - 1]
  observe('trajectory: gradient norms', error, spread, norm)
  if not arrays.names(rf'step{step}/{re.escape(names[0])}'):
    return

  found = export_weights(variables)
  for key in arrays.names(rf'step{step}_bn/.*running_(mean|var)'):
    name = key.split('/', 1)[1]
    error = _sample_error(found[name], arrays[key])
    spread = float(arrays[f'step{step}_bn_spread/{name}'])
    observe('trajectory: running statistics', error, spread, rms(arrays[key]))
  momentum = _named(_momentum(state), variables)
  for name in names:
    prefix = f'step{step}'
    expected = arrays[f'{prefix}/{name}']
    error = _sample_error(found[name], expected)
    # Every step rounds the parameter, however small its change.
    error = max(error - step * _HALF_STEP * rms(expected), 0.0)
    spread = float(arrays[f'{prefix}_spread/{name}'])
    change = float(arrays[f'{prefix}_delta_rms/{name}'])
    observe('trajectory: parameters', error, spread, change)
    expected = arrays[f'{prefix}_momentum/{name}']
    error = _sample_error(momentum[name], expected)
    spread = float(arrays[f'{prefix}_momentum_spread/{name}'])
    observe('trajectory: momentum', error, spread, rms(expected))


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
