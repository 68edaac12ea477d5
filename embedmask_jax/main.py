"""EmbedMask on the command line.

  train    python -m embedmask_jax.main --config=configs/NAME.py --workdir=DIR
             [--config.part.field=value ...]
  eval     python -m embedmask_jax.main --mode=eval --checkpoint=WORKDIR_OR_CHECKPOINT
             [--config.data.eval.annotations=A.json --config.data.eval.images=DIR]
  predict  python -m embedmask_jax.main --mode=predict
             --checkpoint=WORKDIR_OR_CHECKPOINT --images=FILE_OR_FOLDER --output=DIR
  compile  python -m embedmask_jax.main --mode=compile --config=configs/NAME.py
             [--config.part.field=value ...]
  replay   python -m embedmask_jax.main --mode=replay --workdir=DIR
  import   python -m embedmask_jax.main --mode=import --config=configs/NAME.py
             --weights=FILE --output=WORKDIR
  export   python -m embedmask_jax.main --mode=export
             --checkpoint=WORKDIR_OR_CHECKPOINT --output=FILE.pth

Training goes on from the newest checkpoint of the work folder. Where the environment
names a cluster (Cloud TPU, GKE, Slurm, or as embedmask_jax/hosts.py says) the process
is one of several. After SIGTERM it saves at the next step and exits with status 75,
which asks to be started again; after the first Ctrl-C it saves, too. Compile fills the
cache of compiled programs with all that a run of the same config on the same devices
needs, and says the memory of each. Replay computes a step whose loss was not finite
once more, image by image. Evaluation and prediction take the config that is stored in
the checkpoint; fields are changed with --config.part.field=value, and --config=FILE
replaces its parts data and eval. Import reads a weight file of the authors or an
ImageNet backbone, export writes a checkpoint in the authors' layout. All fields are
listed in configs/base.py. Exit status: 0; 2 after a user's mistake, which is told in
one line, or a loss that was not finite; 75 after SIGTERM; 130 after Ctrl-C.
"""

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from embedmask_jax import command_line
from embedmask_jax.config_reading import parse_flags, split_config_flags
from embedmask_jax.errors import UserError
from embedmask_jax.exit_status import USER_MISTAKE

# Mode -> the flags that are its own; a mode is the command of the same name.
_FLAGS_OF = {
  'train': ('workdir', 'distributed', 'take_over', 'compilation_cache'),
  'eval': ('checkpoint', 'workdir', 'compilation_cache'),
  'predict': (
    'checkpoint',
    'images',
    'output',
    'score_threshold',
    'compilation_cache',
  ),
  'compile': ('distributed', 'compilation_cache'),
  'replay': ('workdir', 'compilation_cache'),
  'import': ('weights', 'output', 'compilation_cache'),
  'export': ('checkpoint', 'output'),
}
# What a script may pass to every mode.
_EVERYWHERE = ('mode', 'distributed', 'compilation_cache')


def run(argv: Sequence[str]) -> int:
  """Runs the command `argv` (program name first); returns the exit status."""
  values = _define_flags()
  if {'--help', '-h', '-help', '--helpfull', '--helpshort'} & set(argv[1:]):
    print(__doc__ + values.get_help())
    return 0
  config_flags, others = split_config_flags(argv[1:])
  try:
    parse_flags(values, [argv[0], *others])
    _check_mode(values)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return USER_MISTAKE
  given = [
    _as_option(name, values[name].value)
    for name in _FLAGS_OF[values.mode]
    if values[name].present
  ]
  return command_line.run([values.mode, *given, *config_flags])


def _check_mode(values: flags.FlagValues) -> None:
  """Refuses what would be dropped silently: a flag that the mode does not have."""
  own = (*_FLAGS_OF[values.mode], *_EVERYWHERE)
  for name in values:
    if values[name].present and name not in own:
      modes = ', '.join(mode for mode, names in _FLAGS_OF.items() if name in names)
      raise UserError(f'--{name} is no flag of --mode={values.mode}, but of {modes}')


def _as_option(name: str, value: Any) -> str:
  option = name.replace('_', '-')
  if isinstance(value, bool):
    return f'--{option}' if value else f'--no-{option}'
  return f'--{option}={value}'


def _define_flags() -> flags.FlagValues:
  """The flags but for the config, in a set of their own: a process may run twice."""
  values = flags.FlagValues()
  define: dict[str, Any] = {'flag_values': values, 'module_name': 'embedmask_jax'}
  flags.DEFINE_enum('mode', 'train', list(_FLAGS_OF), 'What to do.', **define)
  for name, meaning in (
    ('workdir', 'Folder of the run: checkpoints, logs, evaluations.'),
    (
      'checkpoint',
      'eval, predict, export: a work folder or WORKDIR/checkpoints/STEP.',
    ),
    ('images', 'predict: an image file or a folder of them.'),
    ('weights', 'import: a .pth of the authors, or .pth or .pkl of a backbone.'),
    (
      'output',
      'predict: folder for the overlays and predictions.json; import: work folder for '
      'the checkpoint; export: file to write, its name ending in .pth.',
    ),
  ):
    flags.DEFINE_string(name, '', meaning, **define)
  flags.DEFINE_boolean(
    'distributed',
    True,
    'train, compile: be one of several processes where the environment says so.',
    **define,
  )
  flags.DEFINE_boolean(
    'take_over',
    False,
    'train: take a work folder in gs:// at once from a killed run on another machine.',
    **define,
  )
  flags.DEFINE_float(
    'score_threshold',
    0.3,
    'predict: smallest score of a detection.',
    lower_bound=0.0,
    upper_bound=1.0,
    **define,
  )
  flags.DEFINE_string(
    'compilation_cache',
    '',
    'Folder for compiled programs; "off" for none. Default: JAX_COMPILATION_CACHE_DIR, '
    'or xla in the cache folder.',
    **define,
  )
  return values


def main(argv: Sequence[str]) -> None:
  """Exits with the status; see `command_line.main`."""
  command_line.exit_with(lambda: run(argv))


if __name__ == '__main__':
  main(sys.argv)
