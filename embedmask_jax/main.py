"""EmbedMask on the command line.

  train    python -m embedmask_jax.main --config=configs/NAME.py --workdir=DIR
             [--config.part.field=value ...]
  eval     python -m embedmask_jax.main --mode=eval --checkpoint=WORKDIR_OR_CHECKPOINT
             [--config.data.eval.annotations=A.json --config.data.eval.images=DIR]
  predict  python -m embedmask_jax.main --mode=predict
             --checkpoint=WORKDIR_OR_CHECKPOINT --images=FILE_OR_FOLDER --output=DIR
  replay   python -m embedmask_jax.main --mode=replay --workdir=DIR
  import   python -m embedmask_jax.main --mode=import --config=configs/NAME.py
             --weights=FILE --output=WORKDIR
  export   python -m embedmask_jax.main --mode=export
             --checkpoint=WORKDIR_OR_CHECKPOINT --output=FILE.pth

Training goes on from the newest checkpoint of the work folder. Where the environment
names a cluster (Cloud TPU, GKE, Slurm, or as embedmask_jax/hosts.py says) the process
is one of several. After SIGTERM it saves at the next step and exits with status 75,
which asks to be started again. Replay computes a step whose loss was not finite once
more, image by image. Evaluation and prediction take the config that is stored in the
checkpoint; fields are changed with --config.part.field=value, and --config=FILE
replaces its parts data and eval. Import reads a weight file of the authors or an
ImageNet backbone, export writes a checkpoint in the authors' layout. All fields are
listed in configs/base.py. Exit status: 0; 2 after a user's mistake, which is told in
one line; 75 after SIGTERM.
"""

import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from embedmask_jax.config import check_names, differences, validate_config
from embedmask_jax.errors import UserError

if TYPE_CHECKING:
  from embedmask_jax.checkpoint import StoredCheckpoint

FAILURE = 1
USER_MISTAKE = 2
RETRY = 75  # EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130
_REPOSITORY = Path(__file__).resolve().parents[1]
_FIELD_FLAG = re.compile(r'--(no)?config\.')
_CONFIG_FLAG = re.compile(r'--(no)?config(\.[\w.]+)?')


def run(argv: Sequence[str]) -> int:
  """Runs the command `argv` (program name first); returns the exit status."""
  _configure_logging()
  try:
    if {'--help', '-h', '-help', '--helpfull', '--helpshort'} & set(argv[1:]):
      print(__doc__ + _define_flags().get_help())
      return 0
    values = _parse(_define_flags(), argv, ignore_config=True)
    # Workers of the data pipeline ask whether the process has parsed its flags.
    flags.FLAGS.mark_as_parsed()
    return _COMMANDS[values.mode](values, argv)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return USER_MISTAKE
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    return INTERRUPTED


def _train(values: flags.FlagValues, argv: Sequence[str]) -> int:
  path, config = _required_config(argv)
  workdir = _required(values, 'workdir')
  _enable_compilation_cache(values.compilation_cache)
  from embedmask_jax import hosts

  if values.distributed:
    hosts.join()
  from embedmask_jax.preemption import PreemptedError
  from embedmask_jax.train import summary, train

  try:
    result = train(config, workdir)
  except PreemptedError as stop:
    print(f'{stop}; run the same command again to go on', file=sys.stderr)
    return RETRY
  if hosts.is_first():
    print(f'{Path(path).stem}: {summary(result)}', flush=True)
  return 0


def _replay(values: flags.FlagValues, argv: Sequence[str]) -> int:
  del argv
  workdir = _required(values, 'workdir')
  _enable_compilation_cache(values.compilation_cache)
  from embedmask_jax.replay import replay

  print(replay(workdir))
  return 0


