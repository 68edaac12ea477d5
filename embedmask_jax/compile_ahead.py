"""Every program of a run, compiled into the cache before the run."""

from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from tqdm import trange

from embedmask_jax.data.eval_plan import EvalPlan
from embedmask_jax.data.image_source import ImageSource
from embedmask_jax.data.pipeline import train_plan
from embedmask_jax.data.transforms import empty_batch
from embedmask_jax.datasets import (
  open_eval_source,
  open_train_source,
  plan_settings,
  view_settings,
)
from embedmask_jax.devices import check_batch_size, data_mesh, local_mesh
from embedmask_jax.evaluate import full_batch_size
from embedmask_jax.inference import make_inference, output_canvas
from embedmask_jax.presets import PRESETS
from embedmask_jax.programs import TrainPrograms, compile_program
from embedmask_jax.stored_model import detection_settings
from embedmask_jax.structures import DATA_AXIS, Batch
from embedmask_jax.train import set_up
from embedmask_jax.train_state import abstract_state

# (H, W) of the network, then N instances (training) or (H, W) of the originals.
TrainShape = tuple[tuple[int, int], int]
EvalShape = tuple[tuple[int, int], tuple[int, int]]


def compile_ahead(config: ConfigDict) -> int:
  """Compiles all programs that `config` will run; the command `--mode=compile`.

  A run on the same devices with the same library versions then takes them from the
  cache (jax's persistent one) instead of compiling. Of every program the log says how
  long it took and the memory it needs.

  Args:
    config: validated.

  Returns:
    How many programs.

  Raises:
    UserError: data that cannot be used, or a batch size that does not divide over the
      devices.
  """
  mesh = data_mesh()
  check_batch_size(
    config.train.batch_size,
    devices=mesh.size,
    parts=config.train.accumulation_steps,
  )
  preset = PRESETS[config.model.preset]
  source = open_train_source(config.data, preset)
  training = set_up(config, len(source.class_names), mesh)
  state = abstract_state(
    training.variables, training.optimizer, has_ema=config.train.ema_decay > 0
  )
  programs = TrainPrograms(training.train_step)
  train_shapes = list(shapes_of_training(source, config, training.num_steps))
  for canvas, instances in train_shapes:
    batch = empty_batch(config.train.batch_size, canvas, instances)
    programs.program(placed(mesh, state), placed(mesh, Batch(**batch), DATA_AXIS))

  eval_source = open_eval_source(config.data, source.categories, preset)
  eval_shapes = shapes_of_evaluation(eval_source, config) if eval_source else []
  inference = make_inference(
    training.model, detection_settings(config.eval), local_mesh()
  )
  for canvas, output in eval_shapes:
    size = full_batch_size(config, local_mesh())
    compile_program(
      f'inference, {size} x {canvas[0]}x{canvas[1]}, originals up to '
      f'{output[0]}x{output[1]}',
      inference,
      placed(local_mesh(), state.variables),
      placed(local_mesh(), Batch(**empty_batch(size, canvas, 1)), DATA_AXIS),
      output,
    )
  logging.info('%d programs compiled', len(train_shapes) + len(eval_shapes))
  return len(train_shapes) + len(eval_shapes)


def shapes_of_training(
  source: ImageSource, config: ConfigDict, num_steps: int
) -> Iterator[TrainShape]:
  """Yields the shapes that the batches of a run have, each once, as they come."""
  plan = train_plan(source, **plan_settings(config))
  seen = set()
  for step in trange(num_steps, desc='planning', leave=False, disable=None):
    batch = plan[step]
    shape = batch.canvas, batch.num_instances
    if shape not in seen:
      seen.add(shape)
      yield shape


def shapes_of_evaluation(source: ImageSource, config: ConfigDict) -> list[EvalShape]:
  """The network and output canvases of an evaluation."""
  settings = view_settings(config)
  plan = EvalPlan(
    sizes=source.sizes, batch_size=full_batch_size(config, local_mesh()), **settings
  )
  shapes = set()
  for i in range(len(plan)):
    sizes = source.sizes[[row.index for row in plan[i].rows]]
    shapes.add((plan[i].canvas, output_canvas(sizes, config.eval.output_ladder)))
  return sorted(shapes)


def placed(mesh: Mesh, tree: Any, *axes: str) -> Any:
  """Shapes of the arrays of a tree, split by `axes` over the devices, or whole."""
  sharding = NamedSharding(mesh, PartitionSpec(*axes))
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
  )
