"""The mask of a proposal: clustering of pixel embeddings around it.

`log p(x) = -sum_d margin_d (pixel_d(x) - proposal_d)^2` (arXiv 1912.01954, the
Gaussian of its section on learnable margins; per-dimension margins as in the
IJCAI-21 version). A pixel belongs to the proposal where p exceeds a threshold.
"""

import jax.numpy as jnp
from jax import lax

from embedmask_jax.ops.precision import at_least_float32
from embedmask_jax.structures import Array

OUTSIDE_LOG_PROBABILITY = -10.0


def mask_log_probability(
  pixel_embedding: Array,
  proposal_embedding: Array,
  margin: Array,
  *,
  spatial_dims: int,
) -> Array:
  """Returns the log-probability, float32 [K, rows, columns], never positive.

  The square is expanded for the free dimensions, which turns them into one
  matrix product for all proposals and pixels. The spatial dimensions reach
  values of 13 on a large image, where the expansion would cancel; these few are
  computed directly.

  Args:
    pixel_embedding: [rows, columns, D].
    proposal_embedding: [K, D].
    margin: [K, D] or [K, 1], positive.
    spatial_dims: number of leading dimensions that carry coordinates.
  """
  # Float32 throughout: the distances are differences of near-equal numbers.
  pixel = at_least_float32(pixel_embedding)
  proposal = at_least_float32(proposal_embedding)
  margin = jnp.broadcast_to(at_least_float32(margin), proposal.shape)

  rows, columns, dims = pixel.shape
  free = pixel[..., spatial_dims:].reshape(rows * columns, dims - spatial_dims)
  free_proposal = proposal[:, spatial_dims:]
  free_margin = margin[:, spatial_dims:]
  pixel_terms = jnp.concatenate(
    [free**2, free, jnp.ones((rows * columns, 1), free.dtype)], axis=-1
  )
  proposal_terms = jnp.concatenate(
    [
      free_margin,
      -2 * free_margin * free_proposal,
      jnp.sum(free_margin * free_proposal**2, axis=-1, keepdims=True),
    ],
    axis=-1,
  )
  distance = jnp.matmul(
    proposal_terms, pixel_terms.T, precision=lax.Precision.HIGHEST
  ).reshape(-1, rows, columns)
  for d in range(spatial_dims):
    difference = pixel[None, ..., d] - proposal[:, d, None, None]
    distance += margin[:, d, None, None] * difference**2
  return jnp.minimum(-distance, 0)


def crop_mask(
  boxes: Array, shape: tuple[int, int], valid_size: Array, *, growth: float
) -> Array:
  """Returns bool [K, rows, columns], the cells that an instance's mask loss counts.

  They lie inside the box grown on each side by `growth` of its extent and a cell.
  The last row and column of the grid never count, as in the original.

  Args:
    boxes: float32 [K, 4], network pixels.
    shape: (rows, columns) of the stride-4 grid.
    valid_size: int32 [2], rows and columns of the grid that belong to the image.
    growth: fraction of the box's sides.
  """
  low, high = boxes[:, :2] / 4, boxes[:, 2:] / 4
  grown = (high - low) * growth + 1
  return _window(low - grown, jnp.minimum(high + grown, valid_size[::-1] - 1), shape)


def box_mask(boxes: Array, shape: tuple[int, int], valid_size: Array) -> Array:
  """Returns bool [K, rows, columns], the cells inside a box and one around it.

  Args: see `window_mask`.
  """
  low, high = boxes[:, :2] / 4 - 1, boxes[:, 2:] / 4 + 1
  return _window(low, jnp.minimum(high, valid_size[::-1]), shape)


def window_mask(boxes: Array, shape: tuple[int, int], valid_size: Array) -> Array:
  """Returns bool [K, rows, columns], the cells a proposal's mask may take.

  A box in network pixels opens the columns from `max(int(x1 / 4) - 2, 0)` up to
  but not including `min(int(x2 / 4) + 2, valid columns)`, rows alike.

  Args:
    boxes: float32 [K, 4], network pixels, clipped to the image.
    shape: (rows, columns) of the stride-4 grid.
    valid_size: int32 [2], rows and columns of the grid that belong to the image.
  """
  cells = (boxes / 4).astype(jnp.int32)
  low = cells[:, :2] - 2
  return _window(low, jnp.minimum(cells[:, 2:] + 2, valid_size[::-1]), shape)


def _window(low: Array, high: Array, shape: tuple[int, int]) -> Array:
  """Returns bool [K, rows, columns], the cells with low <= (x, y) < high [K, 2]."""
  rows = jnp.arange(shape[0])
  columns = jnp.arange(shape[1])
  in_columns = (columns >= low[:, :1]) & (columns < high[:, :1])
  in_rows = (rows >= low[:, 1:]) & (rows < high[:, 1:])
  return in_rows[:, :, None] & in_columns[:, None, :]