def _evaluate(values: flags.FlagValues, argv: Sequence[str]) -> int:
  stored = _stored_checkpoint(values)
  from embedmask_jax.evaluate import evaluate_checkpoint

  config = _stored_or_given_config(stored.metadata.config, argv)
  _enable_compilation_cache(values.compilation_cache)
  evaluate_checkpoint(stored, config, workdir=values.workdir)
  return 0


def _predict(values: flags.FlagValues, argv: Sequence[str]) -> int:
  images, output = _required(values, 'images'), _required(values, 'output')
  stored = _stored_checkpoint(values)
  from embedmask_jax.predict import predict_files

  config = _stored_or_given_config(stored.metadata.config, argv)
  _enable_compilation_cache(values.compilation_cache)
  unreadable = predict_files(
    stored,
    config,
    images=images,
    output=output,
    score_threshold=values.score_threshold,
  )
  return USER_MISTAKE if unreadable else 0


def _import(values: flags.FlagValues, argv: Sequence[str]) -> int:
  weights, output = _required(values, 'weights'), _required(values, 'output')
  _, config = _required_config(argv)
  _enable_compilation_cache(values.compilation_cache)
  from embedmask_jax.convert import run_import

  run_import(weights, config, output)
  return 0


def _export(values: flags.FlagValues, argv: Sequence[str]) -> int:
  output = _required(values, 'output')
  stored = _stored_checkpoint(values)
  from embedmask_jax.convert import run_export

  run_export(stored, output)
  return 0


_COMMANDS = {
  'train': _train,
  'eval': _evaluate,
  'predict': _predict,
  'replay': _replay,
  'import': _import,
  'export': _export,
}


def _stored_checkpoint(values: flags.FlagValues) -> 'StoredCheckpoint':
  checkpoint = values.checkpoint or values.workdir
  if not checkpoint:
    raise UserError(
      '--checkpoint is missing; a work folder or WORKDIR/checkpoints/STEP'
    )
  from embedmask_jax.checkpoint import open_checkpoint

  return open_checkpoint(checkpoint)


def _required_config(argv: Sequence[str]) -> tuple[str, ConfigDict]:
  path = _config_path(argv)
  if path is None:
    raise UserError('--config is missing; such as --config=configs/quickstart.py')
  return path, _read_config(argv)


def _define_flags() -> flags.FlagValues:
  """The flags but for the config, in a set of their own: a process may run twice."""
  values = flags.FlagValues()
  define: dict[str, Any] = {'flag_values': values, 'module_name': 'embedmask_jax'}
  flags.DEFINE_enum('mode', 'train', list(_COMMANDS), 'What to do.', **define)
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
    'train: be one of several processes where the environment says so.',
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


def _parse(
  values: flags.FlagValues, argv: Sequence[str], *, ignore_config: bool = False
) -> flags.FlagValues:
  """Parses `argv` into `values`; every mistake is a `UserError` of one line."""
  arguments = [argv[0], *_config_first(argv[1:])]
  if ignore_config:
    arguments = [a for a in arguments if not _CONFIG_FLAG.fullmatch(a.split('=')[0])]
  try:
    rest = values(arguments)
  except Exception as error:  # the config file is Python, it may raise anything
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = lines[-1] if lines else ''
    if not isinstance(error, flags.Error):
      message = f'{type(error).__name__}: {message}'
    raise UserError(f'command line or config: {message}') from error
  if rest[1:]:
    raise UserError(f'unexpected argument {rest[1]!r}; flags are written --name=value')
  return values


def _config_first(arguments: Sequence[str]) -> list[str]:
  """The arguments as --name=value, with --config before the fields it decides."""
  joined: list[str] = []
  for argument in arguments:
    awaits_value = joined and _CONFIG_FLAG.fullmatch(joined[-1])
    if awaits_value and not argument.startswith('-'):
      joined[-1] += f'={argument}'
    else:
      joined.append(argument)
  return sorted(joined, key=lambda argument: not argument.startswith('--config='))


