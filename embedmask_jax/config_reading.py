"""Configs as a command line gives them: --config=FILE and --config.part.field=value."""

import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from embedmask_jax.config import (
  RESULT_FIELDS,
  check_names,
  differences,
  validate_config,
)
from embedmask_jax.errors import UserError

# The folder that holds `configs`: this one in an installed package, the repository
# otherwise.
_SHIPPED = Path(__file__).resolve().parent / 'shipped'
_ROOT = _SHIPPED if (_SHIPPED / 'configs').is_dir() else _SHIPPED.parents[1]
_FIELD_FLAG = re.compile(r'--(no)?config\.')
_CONFIG_FLAG = re.compile(r'--(no)?config(\.[\w.]+)?')
_SHIPPED_NAME = re.compile(r'(configs/)?(?P<stem>\w+)(\.py)?')


def split_config_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
  """Takes the flags of the config out of a command line.

  Args:
    arguments: without the program's name.

  Returns:
    The flags of the config, each as --name=value and --config before the fields it
    decides; and all others as they were.
  """
  config: list[str] = []
  others: list[str] = []
  awaits_value = False
  for argument in arguments:
    if awaits_value and not argument.startswith('-'):
      config[-1] += f'={argument}'
      awaits_value = False
      continue
    is_config = bool(_CONFIG_FLAG.fullmatch(argument.split('=')[0]))
    awaits_value = is_config and '=' not in argument
    (config if is_config else others).append(argument)
  config.sort(key=lambda argument: not argument.startswith('--config='))
  return config, others


def config_path(config: Sequence[str]) -> str | None:
  """The file that --config names last, if any.

  Args:
    config: the flags of the config as `split_config_flags` returns them.
  """
  paths = [a for a in config if a.startswith('--config=')]
  return paths[-1].split('=', 1)[1] if paths else None


def find_config(path: str) -> str:
  """The config file that a user means.

  Args:
    path: a file; or the name of a config that comes with the package, such as
      `quickstart` or `configs/quickstart.py`, where there is no such file. What
      follows a colon is an argument of the config's own.

  Raises:
    UserError: neither is there.
  """
  name, colon, argument = path.partition(':')
  if Path(name).is_file():
    return path
  shipped = {file.stem: file for file in sorted((_ROOT / 'configs').glob('*.py'))}
  known = _SHIPPED_NAME.fullmatch(name)
  if known is None or known['stem'] not in shipped:
    raise UserError(
      f'--config={path}: no such file; these come with the package: '
      f'{", ".join(shipped)}'
    )
  return f'{shipped[known["stem"]]}{colon}{argument}'


def read_config(path: str) -> ConfigDict:
  """A config, for code that has no command line; its fields may be set.

  Args:
    path: see `find_config`.

  Raises:
    UserError: it is not there, or cannot be used.
  """
  return _read_config([f'--config={path}'])


def required_config(config: Sequence[str]) -> tuple[str, ConfigDict]:
  """The path of --config, and its config with the fields given beside it.

  Raises:
    UserError: there is no --config, or it cannot be used.
  """
  path = config_path(config)
  if path is None:
    raise UserError('--config is missing; such as --config=configs/quickstart.py')
  return path, _read_config(config)


def given_or_default_config(config: Sequence[str], name: str) -> ConfigDict:
  """The config of --config, or configs/NAME.py, with the fields given beside it.

  Raises:
    UserError: it cannot be used.
  """
  if config_path(config) is None:
    config = [f'--config={_ROOT / "configs" / name}.py', *config]
  return _read_config(config)


def stored_or_given_config(stored: ConfigDict, config: Sequence[str]) -> ConfigDict:
  """The config of a checkpoint, with data and eval of --config where given.

  Fields given one by one go before both. Where --config changes what results depend
  on, there is a warning.

  Raises:
    UserError: --config or one of the fields cannot be used.
  """
  if config_path(config) is None:
    # The flags change the one that they are given.
    return _read_config(config, stored.copy_and_resolve_references())
  given = _read_config(config)
  merged = stored.copy_and_resolve_references()
  merged.data, merged.eval = given.data, given.eval
  names = _field_names(config)
  for name in names:
    *parts, field = name.split('.')
    place, source = merged, given
    for part in parts:
      place, source = place[part], source[part]
    place[field] = source[field]
  validate_config(merged)
  logger = logging.getLogger(__name__)
  for field, change in differences(merged, given).items():
    logger.info('%s is that of the checkpoint, not of --config (%s)', field, change)
  for field, change in differences(stored, merged).items():
    if field in RESULT_FIELDS and field not in names:
      logger.warning(
        '%s is that of --config, not of the checkpoint (%s)', field, change
      )
  return merged


def _read_config(config: Sequence[str], stored: ConfigDict | None = None) -> ConfigDict:
  """The config of --config, or `stored`, with the fields given on the command line."""
  # In a set of their own: a process may run twice.
  values = flags.FlagValues()
  check_names(_field_names(config))
  path = config_path(config)
  if path is not None:
    fields = [flag for flag in config if not flag.startswith('--config=')]
    config = [f'--config={find_config(path)}', *fields]
  arguments = ['embedmask', *config]
  if path is None:
    config_flags.DEFINE_config_dict(
      'config', stored, flag_values=values, sys_argv=arguments
    )
  else:
    # Config files derive from each other as `configs.NAME`.
    if str(_ROOT) not in sys.path:
      sys.path.append(str(_ROOT))
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=arguments)
  parse_flags(values, arguments)
  result = values.config
  if not isinstance(result, ConfigDict):
    raise UserError(f'--config={path}: get_config() must return a ConfigDict')
  validate_config(result)
  return result


def _field_names(config: Sequence[str]) -> list[str]:
  """Those that are given one by one, such as 'model.dtype'."""
  names = (argument.split('=')[0] for argument in config)
  return [name.split('.', 1)[1] for name in names if _FIELD_FLAG.match(name)]


def parse_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
  """Parses `argv`, program name first, into `values`.

  Raises:
    UserError: whatever is wrong with it, in one line.
  """
  try:
    rest = values(argv)
  except Exception as error:  # the config file is Python, it may raise anything
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = lines[-1] if lines else ''
    if not isinstance(error, flags.Error):
      message = f'{type(error).__name__}: {message}'
    raise UserError(f'command line or config: {message}') from error
  if rest[1:]:
    raise UserError(f'unexpected argument {rest[1]!r}; flags are written --name=value')
