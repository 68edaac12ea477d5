"""Training: parameter gradients end to end."""

from functools import cache, partial

import golden_rule
import jax
import jax.numpy as jnp
import numpy as np
from golden_batch import batch_of
from golden_losses import without_accident
from golden_network import model_of, variables_of
from golden_rule import subsample
from golden_set import (
  Arrays,
  GoldenSet,
  canvas_of,
  images_of,
  pad_images,
)
from golden_table import Report, over, rms

from embedmask_jax.import_weights import export_weights
from embedmask_jax.losses import compute_losses, loss_names, normalisers
from embedmask_jax.models.embedmask import EmbedMask
from embedmask_jax.structures import Batch, Targets
from embedmask_jax.targets import assign_targets

_DEFAULT_ARCH = 'R50'


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
