"""A checkpoint of a few numbers, for tests that need one to open."""

from pathlib import Path

from test_checkpoint import make_state

from configs import base
from embedmask_jax.checkpoint import Metadata
from embedmask_jax.checkpoint_writer import CheckpointWriter


def save_toy_checkpoint(workdir: Path) -> Path:
  """Writes step 4 of a run with the classes a (id 1) and b (id 2)."""
  metadata = Metadata(base.get_config(), category_ids=(1, 2), class_names=('a', 'b'))
  with CheckpointWriter(
    workdir, metadata, keep_last=1, keep_best=0, best_metric='segm/AP'
  ) as writer:
    writer.save(make_state(4))
  return workdir
