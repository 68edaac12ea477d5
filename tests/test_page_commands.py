"""Every command in README.md and the pages of docs/ would be taken as it stands.

Nothing is trained: the words go through the program's own parser and its reader of
configs, and a stand-in takes the place of what would then run. Launch scripts are run
dry. What cannot be tried in this way carries `<!-- not run: REASON -->` in the line
above its block; `.ci/run` runs `make quickstart`, tests, docs and linters.
"""

import ast
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
import types

import pytest
from handmade_prediction import prediction
from pages import GUIDES, ROOT, Block, blocks

from configs import base
from embedmask_jax import command_line, main
from embedmask_jax.config import check_names
from embedmask_jax.config_reading import required_config, stored_or_given_config
from embedmask_jax.predict import Predictor

PAGES = [page for page in GUIDES if page.name != 'CHANGELOG.md']
# Blocks without commands in them.
QUIET = ('text', 'json', 'yaml', '{toctree}', '{eval-rst}', '{literalinclude}')
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
_PYTHON = re.compile(r'(\.venv/bin/)?python3?')


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
  """Commands end where they would begin to work; configs are read all the same."""
  monkeypatch.chdir(ROOT)

  def read_config(arguments) -> int:
    flags = arguments.config_flags
    if any(flag.startswith('--config=') for flag in flags):
      required_config(flags)
    elif flags:
      stored_or_given_config(base.get_config(), flags)
    return 0

  for name in command_line.COMMANDS.values():
    module = importlib.import_module(f'embedmask_jax.commands.{name}')
    monkeypatch.setattr(module, 'run', read_config)


class RefusedError(Exception):
  """Why a command would not be taken."""


def commands_of(text: str) -> list[list[str]]:
  """The words of every command of a block of shell."""
  joined = re.sub(r'\\\n\s*', ' ', text)
  return [
    words for line in joined.splitlines() if (words := shlex.split(line, comments=True))
  ]


def try_command(words: list[str], environment: dict[str, str]) -> None:
  """Raises `RefusedError` where a command would not be taken.

  Args:
    words: of the command.
    environment: what `export` has set before in this block; changed by it.
  """
  own = dict(environment)
  while words and (assignment := re.fullmatch(r'(\w+)=(.*)', words[0])):
    own[assignment[1]] = assignment[2]
    words = words[1:]
  program, *rest = words
  if program == 'export':
    environment.update(word.split('=', 1) for word in rest)
  elif program == 'embedmask':
    expect(command_line.run(rest) == 0, 'embedmask refuses it')
  elif _PYTHON.fullmatch(program):
    try_python(rest)
  elif program == 'make':
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M))
    names = [word for word in rest if '=' not in word]
    expect(set(names) <= targets, f'no target of the Makefile: {names}')
  elif program.split('/')[-1] == 'pip':
    try_pip(rest)
  elif program.startswith('experiments/launch/'):
    expect('--dry-run' in rest, 'a launch script without --dry-run')
    done = subprocess.run(
      [ROOT / program, *rest],
      env=os.environ | own,
      capture_output=True,
      text=True,
      check=False,
    )
    expect(done.returncode == 0, done.stderr)
    command_line_in(rest)
  else:
    raise RefusedError(f'nothing here tries {program}; mark the block as not run')


def command_line_in(words: list[str]) -> None:
  """Tries what a launch script hands on to training."""
  flags = [word for word in words if word.startswith('--') and word != '--dry-run']
  if flags:
    expect(main.run(['main', *flags]) == 0, 'training refuses what it is handed')


def try_python(words: list[str]) -> None:
  """Raises `RefusedError` where `python WORDS` would not be taken."""
  if words[:2] == ['-m', 'embedmask_jax.main']:
    expect(main.run(['main', *words[2:]]) == 0, 'embedmask_jax.main refuses it')
    return
  if words[0] == '-m':
    if words[1] in ('venv', 'pytest'):
      return
    file, rest = ROOT / (words[1].replace('.', '/') + '.py'), words[2:]
  else:
    file, rest = ROOT / words[0], words[1:]
  expect(file.is_file(), f'no such script: {file}')
  source = file.read_text()
  for word in rest:
    option = word.split('=')[0]
    name = option.removeprefix('--')
    known = name == option or re.search(rf"""['"](--)?{name}['"]""", source)
    expect(bool(known), f'{file.name} has no {option}')
    expect(not word.startswith('tests/') or (ROOT / word).exists(), f'no {word}')


