"""A run of the real training loop around a network of a few numbers, as a process.

  python tests/toy_run.py WORKDIR [--config.part.field=value ...]

Data, checkpoints, logs and hosts are real. WORKDIR/seen.<host>.jsonl gets a line for
every batch: the step and the images of this host's share. Where TOY_WORKDIR names
another work folder, such as one in a bucket, WORKDIR gets nothing else.

Environment: TOY_STEP_SECONDS, how long a step takes; TOY_HEARTBEAT_SECONDS, see
`hosts.py`; TOY_DIE_IN_WRITE=n, the n-th
checkpoint that this process writes is not finished: it kills itself before the rename
that would complete it; JAX_COORDINATOR_ADDRESS and so on, see `hosts.py`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from configs import base
from embedmask_jax import hosts, main
from embedmask_jax import train as train_module
from embedmask_jax.structures import DATA_AXIS
from embedmask_jax.train_state import TrainState, keep_finite, moving_average

# Large enough that writing it takes a moment.
_WEIGHTS = 200_000


def get_config():
  """Twenty steps of four small scenes, a checkpoint every third."""
  config = base.get_config()
  config.data.generated.enabled = True
  config.data.generated.train_images = 9
  config.data.generated.eval_images = 2
  config.data.generated.image_size = 64
  config.data.short_sides = (64,)
  config.data.eval_short_side = 64
  config.data.long_side = 64
  config.train.batch_size = 4
  config.train.steps = 20
  config.train.log_every = 1
  config.train.eval_every = 0
  config.train.checkpoint_every = 3
  config.optim.reference_batch_size = 0
  config.model.norm = 'group'
  config.model.frozen_stages = 0
  return config


def toy_variables(model, seed):
  del model
  weights = np.random.default_rng(seed).normal(size=_WEIGHTS)
  stem = {'kernel': jnp.asarray(weights, jnp.float32)}
  return {
    'params': {'backbone': {'stem': stem}, 'head': {'weight': jnp.asarray([0.5, -2])}},
    'batch_stats': {},
  }


def make_toy_step(
  model, optimizer, mesh, *, accumulation_steps, ema_decay, remat, seed
):
  """A step whose result depends on every image and on their order; not on how many
  devices it is mapped over.
  """
  del model, accumulation_steps, remat, seed

  def replica_step(state, batch):
    pixels = batch.images.astype(jnp.float32).mean(axis=(1, 2, 3)) / 255
    rows = jax.lax.axis_index(DATA_AXIS) * len(pixels) + jnp.arange(len(pixels))
    seen = jax.lax.psum(jnp.sin(pixels * 37) @ (rows + 1.0), DATA_AXIS)
    grads = jax.tree.map(lambda p: jnp.sin(p + seen), state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    new_state = TrainState(
      step=state.step + 1,
      params=params,
      batch_stats=state.batch_stats,
      opt_state=opt_state,
      ema_params=moving_average(state, params, ema_decay),
    )
    metrics = dict.fromkeys(('loss', 'loss/class', 'grad_norm'), seen)
    return keep_finite(state, new_state, jnp.isfinite(seen)), metrics

  return jax.jit(
    jax.shard_map(
      replica_step,
      mesh=mesh,
      in_specs=(PartitionSpec(), PartitionSpec(DATA_AXIS)),
      out_specs=PartitionSpec(),
    ),
    donate_argnums=0,
  )


class NoEvaluator:
  """Scores every state alike."""

  def __init__(self, model, source, config, mesh):
    assert hosts.is_first()
    assert all(device in jax.local_devices() for device in mesh.devices.flat)

  def __call__(self, variables, folder, *, step, record, writer=None):
    assert all(leaf.is_fully_addressable for leaf in jax.tree.leaves(variables))
    return {'segm/AP': 0.25, 'bbox/AP': None}


def record_batches(workdir, original):
  """Lets `train_batches` write down what it hands out, and take its time."""
  seconds = float(os.environ.get('TOY_STEP_SECONDS', '0'))

  def recorded(*args, **kwargs):
    path = workdir / f'seen.{kwargs["process_index"]}.jsonl'
    with path.open('a') as file:
      for step, arrays in original(*args, **kwargs):
        time.sleep(seconds)
        rows = arrays['image_index'].tolist()
        total = int(arrays['images'].astype(np.int64).sum())
        file.write(json.dumps([step, rows, total]) + '\n')
        file.flush()
        yield step, arrays

  return recorded


def die_in_write(number):
  """Kills this process where its `number`-th checkpoint would become complete."""
  rename = os.rename
  written = []

  def dying(source, target, **kwargs):
    if Path(target).name.isdigit():
      written.append(target)
      if len(written) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target, **kwargs)

  os.rename = dying


def run(arguments):
  # Where this is a background job, its shell has set it to be ignored.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  workdir = Path(arguments[0])
  # Long by default: a busy machine may leave a process without a turn for a while.
  hosts.HEARTBEAT_SECONDS = int(os.environ.get('TOY_HEARTBEAT_SECONDS', '900'))
  train_module.build_model = lambda config, num_classes: None
  train_module.init_variables = toy_variables
  train_module.make_train_step = make_toy_step
  train_module.Evaluator = NoEvaluator
  train_module.train_batches = record_batches(workdir, train_module.train_batches)
  if number := int(os.environ.get('TOY_DIE_IN_WRITE', '0')):
    die_in_write(number)
  target = os.environ.get('TOY_WORKDIR', workdir)
  flags = [f'--config={__file__}', f'--workdir={target}', '--compilation_cache=off']
  main.main(['main', *flags, *arguments[1:]])


def start(workdir, *flags, devices=1, **environment):
  """Starts this file as a process, with its output in WORKDIR/output.<host>."""
  host = environment.get('JAX_PROCESS_ID', '0')
  root = Path(__file__).parents[1]
  variables = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]),
    'XLA_FLAGS': ' '.join(
      [
        os.environ.get('XLA_FLAGS', ''),
        f'--xla_force_host_platform_device_count={devices}',
      ]
    ),
    **environment,
  }
  Path(workdir).mkdir(parents=True, exist_ok=True)
  with open(Path(workdir) / f'output.{host}', 'a') as output:
    return subprocess.Popen(
      [sys.executable, __file__, str(workdir), *flags],
      env=variables,
      cwd=root,
      stdout=output,
      stderr=output,
    )


def start_hosts(workdir, *flags, count, devices, **environment):
  """Starts `count` processes of one run on this machine."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  return [
    start(
      workdir,
      *flags,
      devices=devices,
      JAX_COORDINATOR_ADDRESS=f'localhost:{port}',
      JAX_NUM_PROCESSES=str(count),
      JAX_PROCESS_ID=str(host),
      **environment,
    )
    for host in range(count)
  ]


def finish(processes, workdir, *, status=0, timeout=900):
  """Waits for processes and their exit status; shows their output otherwise."""
  try:
    found = [process.wait(timeout) for process in processes]
  finally:
    for process in processes:
      process.kill()
      process.wait()
  output = [path.read_text()[-3000:] for path in sorted(workdir.glob('output.*'))]
  assert found == [status] * len(processes), '\n'.join([str(found), *output])


def seen_batches(workdir, host=0):
  """Step -> what was seen there in each life of the run, as a set."""
  batches = {}
  path = workdir / f'seen.{host}.jsonl'
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      step, *content = json.loads(line)
    except ValueError:
      continue  # the torn line of a killed run
    batches.setdefault(step, set()).add(json.dumps(content))
  return batches


def stored_checksums(workdir, step):
  path = workdir / 'checkpoints' / str(step) / 'metadata' / 'metadata.json'
  return json.loads(path.read_text())['checksums']


if __name__ == '__main__':
  run(sys.argv[1:])
