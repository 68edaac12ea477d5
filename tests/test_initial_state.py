"""Parameters of a run that begins from a checkpoint of other classes."""

import dataclasses

import jax
import numpy as np
import optax
from synthetic import tiny_model, tiny_variables

from configs import base
from embedmask_jax.checkpoint import Metadata
from embedmask_jax.checkpoint_writer import CheckpointWriter
from embedmask_jax.initial_state import read_initial_variables
from embedmask_jax.models.factory import init_variables
from embedmask_jax.presets import PRESETS
from embedmask_jax.train_state import create_train_state


def test_only_the_layers_with_an_output_per_class_stay_initial(tmp_path):
  three = Metadata(base.get_config(), (1, 2, 3), ('a', 'b', 'c'))
  trained = jax.tree.map(lambda x: x + 1, tiny_variables(preset='adelaidet'))
  with CheckpointWriter(
    tmp_path, three, keep_last=1, keep_best=0, best_metric='segm/AP'
  ) as writer:
    writer.save(create_train_state(trained, optax.sgd(0.1)))

  two = dataclasses.replace(three, category_ids=(1, 2), class_names=('a', 'b'))
  model = tiny_model(num_classes=2, preset=PRESETS['adelaidet'])
  initial = init_variables(model, 1)
  read = read_initial_variables(str(tmp_path), two, initial)
  classes = {
    f'params/head/{layer}/{leaf}'
    for layer in ('class_logits', 'semantic_head/logits')
    for leaf in ('kernel', 'bias')
  }
  leaves = [jax.tree.leaves(tree) for tree in (initial, trained)]
  for (path, leaf), own, stored in zip(
    jax.tree.leaves_with_path(read), *leaves, strict=True
  ):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    is_per_class = name in classes
    np.testing.assert_array_equal(leaf, own if is_per_class else stored, name)
    classes.discard(name)
  assert not classes
