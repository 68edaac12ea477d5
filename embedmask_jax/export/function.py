"""The function that is exported: an image in, instances at its own size out."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from embedmask_jax.export.size_table import SizeTable
from embedmask_jax.inference import infer
from embedmask_jax.models.embedmask import EmbedMask
from embedmask_jax.ops.integer_resize import resize_image
from embedmask_jax.postprocess import DetectionSettings
from embedmask_jax.structures import Array

Weights = Mapping[str, Array]
Outputs = dict[str, Array]
Function = Callable[[Weights, Array, Array], Outputs]

INPUT_NAMES = ('image', 'size')
OUTPUT_NAMES = ('boxes', 'scores', 'classes', 'valid', 'count', 'masks')


def make_function(
  model: EmbedMask, settings: DetectionSettings, table: SizeTable
) -> Function:
  """Returns the function (weights, image, size) -> outputs.

  Its arguments and results are described, for those who call it, by `contract.py`:
  `image` is uint8 [Hc, Wc, 3] with the image in the corner, `size` int32 [2] its
  height and width; sizes beyond the canvas are taken for the canvas. The results are
  those of the program that evaluates and predicts, for one image.

  Args:
    model: the network.
    settings: thresholds and caps.
    table: canvases, and how images are resized.
  """
  sizes = table.sizes.astype(np.int16)

  def function(weights: Weights, image: Array, size: Array) -> Outputs:
    size = jnp.clip(size, 1, jnp.asarray(table.canvas, jnp.int32))
    network_size = jnp.asarray(sizes)[size[0] - 1, size[1] - 1].astype(jnp.int32)
    network_image = resize_image(
      image, size, network_size, table.network_canvas, table.taps
    )
    valid_size = jax.lax.div(network_size + 31, jnp.int32(32)) * 32
    _, found = infer(
      model,
      settings,
      unflatten_dict(dict(weights), sep='/'),
      network_image[None],
      network_size[None],
      valid_size[None],
      size[None],
      table.canvas,
      packs_masks=False,
    )
    valid = found.valid[0]
    return {
      'boxes': found.boxes[0],
      'scores': found.scores[0],
      'classes': found.labels[0],
      'valid': valid,
      'count': jnp.sum(valid.astype(jnp.int32)),
      'masks': found.masks[0],
    }

  return function


def named_weights(variables: dict) -> dict[str, np.ndarray]:
  """The arrays by names such as params/fpn/p6/bias, on the host."""
  flat = flatten_dict(dict(variables), sep='/')
  return {name: np.asarray(flat[name]) for name in sorted(flat)}


def input_shapes(table: SizeTable) -> tuple[jax.ShapeDtypeStruct, ...]:
  """Shapes and dtypes of image and size."""
  return (
    jax.ShapeDtypeStruct((*table.canvas, 3), jnp.uint8),
    jax.ShapeDtypeStruct((2,), jnp.int32),
  )
