"""The devices of a run, and how arrays lie on them."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from embedmask_jax.errors import UserError
from embedmask_jax.structures import DATA_AXIS


def data_mesh(num_devices: int | None = None) -> Mesh:
  """A mesh with the axis `DATA_AXIS` over the first devices, all by default.

  Those of a host stand together, as do the rows of a batch that it reads.
  """
  devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
  return Mesh(np.asarray(devices[:num_devices]), (DATA_AXIS,))


def local_mesh() -> Mesh:
  """A mesh with the axis `DATA_AXIS` over the devices of this host alone."""
  return Mesh(np.asarray(jax.local_devices()), (DATA_AXIS,))


def replicate(mesh: Mesh, tree: Any) -> Any:
  """The arrays of a tree, alike on all hosts, whole on every device."""
  sharding = NamedSharding(mesh, PartitionSpec())

  def placed(leaf: Any) -> jax.Array:
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
      return leaf
    return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

  return jax.tree.map(placed, tree)


def split(mesh: Mesh, tree: Any) -> Any:
  """The arrays of a tree, their first axis split over the devices.

  Args:
    mesh: the devices.
    tree: this host's share of the arrays, see `BatchPlan.share`.
  """
  sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
  return jax.tree.map(
    lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), tree
  )


def check_batch_size(batch_size: int, *, devices: int, parts: int = 1) -> None:
  """Checks that every device gets the same number of images in every part.

  Args:
    batch_size: images per update.
    devices: number of devices.
    parts: accumulation steps.

  Raises:
    UserError: it does not divide; names the nearest sizes that do.
  """
  unit = devices * parts
  if batch_size % unit == 0:
    return
  below = batch_size // unit * unit
  nearest = ', '.join(str(size) for size in (below, below + unit) if size)
  over = f'{devices} devices' + (f' in {parts} parts' if parts > 1 else '')
  raise UserError(
    f'batch size {batch_size} does not divide over {over}; nearest: {nearest}; set '
    'config.train.batch_size, or fewer devices by CUDA_VISIBLE_DEVICES'
  )
