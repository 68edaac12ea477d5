"""The program `embedmask`: one command per file of `commands/`.

A command's file has

  SUMMARY                     a line for the list of commands
  EXAMPLE                     what its --help ends with
  TAKES_CONFIG                whether --config and --config.part.field=value are its own
  add_arguments(parser)       its arguments
  run(arguments) -> int       what it does; returns the exit status. The flags of the
                              config are in `arguments.config_flags`.

and loads neither jax nor grain before it runs.
"""

import argparse
import difflib
import importlib
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from embedmask_jax import __version__
from embedmask_jax.config_reading import split_config_flags
from embedmask_jax.errors import UserError
from embedmask_jax.exit_status import (
  FINDINGS,
  INTERRUPTED,
  OUTPUT_CLOSED,
  RETRY,
  USER_MISTAKE,
)

# What is typed -> the module of `commands`.
COMMANDS = {
  'train': 'train',
  'eval': 'evaluate',
  'predict': 'predict',
  'demo': 'demo',
  'import': 'import_weights',
  'export': 'export',
  'compile': 'compile_ahead',
  'replay': 'replay',
  'check-data': 'check_data',
  'prepare': 'prepare',
  'split': 'split',
  'info': 'info',
}

_STATUS = """\
exit status: 0 done; 1 check-data has found or prepare left out something, or export
--verify found a difference, or a crash; 2 a user's mistake, told in one line, or a loss
that was not finite; 75 stopped by SIGTERM after saving, start again to go on; 130
interrupted, by Ctrl-C; train has saved after the first; 141 whoever read the output has
gone
"""


class _Parser(argparse.ArgumentParser):
  """Raises `UserError` where argparse would print its usage and exit."""

  def error(self, message: str) -> NoReturn:
    missing = re.fullmatch(r'the following arguments are required: (.*)', message)
    if missing:
      message = f'{missing[1].split(", ")[0]} is missing'
    raise UserError(f'{message}; see {self.prog} --help')


def main(argv: Sequence[str] | None = None) -> NoReturn:
  """Exits with the command's status; at once where other hosts would be waited for.

  Args:
    argv: without the program's name; that of the process by default.
  """
  exit_with(lambda: run(sys.argv[1:] if argv is None else argv))


def exit_with(command: Any) -> NoReturn:
  """Calls `command` and exits with what it returns; see `main`."""
  try:
    status = command()
  except Exception:
    if not _has_other_hosts():
      raise
    logging.getLogger(__name__).exception('this host has failed')
    status = FINDINGS
  if status not in (0, RETRY) and _has_other_hosts():
    from embedmask_jax.hosts import leave

    leave(status)
  sys.exit(status)


def run(argv: Sequence[str]) -> int:
  """Runs a command, program name left out; returns the exit status."""
  try:
    status = _dispatch(argv)
    sys.stdout.flush()
    return status
  except BrokenPipeError:
    # Who reads our output has had enough, as `head` has; nothing is left to say.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OUTPUT_CLOSED
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return USER_MISTAKE
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    return INTERRUPTED


def _dispatch(argv: Sequence[str]) -> int:
  # General options may stand before the command.
  words = [word for word in argv if not word.startswith('-')]
  before = argv[: argv.index(words[0])] if words else argv
  if '--version' in before:
    print(f'embedmask {__version__}')
    return 0
  if {'--help', '-h'} & set(before) or not argv:
    print(_overview())
    return 0 if argv else USER_MISTAKE
  if unknown := [option for option in before if option != '--quiet']:
    raise UserError(f'unknown option {unknown[0]}; see embedmask --help')
  if not words:
    raise UserError('no command; see embedmask --help')
  command = _find(words[0])
  config_flags, others = split_config_flags([*before, *argv[len(before) + 1 :]])
  parser = _make_parser(words[0], command)
  try:
    arguments = parser.parse_args(others)
  except SystemExit:  # --help has been printed
    return 0
  if config_flags and not command.TAKES_CONFIG:
    raise UserError(f'{config_flags[0]}: embedmask {words[0]} takes no config')
  arguments.config_flags = config_flags
  configure_logging(is_quiet=arguments.quiet)
  return command.run(arguments)


def _find(name: str) -> ModuleType:
  if name not in COMMANDS:
    alike = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    hint = f'did you mean {alike[0]}?' if alike else f'there are {", ".join(COMMANDS)}'
    raise UserError(f'there is no command {name!r}; {hint}')
  return importlib.import_module(f'embedmask_jax.commands.{COMMANDS[name]}')


def _make_parser(name: str, command: ModuleType) -> _Parser:
  parser = _Parser(
    prog=f'embedmask {name}',
    description=command.__doc__,
    epilog=f'example:\n{command.EXAMPLE}\n{_STATUS}',
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  command.add_arguments(parser)
  if command.TAKES_CONFIG:
    # Here for --help only: `split_config_flags` has taken them out before.
    parser.add_argument('--config', metavar='FILE.py', help='such as configs/custom.py')
    parser.add_argument(
      '--config.PART.FIELD',
      dest='config_field',
      metavar='VALUE',
      help='changes a field of the config; all are listed in configs/base.py',
    )
  parser.add_argument(
    '--quiet', action='store_true', help='warnings, errors and the result only'
  )
  return parser


def _overview() -> str:
  lines = [
    'usage: embedmask [--version] [--help] [--quiet] COMMAND ...',
    '',
    'EmbedMask: one-stage instance segmentation.',
    '',
  ]
  lines += [f'  {name:<12}{_find(name).SUMMARY}' for name in COMMANDS]
  lines += ['', 'embedmask COMMAND --help describes a command.', '', _STATUS.rstrip()]
  return '\n'.join(lines)


def configure_logging(*, is_quiet: bool = False) -> None:
  """Our messages from INFO up, those of the libraries from WARNING up, to stderr.

  Args:
    is_quiet: ours from WARNING up as well.
  """
  from absl import logging as absl_logging

  def is_wanted(record: logging.LogRecord) -> bool:
    if 'embedmask_jax' in Path(record.pathname).parts:
      return True
    # Orbax warns about metrics and files that are absent on purpose.
    is_chatty = 'orbax' in record.pathname
    return record.levelno >= (logging.ERROR if is_chatty else logging.WARNING)

  level = logging.WARNING if is_quiet else logging.INFO
  handler = logging.StreamHandler(sys.stderr)
  handler.addFilter(is_wanted)
  logging.basicConfig(level=level, format='%(message)s', handlers=[handler], force=True)
  absl_logging.set_verbosity(absl_logging.WARNING if is_quiet else absl_logging.INFO)


def _has_other_hosts() -> bool:
  hosts = sys.modules.get('embedmask_jax.hosts')
  return hosts is not None and hosts.has_others()


if __name__ == '__main__':
  main()