def try_pip(words: list[str]) -> None:
  """Raises `RefusedError` where an extra or a file that is named does not exist."""
  for before, word in zip(['', *words], words, strict=False):
    if match := re.fullmatch(r'(?:\.|embedmask-jax)\[([\w,]+)\]', word):
      missing = set(match[1].split(',')) - set(PROJECT['optional-dependencies'])
      expect(not missing, f'no such extra: {missing}')
    elif before in ('-r', '--requirement'):
      expect((ROOT / word).is_file(), f'no such file: {word}')


def expect(holds: bool, complaint: str) -> None:
  if not holds:
    raise RefusedError(complaint)


def try_shell(block: Block) -> None:
  environment: dict[str, str] = {}
  for words in commands_of(block.text):
    try_command(words, environment)


def try_console(block: Block, capsys) -> None:
  """Commands after `$`; one that is refused must say what the page says."""
  parts = re.split(r'^\$ ', block.text, flags=re.MULTILINE)[1:]
  for part in parts:
    lines = re.sub(r'\\\n\s*', ' ', part).splitlines()
    capsys.readouterr()
    try:
      [words] = commands_of(lines[0])
      try_command(words, {})
    except RefusedError:
      said = capsys.readouterr().err.strip()
      expect(said != '' and said in part, f'{lines[0]}: {said}')


def try_python_block(block: Block, monkeypatch, tmp_path) -> None:
  """Runs the block with a prediction made by hand; nothing is read or detected."""

  class StandIn:
    @classmethod
    def from_checkpoint(cls, path, **options):
      allowed = inspect.signature(Predictor.__init__).parameters
      expect(set(options) <= set(allowed), f'Predictor does not take {options}')
      return cls()

    def __call__(self, images):
      return [prediction() for _ in images]

  supervision = types.SimpleNamespace(Detections=lambda **values: values)
  monkeypatch.setitem(sys.modules, 'supervision', supervision)
  monkeypatch.setattr('embedmask_jax.predict.Predictor', StandIn)
  monkeypatch.chdir(tmp_path)
  exec(compile(ast.parse(block.text), 'block', 'exec'), {'__name__': 'block'})


CASES = [
  pytest.param(block, id=f'{page.relative_to(ROOT)}:{block.line}')
  for page in PAGES
  for block in blocks(page.read_text())
]


@pytest.mark.parametrize('block', CASES)
def test_a_block_would_be_taken(block, capsys, monkeypatch, tmp_path):
  if block.reason or block.language in QUIET:
    return
  if block.language in ('sh', 'bash'):
    try_shell(block)
  elif block.language == 'console':
    try_console(block, capsys)
  elif block.language == 'python':
    try_python_block(block, monkeypatch, tmp_path)
  else:
    pytest.fail(f'a block needs a language, and {block.language!r} is not one of them')


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_fields_that_a_page_names_exist(page):
  """Whether in a block or between the words."""
  names = set(re.findall(r'--config\.([a-z0-9_]+(?:\.[a-z0-9_]+)+)', page.read_text()))
  check_names(names - {'part.field', 'train.stepz'})


@pytest.mark.parametrize(
  'text',
  [
    'embedmask trian --workdir=w',
    'embedmask train --workdir=w --config=configs/custom.py --config.train.stepz=3',
    'embedmask train --workdir=w --config=configs/custom.py --config.train.steps=0',
    'embedmask train --workdir=w --config=configs/costum.py',
    'embedmask predict a.png --checkpoint=c --output=o --treshold=0.3',
    'embedmask eval --checkpoint=c \\\n  --config.eval.max_dets=5',
    'python -m embedmask_jax.main --mode=imprt',
    'python tests/golden_check.py tests/golden/2018',
    'python experiments/benchmarks/train_step.py --instance=16',
    'python experiments/benchmarks/nothing.py',
    'make quikstart',
    "pip install -e '.[gsc]'",
    'pip install -r requirement.txt',
    'NODES=2 experiments/launch/slurm.sh --dry-run --config=configs/custom.py',
    'experiments/launch/gpus.sh --config=configs/custom.py --workdir=w',
    'experiments/launch/gpus.sh --dry-run --config=configs/custom.py',
    'rm -r runs',
  ],
)
def test_a_broken_command_is_noticed(text):
  with pytest.raises(RefusedError):
    try_shell(Block(line=1, language='sh', text=text + '\n', reason=''))


def test_a_mark_belongs_to_the_block_below_it():
  text = '<!-- not run: too long -->\n\n```sh\nx\n```\n\n```sh\ny\n```\n'
  assert [block.reason for block in blocks(text)] == ['too long', '']
