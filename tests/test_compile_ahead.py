"""The shapes that a run will meet, and programs compiled by shape."""

import jax
import jax.numpy as jnp
import numpy as np
from synthetic import make_batch

from configs import base
from embedmask_jax.compile_ahead import shapes_of_evaluation, shapes_of_training
from embedmask_jax.data.pipeline import eval_batches, train_batches
from embedmask_jax.data.scenes import generate_scenes
from embedmask_jax.data.source import open_source
from embedmask_jax.datasets import train_settings, view_settings
from embedmask_jax.inference import output_canvas
from embedmask_jax.programs import TrainPrograms

STEPS = 12


def test_the_planned_shapes_are_those_of_the_batches(tmp_path, monkeypatch):
  monkeypatch.setenv('EMBEDMASK_CACHE', str(tmp_path))
  annotations, images = generate_scenes(num_images=9, image_size=64, seed=3)
  source = open_source(annotations, images)
  config = base.get_config()
  config.data.short_sides = (64, 96, 128)
  config.data.long_side = 128
  config.data.eval_short_side = 64
  config.data.instance_ladder = (1, 2, 3, 4, 8)
  config.train.batch_size = 2
  config.eval.output_ladder = ((32, 32), (64, 64))

  batches = train_batches(source, **train_settings(config))
  met = {
    (batch['images'].shape[1:3], batch['labels'].shape[1])
    for (_, batch), _ in zip(batches, range(STEPS), strict=False)
  }
  batches.close()
  planned = list(shapes_of_training(source, config, STEPS))
  assert set(planned) == met
  assert len(planned) == len(met) > 2

  met = {
    (batch['images'].shape[1:3], output_canvas(batch['original_size'], ((64, 64),)))
    for batch in eval_batches(source, batch_size=1, **view_settings(config))
  }
  assert shapes_of_evaluation(source, config) == sorted(met)


def test_a_program_is_compiled_once_for_a_shape_and_says_its_memory(caplog):
  traced = []

  @jax.jit
  def step(state, batch):
    traced.append(batch.images.shape)
    return state + jnp.sum(batch.images.astype(jnp.float32)), {}

  def batch_of(size):
    return make_batch([[]] * size, [(32, 32)] * size, (32, 32), 1)

  programs = TrainPrograms(step)
  with caplog.at_level('INFO', logger='absl'):
    for size in (1, 2, 1, 2):
      found, _ = programs(jnp.zeros(()), batch_of(size))
      np.testing.assert_array_equal(found, np.sum(batch_of(size).images))
  assert len(traced) == 2
  lines = [message for message in caplog.messages if 'training step' in message]
  assert len(lines) == 2
  assert lines[1].startswith(
    'training step, 2 x 32x32, up to 1 instances each: compiled'
  )
  assert ' MiB a device' in lines[1]
