"""What a training step takes: canvases, padded instances, and memory by shapes."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from embedmask_jax.check.findings import Finding, Section
from embedmask_jax.data.image_source import ImageSource
from embedmask_jax.data.sampler import BatchPlan, TrainPlan, pad_to_ladder
from embedmask_jax.data.transforms import empty_batch
from embedmask_jax.models.factory import build_model
from embedmask_jax.ops.locations import level_shapes

_STEPS = 200


def check_steps(source: ImageSource, plan: TrainPlan, config: ConfigDict) -> Section:
  """Looks at the first 200 batches of training, or a whole epoch if that is less.

  Args:
    source: the data set.
    plan: of `train_plan`.
    config: the whole config.
  """
  section = Section('Training steps')
  epoch = -(-len(source) // config.train.batch_size)
  batches = [plan[step] for step in range(min(epoch, _STEPS))]
  kinds = Counter((batch.canvas, batch.num_instances) for batch in batches)
  ladder = config.data.instance_ladder
  of_images = Counter(pad_to_ladder(n, ladder) for n in source.instance_counts.tolist())
  section.facts |= {
    'batch size': config.train.batch_size,
    'steps of an epoch': epoch,
    'images by step of data.instance_ladder': _sorted(of_images),
    'batches by padded instances': _sorted(Counter(b.num_instances for b in batches)),
    'batches by canvas (height x width)': {
      f'{canvas[0]}x{canvas[1]}': count
      for canvas, count in _sorted(Counter(b.canvas for b in batches)).items()
    },
    'programs to compile': len(kinds),
  }
  largest = max(batches, key=lambda b: (math.prod(b.canvas), b.num_instances))
  section.facts['memory of a step, MiB'] = {
    name: round(size / 2**20, 1)
    for name, size in step_bytes(config, len(source.categories), largest).items()
  }
  over = int((source.instance_counts > ladder[-1]).sum())
  if over:
    words = (
      f'images have more instances than data.instance_ladder ends with, {ladder[-1]}; '
      'it is doubled for them, which compiles further programs'
    )
    section.findings.append(Finding('over_ladder', over, words))
  cap = config.eval.max_detections
  cut = int(np.maximum(source.instance_counts - cap, 0).sum())
  if cut:
    words = (
      f'objects are more than eval.max_detections, {cap}, finds in an image; raise it, '
      f'to above {source.instance_counts.max()}'
    )
    section.findings.append(Finding('over_max_detections', cut, words))
  return section


def _sorted(counts: Counter) -> dict:
  return dict(sorted(counts.items()))


def step_bytes(
  config: ConfigDict, num_classes: int, batch: BatchPlan
) -> dict[str, int]:
  """Bytes of a training step on one device, counted from the shapes of arrays.

  Counted are: `state`, the parameters, their gradients and the optimiser's moments
  (one of SGD, two of AdamW) and the average if there is one; `batch`, the arrays that
  reach the device; `activations`, what the convolutions and products of the forward
  pass put out, which the backward pass reads again; `pairs`, a float32 for every
  pair of location and instance (four of them, distances to the sides) and for every
  pair of stride-4 cell and instance. Temporaries are not,
  nor what the compiler and `train.remat` save, so this tells the order of magnitude,
  and how it grows.

  Args:
    config: the whole config; `train.accumulation_steps` divides the last three.
    num_classes: C.
    batch: what is trained on, usually the largest batch.
  """
  model = build_model(config.model, num_classes)
  images = jax.ShapeDtypeStruct((1, *batch.canvas, 3), np.uint8)
  size = jax.ShapeDtypeStruct((1, 2), np.int32)
  variables = jax.eval_shape(
    lambda key, images, size: model.init(key, images, size, size, train=False),
    jax.random.key(0),
    images,
    size,
  )
  forward = jax.make_jaxpr(
    lambda variables, images, size: model.apply(
      variables, images, size, size, train=False
    )
  )(variables, images, size)
  parameters = _bytes(variables['params'])
  moments = 1 if config.optim.name == 'sgd' else 2
  copies = 2 + moments + (config.train.ema_decay > 0)
  rows = -(-batch.batch_size // config.train.accumulation_steps)
  arrays = empty_batch(1, batch.canvas, batch.num_instances)
  locations = sum(math.prod(shape) for shape in level_shapes(batch.canvas))
  cells = math.prod(batch.canvas) // 16
  parts = {
    'state': copies * parameters,
    'batch': rows * sum(array.nbytes for array in arrays.values()),
    'activations': rows * _product_bytes(forward.jaxpr),
    'pairs': rows * 4 * batch.num_instances * (4 * locations + cells),
  }
  return {**parts, 'together': sum(parts.values())}


def _bytes(tree: Any) -> int:
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _product_bytes(jaxpr: Any) -> int:
  """Bytes that the convolutions and matrix products of a program put out."""
  total = 0
  for equation in _equations(jaxpr):
    if equation.primitive.name in ('conv_general_dilated', 'dot_general'):
      total += _bytes([variable.aval for variable in equation.outvars])
  return total


def _equations(jaxpr: Any) -> Iterator[Any]:
  for equation in jaxpr.eqns:
    yield equation
    for value in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda v: hasattr(v, 'eqns')
    ):
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        yield from _equations(inner)
