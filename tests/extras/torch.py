"""A .pth in the authors' layout is written, and becomes a checkpoint."""

from embedmask_jax.checkpoint import open_checkpoint
from embedmask_jax.command_line import run
from embedmask_jax.config_reading import read_config
from embedmask_jax.import_weights import export_authors
from embedmask_jax.models.factory import build_model, init_variables
from embedmask_jax.weights.files import write_torch

variables = init_variables(build_model(read_config('small').model, 80), 3)
write_torch('theirs.pth', export_authors(variables))
assert run(['import', '--config=small', '--weights=theirs.pth', '--output=run']) == 0
assert open_checkpoint('run').step == 0
