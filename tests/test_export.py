"""What is exported is what runs here, and runs without this package."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.extend.core import jaxpr_as_fun
from PIL import Image

from configs import base
from embedmask_jax import command_line
from embedmask_jax.checkpoint import Metadata, checksum
from embedmask_jax.checkpoint_writer import CheckpointWriter
from embedmask_jax.data.views import resize_sizes
from embedmask_jax.errors import UserError
from embedmask_jax.export import artifact
from embedmask_jax.export.flat_program import flat_program, split_program
from embedmask_jax.export.size_table import make_size_table
from embedmask_jax.export.verify import Row, agrees, compare, format_rows
from embedmask_jax.models.factory import build_model, init_variables
from embedmask_jax.train_state import create_train_state

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / 'docs' / 'export.md').read_text()
SIZE = (40, 60)


def random_variables(model):
  """Without the biases of an initial network, so that it finds something."""
  shapes = flatten_dict(jax.eval_shape(lambda: init_variables(model, 0)), sep='/')
  rng = np.random.default_rng(0)
  values = {
    name: jax.device_put(
      np.ones(leaf.shape, leaf.dtype)
      if name.endswith('scale')
      else rng.normal(size=leaf.shape, scale=0.1).astype(leaf.dtype)
    )
    for name, leaf in shapes.items()
  }
  return {'batch_stats': {}, **unflatten_dict(values, sep='/')}


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory):
  """A work folder with the smallest network, whose random weights find something."""
  config = base.get_config()
  config.model.update(
    {
      'backbone': 'resnet18',
      'backbone_width': 8,
      'norm': 'group',
      'frozen_stages': 0,
      'fpn_channels': 16,
      'head_channels': 16,
      'head_depth': 1,
    }
  )
  config.data.short_sides = (64,)
  config.data.eval_short_side = 64
  config.data.long_side = 96
  config.eval.max_detections = 6
  config.eval.mask_chunk = 3
  config.eval.output_ladder = ((48, 64),)
  config.optim.reference_batch_size = 0
  variables = random_variables(build_model(config.model, 2))
  folder = tmp_path_factory.mktemp('run')
  metadata = Metadata(config, (3, 8), ('cat', 'dog'))
  with CheckpointWriter(folder, metadata, **config.checkpoint) as writer:
    writer.save(create_train_state(variables, optax.identity()))
  return folder


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
  path = tmp_path_factory.mktemp('photos') / 'photo.jpg'
  noise = np.random.default_rng(0).integers(0, 256, (10, 15, 3), dtype=np.uint8)
  Image.fromarray(noise).resize(SIZE[::-1]).save(path)
  return path


def export(run_folder, output, *options):
  flags = (f'--output={output}', '--compilation-cache=off')
  return command_line.run(['export', str(run_folder), *flags, *options])


def snippet(containing):
  """The Python snippet of the page with some text in it."""
  blocks = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
  [found] = [block for block in blocks if containing in block]
  return found


def run_alone(code, folder):
  """Runs code in a process of its own in which our package cannot be imported."""
  (folder / 'alone.py').write_text(
    f"import sys\nsys.modules['embedmask_jax'] = None\n{code}"
  )
  done = subprocess.run(
    [sys.executable, '-P', 'alone.py'],
    cwd=folder,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.splitlines()


def test_stablehlo_agrees_and_runs_with_jax_alone(run_folder, photo, tmp_path, capsys):
  pytest.importorskip('flatbuffers')
  output = tmp_path / 'exported'
  assert export(run_folder, output, '--verify', str(photo)) == 0
  table = capsys.readouterr().out.splitlines()
  assert table[1].split()[:4] == ['photo.jpg', '6', '6', '6']
  assert table[-1].startswith('agree')
  assert sorted(path.name for path in output.iterdir()) == [
    'contract.json',
    'function.bin',
    'weights.npz',
  ]
  shutil.copy(photo, tmp_path)
  lines = run_alone(snippet('jax.export.deserialize'), tmp_path)
  assert len(lines) == 6
  assert {line.split()[0] for line in lines} <= {'cat', 'dog'}
  check_contract(output, 'stablehlo')
  contract = json.loads((output / 'contract.json').read_text())
  assert contract['platforms'] == ['cpu', 'cuda', 'tpu']
  weights = dict(np.load(output / 'weights.npz'))
  assert checksum(weights) == contract['model']['weights_crc32']
  with pytest.raises(SystemExit) as refused:
    command_line.main(['export', str(run_folder), f'-o={output}'])
  assert refused.value.code == 2  # it has files in it


@pytest.mark.slow
def test_onnx_agrees_and_runs_in_onnx_runtime(run_folder, photo, tmp_path, capsys):
  onnx = pytest.importorskip('onnx')
  pytest.importorskip('onnxruntime')
  pytest.importorskip('jax2onnx')
  output = tmp_path / 'exported-onnx'
  # So low that the masks of these weights have pixels.
  options = ('--format=onnx', '--config.eval.mask_threshold=1e-8')
  assert export(run_folder, output, *options, '--verify', str(photo)) == 0
  table = capsys.readouterr().out.splitlines()
  assert table[1].split()[:4] == ['photo.jpg', '6', '6', '6']
  assert int(table[1].split()[7]) > 0
  assert table[-1].startswith('agree')
  files = sorted(path.name for path in output.iterdir())
  assert files == ['contract.json', 'model.onnx']
  shutil.copy(photo, tmp_path)
  lines = run_alone(snippet('InferenceSession'), tmp_path)
  assert len(lines) == 6
  assert {line.split()[0] for line in lines} <= {'cat', 'dog'}
  check_contract(output, 'onnx')
  contract = json.loads((output / 'contract.json').read_text())
  constants = {
    tensor.name: onnx.numpy_helper.to_array(tensor)
    for tensor in onnx.load(output / 'model.onnx').graph.initializer
  }
  weights = {name: array for name, array in constants.items() if 'params/' in name}
  assert checksum(weights) == contract['model']['weights_crc32']


def test_onnx_is_in_float32(run_folder, tmp_path, capsys):
  options = ('--format=onnx', '--config.model.dtype=bfloat16')
  assert export(run_folder, tmp_path / 'exported', *options) == 2
  assert 'add --config.model.dtype=float32' in capsys.readouterr().err


def test_a_program_in_pieces_is_the_program():
  table = jnp.arange(6.0)

  def clear(x):
    return jnp.where(jnp.arange(6) < 4, x, 0)

  def function(x, y):
    jnp.sin(x)  # of no use
    z = clear(jax.nn.relu(clear(x) + table)) * y
    return jax.lax.cond(y > 1, jnp.exp, jnp.negative, z), z.sum(), y

  args = jnp.linspace(-2, 3, 6), jnp.float32(1.5)
  flat = flat_program(function, args)
  names = [equation.primitive.name for equation in flat.jaxpr.eqns]
  assert {'jit', 'custom_jvp_call', 'sin'}.isdisjoint(names)
  assert names.count('lt') == 1
  pieces = split_program(flat, 3)
  assert [len(piece.program.eqns) for piece in pieces[:-1]] == [3] * (len(pieces) - 1)
  values = dict(zip(flat.jaxpr.invars, args, strict=True))
  for piece in pieces:
    results = jaxpr_as_fun(piece.program)(*(values[name] for name in piece.inputs))
    values.update(zip(piece.outputs, results, strict=True))
  found = [values[name] for name in flat.jaxpr.outvars]
  np.testing.assert_allclose(found[0], function(*args)[0], rtol=1e-6)
  np.testing.assert_allclose(found[1], function(*args)[1], rtol=1e-6)
  assert found[2] == args[1]


def check_contract(output, kind):
  contract = json.loads((output / 'contract.json').read_text())
  assert contract['format'] == kind
  assert [entry['name'] for entry in contract['inputs']] == ['image', 'size']
  shapes = {entry['name']: entry['shape'] for entry in contract['outputs']}
  assert shapes['masks'] == [6, 48, 64]
  assert shapes['boxes'] == [6, 4]
  assert contract['categories'] == [
    {'class': 0, 'id': 3, 'name': 'cat'},
    {'class': 1, 'id': 8, 'name': 'dog'},
  ]
  for name, facts in contract['files'].items():
    assert (output / name).stat().st_size == facts['bytes']


def test_a_refused_export_leaves_nothing(run_folder, photo, tmp_path, capsys):
  output = tmp_path / 'exported'
  options = ('--canvas=32x48', '--verify', str(photo))
  assert export(run_folder, output, *options) == 2
  assert 'has 40x60 pixels and does not fit --canvas=32x48' in capsys.readouterr().err
  assert not [path for path in tmp_path.rglob('*') if path.is_file()]


@pytest.mark.parametrize('place', ['beside', 'within', 'in the end'])
def test_a_folder_that_cannot_be_written_is_told(
  run_folder, tmp_path, capsys, monkeypatch, place
):
  output = tmp_path / 'exported'

  def full(*_, **__):
    raise OSError(28, 'No space left on device')

  def write(*_):
    if place == 'within':
      full()
    (output / 'of another').touch()
    return []

  if place == 'beside':
    monkeypatch.setattr(tempfile, 'mkdtemp', full)
  monkeypatch.setattr(artifact.stablehlo, 'write_stablehlo', write)
  monkeypatch.setattr(artifact, 'make_contract', lambda *_, **__: {})
  monkeypatch.setattr(artifact, 'load_model', lambda *_: (None, {}))
  monkeypatch.setattr(artifact, 'make_function', lambda *_: None)
  assert export(run_folder, output) == 2
  error = capsys.readouterr().err
  assert f'--output={output} cannot be written' in error
  assert [path.name for path in tmp_path.iterdir()] == ['exported']


def test_the_table_has_the_sizes_of_the_host():
  def resized(sizes):
    return resize_sizes(sizes, 64, 96)

  table = make_size_table(resized, (48, 64), long_side=96)
  assert table.network_canvas == (96, 96)
  for height, width in ((40, 60), (48, 64), (48, 20), (7, 64)):
    [expected] = resized(np.asarray([[height, width]])).tolist()
    assert table.sizes[height - 1, width - 1].tolist() == expected
  small = make_size_table(resized, (48, 64), long_side=96, network_canvas=(64, 96))
  assert small.num_smaller > table.num_smaller
  assert (small.sizes <= (64, 96)).all()
  assert small.sizes[39, 59].tolist() == [64, 96]
  with pytest.raises(UserError, match='too large to be resized'):
    make_size_table(lambda sizes: np.minimum(sizes, 2), (2048, 2048), long_side=2)


def found(boxes, score=0.9):
  boxes = np.asarray(boxes, np.float32)
  masks = np.zeros((len(boxes), 20, 20), bool)
  for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
    mask[y1 : y2 + 1, x1 : x2 + 1] = True
  scores = np.full(len(boxes), score, np.float32)
  classes = np.zeros(len(boxes), np.int32)
  return {'boxes': boxes, 'scores': scores, 'classes': classes, 'masks': masks}


def test_differences_are_seen():
  one, two = [0, 0, 9, 9], [10, 10, 19, 19]
  same = compare(found([one, two]), found([two, one]))
  assert (same.num_matched, same.box_error, same.mask_difference) == (2, 0, 0)
  assert same.mask_area == 200
  assert agrees([same])
  moved = compare(found([one, two]), found([one, [11, 10, 19, 19]]))
  assert (moved.num_matched, moved.box_error, moved.mask_difference) == (2, 1, 10)
  assert not agrees([moved])
  assert not agrees([compare(found([one]), found([one], score=0.8))])
  missing = compare(found([one, two]), found([one]))
  assert missing.num_matched == 1
  assert not agrees([missing])
  assert not agrees([compare(found([one]), found([one, two]))])
  wrong_class = {**found([one]), 'classes': np.ones(1, np.int32)}
  assert compare(found([one]), wrong_class).num_matched == 0
  assert agrees([compare(found(np.zeros((0, 4))), found(np.zeros((0, 4))))])
  assert 'DISAGREE' in format_rows([Row('a.png', missing, 0.1, 0.2)])