def _config_path(argv: Sequence[str]) -> str | None:
  paths = [a for a in _config_first(argv[1:]) if a.startswith('--config=')]
  return paths[-1].split('=', 1)[1] if paths else None


def _read_config(argv: Sequence[str], stored: ConfigDict | None = None) -> ConfigDict:
  """The config of --config, or `stored`, with the fields given on the command line."""
  values = _define_flags()
  arguments = [argv[0], *_config_first(argv[1:])]
  names = (argument.split('=')[0] for argument in arguments)
  check_names(name.split('.', 1)[1] for name in names if _FIELD_FLAG.match(name))
  path = _config_path(argv)
  if path is None:
    config_flags.DEFINE_config_dict(
      'config', stored, flag_values=values, sys_argv=arguments
    )
  else:
    if not Path(path.split(':')[0]).is_file():
      raise UserError(f'--config={path}: no such file')
    # Config files derive from each other as `configs.NAME`, beside the package.
    if str(_REPOSITORY) not in sys.path:
      sys.path.append(str(_REPOSITORY))
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=arguments)
  config = _parse(values, argv).config
  if not isinstance(config, ConfigDict):
    raise UserError(f'--config={path}: get_config() must return a ConfigDict')
  validate_config(config)
  return config


def _stored_or_given_config(stored: ConfigDict, argv: Sequence[str]) -> ConfigDict:
  """The config of a checkpoint, with data and eval of --config where given."""
  if _config_path(argv) is None:
    return _read_config(argv, stored)
  given = _read_config(argv)
  config = stored.copy_and_resolve_references()
  config.data, config.eval = given.data, given.eval
  validate_config(config)
  for field, change in differences(config, given).items():
    logging.getLogger(__name__).info(
      '%s is that of the checkpoint, not of --config (%s)', field, change
    )
  return config


def _required(values: flags.FlagValues, name: str) -> str:
  value = values[name].value
  if not value:
    raise UserError(f'--{name} is missing for --mode={values.mode}')
  return str(value)


def _enable_compilation_cache(folder: str) -> None:
  """Lets jax keep compiled programs on disk, so that a second run starts at once."""
  import jax

  from embedmask_jax.data.scenes import default_folder
  from embedmask_jax.storage import located

  if folder == 'off' or (not folder and os.environ.get('JAX_COMPILATION_CACHE_DIR')):
    return
  path = located(folder or default_folder() / 'xla')
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f'--compilation_cache={path} cannot be written ({error.strerror}); name another '
      'folder, or "off"'
    ) from error
  jax.config.update('jax_compilation_cache_dir', str(path))


def _configure_logging() -> None:
  """Our messages from INFO up, those of the libraries from WARNING up, to stderr."""

  def is_wanted(record: logging.LogRecord) -> bool:
    if 'embedmask_jax' in Path(record.pathname).parts:
      return True
    # Orbax warns about metrics and files that are absent on purpose.
    is_chatty = 'orbax' in record.pathname
    return record.levelno >= (logging.ERROR if is_chatty else logging.WARNING)

  handler = logging.StreamHandler(sys.stderr)
  handler.addFilter(is_wanted)
  logging.basicConfig(
    level=logging.INFO, format='%(message)s', handlers=[handler], force=True
  )
  absl_logging.set_verbosity(absl_logging.INFO)


def main(argv: Sequence[str]) -> None:
  """Exits with the command's status; at once where other hosts would be waited for."""
  try:
    status = run(argv)
  except Exception:
    if not _has_other_hosts():
      raise
    logging.getLogger(__name__).exception('this host has failed')
    status = FAILURE
  if status not in (0, RETRY) and _has_other_hosts():
    from embedmask_jax.hosts import leave

    leave(status)
  sys.exit(status)


def _has_other_hosts() -> bool:
  hosts = sys.modules.get('embedmask_jax.hosts')
  return hosts is not None and hosts.has_others()


if __name__ == '__main__':
  main(sys.argv)
