"""Who may import whom, read from the files, and what an import brings along."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = 'embedmask_jax'

# A module, or all modules of a folder -> what it may import of ours. What is not
# named here (training, evaluation, prediction, weights ...) may import everything.
OURS = {
  'structures': (),
  'errors': (),
  'presets': (),
  'ops': ('ops', 'structures'),
  'models': ('models', 'ops', 'presets', 'structures'),
  'targets': ('ops', 'presets', 'structures'),
  'proposal_sampling': ('ops', 'presets', 'structures'),
  'mask_loss': ('ops', 'presets', 'proposal_sampling', 'structures'),
  'losses': ('mask_loss', 'ops', 'presets', 'proposal_sampling', 'structures'),
  'mask_readout': ('ops', 'presets', 'structures'),
  'postprocess': ('mask_readout', 'ops', 'presets', 'structures'),
  'storage': ('errors',),
  'stored_model': ('checkpoint', 'devices', 'models', 'postprocess'),
  'data': ('data', 'errors', 'ops.locations', 'presets', 'storage', 'writing'),
  'prepare': (
    *('data', 'errors', 'folders', 'image_files', 'metrics', 'prepare', 'storage'),
    'writing',
  ),
  'check': (
    *('check', 'data', 'datasets', 'errors', 'image_files', 'mask_readout', 'metrics'),
    *('models', 'ops', 'postprocess', 'presets', 'storage', 'structures', 'targets'),
    'visualize',
  ),
  'charts': (),
  'output_kinds': (),
  'report': ('charts', 'metrics', 'report', 'visualize'),
}
# A module or folder -> what it may not import, not even inside a function.
FORBIDDEN = {
  'data': ('jax', 'jaxlib', 'flax', 'optax', 'orbax', 'torch'),
  'prepare': ('jax', 'jaxlib', 'flax', 'optax', 'orbax', 'torch'),
  'ops': ('flax', 'ml_collections', 'absl'),
  'ops.locations': ('jax',),
  'presets': ('jax', 'flax'),
  'charts': ('jax', 'numpy'),
  'report': ('jax', 'flax'),
  'predict': (f'{PACKAGE}.evaluate',),
  'export': (f'{PACKAGE}.evaluate',),
}
# Where a config is a ConfigDict (checkpoints carry it); all else takes plain arguments.
CONFIG_AWARE = (
  'check.data_check',
  'check.step_size',
  'checkpoint',
  'compile_ahead',
  'config',
  'config_reading',
  'convert',
  'datasets',
  'evaluate',
  'evaluation_folder',
  'export',
  'models.factory',
  'predict',
  'stored_model',
  'train',
)
# Optional: inside a function only.
LAZY = (
  *('av', 'flatbuffers', 'gradio', 'jax2onnx', 'onnx', 'onnxruntime', 'starlette'),
  *('supervision', 'torch'),
)

# Parts of gcsfs and Gradio, and what who calls `to_supervision` has.
WITH_OTHERS = ('fsspec', 'starlette', 'supervision')


def under(name: str, prefixes: tuple[str, ...]) -> bool:
  return any(name == prefix or name.startswith(prefix + '.') for prefix in prefixes)


def imports(tree: ast.AST) -> Iterator[str]:
  """Full names, with the imported attribute as the last part of a `from` import."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'relative import in line {node.lineno}'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def imports_when_loaded(tree: ast.AST) -> Iterator[str]:
  for node in ast.iter_child_nodes(tree):
    if isinstance(node, ast.Import | ast.ImportFrom):
      yield from imports(node)
    elif isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
      continue
    elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      yield from imports_when_loaded(node)


def complaints(module: str, source: str) -> list[str]:
  """What `module` (a dotted name inside the package) imports against the rules."""
  tree = ast.parse(source)
  names = list(imports(tree))
  found = []
  for layer, allowed in OURS.items():
    if under(module, (layer,)):
      ours = [
        name.removeprefix(PACKAGE + '.') for name in names if under(name, (PACKAGE,))
      ]
      found += [f'{module} -> {name}' for name in ours if not under(name, allowed)]
  for layer, forbidden in FORBIDDEN.items():
    if under(module, (layer,)):
      found += [f'{module} -> {name}' for name in names if under(name, forbidden)]
  if not under(module, CONFIG_AWARE):
    not_below = ('configs', 'ml_collections')
    found += [f'{module} -> {name}' for name in names if under(name, not_below)]
    found += [
      f'{module} takes a config in line {node.lineno}'
      for node in ast.walk(tree)
      if isinstance(node, ast.arg) and node.arg == 'config'
    ]
  found += [f'{module} -> {name}' for name in names if under(name, ('tensorflow',))]
  found += [
    f'{module} -> {name} when loaded'
    for name in imports_when_loaded(tree)
    if under(name, LAZY)
  ]
  return found


def test_modules_import_only_what_their_layer_may():
  files = sorted((ROOT / PACKAGE).rglob('*.py'))
  assert len(files) > 20
  found = []
  for file in files:
    parts = file.relative_to(ROOT / PACKAGE).with_suffix('').parts
    module = '.'.join(part for part in parts if part != '__init__')
    found += complaints(module, file.read_text())
  assert not found


