"""Training: parameter gradients end to end."""

import dataclasses
from functools import cache, partial

import golden_rule
import jax
import jax.numpy as jnp
import numpy as np
from golden_batch import batch_of
from golden_losses import without_accident
from golden_network import MOST_DISTURBED_RUNS, disturbed, model_of, variables_of
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
  """Loss records from their pixels: losses, gradient of every parameter.

  A unit whose input is zero but for rounding is on in one program and off in another.
  Where a gradient differs by more than in the original's runs, ours are disturbed as
  those were, until three times what that changes explains it.
  """
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
    run = _gradients(model_of(golden, arch).clone(axis_name=None))
    losses, gradients, statistics = run(variables, batch, targets)
    _compare_losses(report, record, arrays, np.asarray(losses))
    frozen = [
      place.key
      for place in golden_rule.tensor_places(arch, golden.config(arch).model)
      if place.path[0] == 'params' and place.key not in arrays['param_names']
    ]
    parts = [_named(part, variables) for part in gradients]
    moving = sum(np.any(part[key]) for part in parts for key in frozen)
    report.observe('end to end: gradients of frozen parameters', record, moving)
    numbers = _numbers(arrays, parts)
    if exceeding := [number for number in numbers if number.error() > 1]:
      worst = max(exceeding, key=_Number.error)
      report.note(
        f'{record}: {len(exceeding)} of {len(numbers)} numbers of gradients differ by '
        f"more than the original's runs do ({worst.name}: {worst.error():.2g}); held "
        'against the spread of our own disturbed runs'
      )
      for seed in range(MOST_DISTURBED_RUNS):
        if all(number.error() <= 1 for number in numbers):
          break
        _, gradients, _ = run(disturbed(variables, seed), batch, targets)
        others = _numbers(arrays, [_named(part, variables) for part in gradients])
        for number, other in zip(numbers, others, strict=True):
          number.own_spread = max(number.own_spread, rms(number.found - other.found))
    for number in numbers:
      report.observe(number.quantity, record, number.error())
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


@dataclasses.dataclass
class _Number:
  """A recorded number or sample of a gradient.

  Attributes:
    quantity: of the table.
    name: of the parameter, or what it is of.
    found, expected: of one shape.
    noise: of the original's own runs.
    size: what it is measured against.
    own_spread: of our own disturbed runs.
  """

  quantity: str
  name: str
  found: np.ndarray
  expected: np.ndarray
  noise: float
  size: float
  own_spread: float = 0.0

  def error(self) -> float:
    """The difference over what is allowed."""
    difference = rms(self.found - self.expected)
    return over(difference, 3 * max(self.noise, self.own_spread) + 1e-3 * self.size)


def _numbers(arrays: Arrays, parts: list[dict[str, np.ndarray]]) -> list[_Number]:
  """What is recorded of gradients; `parts` has one for each loss."""
  names = [str(name) for name in arrays['param_names']]
  whole = {name: sum(part[name].astype(np.float64) for part in parts) for name in names}
  numbers = []
  unrest = 0.0
  for key in arrays.names('grad/.*'):
    name = key.removeprefix('grad/')
    noise = float(arrays[f'grad_noise/{name}'])
    size = float(arrays[f'grad_rms/{name}'])
    unrest = max(unrest, noise / size if size else 0.0)
    sample = subsample(whole[name], arrays[key].size)
    for found, expected in (
      (sample, arrays[key]),
      (np.asarray(rms(whole[name])), np.asarray(size)),
    ):
      numbers.append(
        _Number('end to end: parameter gradients', name, found, expected, noise, size)
      )

  def add_norm(name: str, found: float, expected: float, noise: float) -> None:
    values = np.asarray(found), np.asarray(expected)
    numbers.append(
      _Number('end to end: gradient norms', name, *values, noise, expected)
    )

  for name, expected in zip(names, arrays['param_grad_norms'], strict=True):
    add_norm(name, np.linalg.norm(whole[name]), float(expected), unrest * expected)
  noise = float(arrays['grad_norm_noise'])
  add_norm('all', _norm(whole, names), float(arrays['grad_norm']), noise)
  for i, expected in enumerate(arrays['grad_norm_per_loss']):
    add_norm(f'loss {i}', _norm(parts[i], names), float(expected), noise)
  return numbers


def _norm(gradients: dict[str, np.ndarray], names: list[str]) -> float:
  squares = [np.sum(gradients[name].astype(np.float64) ** 2) for name in names]
  return float(np.sqrt(np.sum(squares)))
