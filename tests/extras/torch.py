"""A .pth in the authors' layout is written, and becomes a checkpoint."""

from embedmask_jax.checkpoint import open_checkpoint
from embedmask_jax.command_line import run
from embedmask_jax.config_reading import read_config
from embedmask_jax.models.factory import build_model, init_variables
from embedmask_jax.weights.authors import export_authors
from embedmask_jax.weights.files import write_torch

SMALL = {
  'backbone': 'resnet18',
  'backbone_width': 8,
  'fpn_channels': 32,
  'head_channels': 32,
  'head_depth': 1,
}

config = read_config('base')
config.model.update(SMALL)
variables = init_variables(build_model(config.model, 80), 3)
write_torch('theirs.pth', export_authors(variables))
flags = [f'--config.model.{name}={value}' for name, value in SMALL.items()]
words = ['--config=base', '--weights=theirs.pth', '--output=run']
assert run(['import', *words, *flags]) == 0
assert open_checkpoint('run').step == 0
