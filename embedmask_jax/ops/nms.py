"""Class-aware greedy non-maximum suppression with static shapes."""

import jax
import jax.numpy as jnp

from embedmask_jax.ops.boxes import box_iou
from embedmask_jax.structures import Array


def greedy_nms(
  boxes: Array, labels: Array, valid: Array, *, threshold: float, extent: int = 1
) -> Array:
  """Returns bool [K], the boxes that greedy NMS keeps.

  The boxes must be sorted, best first. Going down the list, a box is kept unless
  a kept box of its class before it overlaps it with an IoU above the threshold.
  That is the one solution of `keep = valid & ~any(keep & suppresses)`, which is
  reached by iterating until nothing changes: each round settles at least the
  next undecided box, and in practice a few rounds settle all.

  Args:
    boxes: float32 [K, 4].
    labels: int32 [K].
    valid: bool [K]; boxes that are not valid neither stay nor suppress.
    threshold: an IoU equal to it does not suppress.
    extent: see `ops.boxes`.
  """
  count = boxes.shape[0]
  before = jnp.arange(count)[:, None] < jnp.arange(count)[None, :]
  same_class = labels[:, None] == labels[None, :]
  overlap = box_iou(boxes[:, None], boxes[None, :], extent=extent) > threshold
  suppresses = before & same_class & overlap & valid[:, None]

  def unsettled(state: tuple[Array, Array]) -> Array:
    return state[1]

  def settle(state: tuple[Array, Array]) -> tuple[Array, Array]:
    keep, _ = state
    updated = valid & ~jnp.any(suppresses & keep[:, None], axis=0)
    return updated, jnp.any(updated != keep)

  # `valid & True` keeps the carry's type the same under a device mapping.
  keep, _ = jax.lax.while_loop(unsettled, settle, (valid, jnp.any(valid)))
  return keep