def test_nothing_imports_tensorflow():
  found = [
    f'{file.relative_to(ROOT)} -> {name}'
    for folder in ('configs', 'experiments', 'tests')
    for file in sorted((ROOT / folder).rglob('*.py'))
    for name in imports(ast.parse(file.read_text()))
    if under(name, ('tensorflow',))
  ]
  assert not found


def spelt(package: str) -> str:
  return package.lower().replace('_', '-')


def test_what_is_imported_is_declared():
  """As a dependency or in an extra, not merely brought along by another package."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  extras = project['optional-dependencies']
  # What builds and tests this repository is no user's.
  wanted = [extra for name, extra in extras.items() if name not in ('docs', 'test')]
  lines = itertools.chain(project['dependencies'], *wanted)
  declared = {spelt(re.split(r'[^\w.-]', line)[0]) for line in lines}
  found = {
    name.split('.')[0]
    for file in (ROOT / PACKAGE).rglob('*.py')
    for name in imports(ast.parse(file.read_text()))
  }
  ours = {PACKAGE, 'configs', *sys.stdlib_module_names, *WITH_OTHERS}
  packages = metadata.packages_distributions()
  missing = {
    name
    for name in found - ours
    if not declared & {spelt(package) for package in packages.get(name, [name])}
  }
  assert not missing


def test_every_layer_with_a_rule_exists():
  for layer in {*OURS, *FORBIDDEN, *CONFIG_AWARE}:
    path = ROOT / PACKAGE / layer.replace('.', '/')
    assert path.is_dir() or path.with_suffix('.py').is_file(), layer


@pytest.mark.parametrize(
  ('module', 'source'),
  [
    ('ops.boxes', 'from embedmask_jax.models import fpn'),
    ('ops.boxes', 'from embedmask_jax import errors'),
    ('ops.boxes', 'import embedmask_jax.targets'),
    ('ops.locations', 'import jax.numpy as jnp'),
    ('models.heads', 'from embedmask_jax.losses import focal'),
    ('models.heads', 'from ml_collections import ConfigDict'),
    ('losses', 'from embedmask_jax.targets import assign'),
    ('postprocess', 'def f():\n  from embedmask_jax.data import masks'),
    ('data.masks', 'def f():\n  import jax'),
    ('data.masks', 'from embedmask_jax.structures import Batch'),
    ('data.masks', 'from embedmask_jax.ops.boxes import box_iou'),
    ('train_step', 'from configs import base'),
    ('train_step', 'def f(config: Any):\n  pass'),
    ('metrics.writer', 'def f():\n  import tensorflow as tf'),
    ('weights.authors', 'if True:\n  import torch'),
    ('predict.predictor', 'from embedmask_jax.evaluate import Evaluator'),
  ],
)
def test_a_broken_rule_is_noticed(module, source):
  assert complaints(module, source)


@pytest.mark.parametrize(
  ('module', 'source'),
  [
    ('ops.nms', 'from embedmask_jax.ops.boxes import box_iou\nimport jax'),
    ('models.factory', 'from ml_collections import ConfigDict'),
    ('data.masks', 'from embedmask_jax.ops import locations'),
    ('data.tfds_builder', 'import tensorflow_datasets as tfds'),
    ('train', 'import embedmask_jax.losses'),
    ('weights.authors', 'class A:\n  def f(self):\n    import torch'),
    ('predict.prediction', 'if TYPE_CHECKING:\n  import supervision'),
  ],
)
def test_a_kept_rule_passes(module, source):
  assert not complaints(module, source)


def loaded_by(code: str) -> set[str]:
  """The packages that a fresh interpreter has loaded after `code`."""
  report = (
    'import sys; print("\\nloaded:", *{name.split(".")[0] for name in sys.modules})'
  )
  result = subprocess.run(
    [sys.executable, '-c', f'{code}\n{report}'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  return set(result.stdout.rpartition('loaded:')[2].split())


HEAVY = {
  *('flax', 'gradio', 'grain', 'jax'),
  *('tensorflow', 'tensorflow_datasets', 'torch'),
}


def test_the_package_loads_without_jax():
  assert not loaded_by(f'import {PACKAGE}') & HEAVY


def test_help_comes_without_jax():
  code = f"""
import runpy, sys
sys.argv = ['main', '--help']
try:
  runpy.run_module('{PACKAGE}.main', run_name='__main__')
except SystemExit:
  pass
else:
  raise AssertionError('--help does not end the program')
"""
  assert not loaded_by(code) & HEAVY


def test_data_loads_without_jax():
  # The builder's class is TFDS's own, and TFDS brings jax along.
  modules = [
    f'{PACKAGE}.data.{file.stem}'
    for file in sorted((ROOT / PACKAGE / 'data').glob('*.py'))
    if file.stem not in ('__init__', 'tfds_builder')
  ]
  assert modules
  assert not loaded_by('\n'.join(f'import {module}' for module in modules)) & HEAVY
