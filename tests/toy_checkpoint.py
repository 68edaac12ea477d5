"""A checkpoint of a few numbers, for tests that need one to open."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from configs import base
from embedmask_jax.checkpoint import Metadata
from embedmask_jax.checkpoint_writer import CheckpointWriter
from embedmask_jax.train_state import TrainState


def make_state(step=0, *, classes=2, optimizer=None):
  generator = np.random.default_rng(step)

  def leaf(*shape):
    return jnp.asarray(generator.normal(size=shape), jnp.float32)

  params = {
    'head': {
      'class_logits': {'kernel': leaf(3, 3, 4, classes), 'bias': leaf(classes)},
      'position_scale': leaf(),
    }
  }
  optimizer = optimizer or optax.sgd(0.1, momentum=0.9)
  return TrainState(
    step=jnp.int32(step),
    params=params,
    batch_stats={'norm': {'mean': leaf(40, 50)}},
    opt_state=optimizer.init(params),
  )


def save_toy_checkpoint(workdir: Path, config: ConfigDict | None = None) -> Path:
  """Writes step 4 of a run with the classes a (id 1) and b (id 2)."""
  metadata = Metadata(
    config or base.get_config(), category_ids=(1, 2), class_names=('a', 'b')
  )
  with CheckpointWriter(
    workdir, metadata, keep_last=1, keep_best=0, best_metric='segm/AP'
  ) as writer:
    writer.save(make_state(4))
  return workdir
