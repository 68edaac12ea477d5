"""The processes of a run, and what only the first of them does.

A run on several machines has a process on each (or one per GPU), here called a host.
JAX finds the others by itself on Cloud TPU, in GKE jobs for TPUs, and under Slurm and
Open MPI. Elsewhere, as for several processes on one machine, they are named by

  JAX_COORDINATOR_ADDRESS  address:port of the first process
  JAX_NUM_PROCESSES        how many there are
  JAX_PROCESS_ID           which this one is, from 0

Where they share a machine, JAX_LOCAL_DEVICE_IDS gives each its GPUs; without it, each
takes all of them.

A host that fails leaves at once, and one that vanishes is missed after
`HEARTBEAT_SECONDS`: either makes the others exit instead of waiting for ever.
"""

import itertools
import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from embedmask_jax.errors import UserError

# From the last sign of life of a host until the others give it up.
HEARTBEAT_SECONDS = 60

# The first may evaluate for long while the others wait.
_LONGEST_WAIT_MS = 7 * 24 * 3600 * 1000

_NAMES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
_waits = itertools.count()


def join(environment: Mapping[str, str] = os.environ) -> None:
  """Joins the other hosts; alone, where the environment names none.

  Must precede everything that asks JAX for devices.

  Raises:
    UserError: some of the three variables are missing or not numbers, or the other
      hosts cannot be reached.
  """
  try:
    jax.distributed.initialize(
      **_named_in(environment), heartbeat_timeout_seconds=HEARTBEAT_SECONDS
    )
  except ValueError as error:
    if 'coordinator_address should be defined' in str(error):
      return
    raise UserError(f'the hosts of this run: {error}') from error
  except RuntimeError as error:
    reason = str(error).splitlines()[0]
    raise UserError(
      f'the hosts of this run do not find each other ({reason}); for a run on this '
      'one alone pass --no-distributed (main.py: --nodistributed)'
    ) from error
  if not is_first():
    for handler in logging.getLogger().handlers:
      handler.setLevel(logging.WARNING)


def is_first() -> bool:
  """Whether this host writes, logs and evaluates."""
  return jax.process_index() == 0


def has_others() -> bool:
  """Whether this run has joined others."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def from_first(value: Any) -> Any:
  """The first host's `value`, made of JSON's types, on every host; others' count not.

  Every host must call it, at the same places; all wait for the first.
  """
  if jax.process_count() == 1:
    return value
  # Without the collectives of the devices, which do not wait for long.
  ocp.multihost.get_barrier_sync_fn()(
    key=f'embedmask_jax_{next(_waits)}', timeout_ms=_LONGEST_WAIT_MS
  )
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
  sent = multihost_utils.broadcast_one_to_all(np.resize(text, length))
  return json.loads(np.asarray(sent, np.uint8).tobytes())


def leave(status: int) -> None:
  """Ends a host that has failed, without a goodbye that would wait for the others."""
  sys.stdout.flush()
  sys.stderr.flush()
  logging.shutdown()
  os._exit(status)


def _named_in(environment: Mapping[str, str]) -> dict[str, Any]:
  """The arguments of `initialize` that the three variables give, if they are set."""
  address, count, index = (environment.get(name) for name in _NAMES)
  if count is None and index is None:
    return {}
  if not (address and count and index and count.isdigit() and index.isdigit()):
    given = ', '.join(f'{name}={environment.get(name)}' for name in _NAMES)
    raise UserError(f'{given}: all three must be set, the last two to numbers')
  return {
    'coordinator_address': address,
    'num_processes': int(count),
    'process_id': int(index),
  }
