"""A network that finds two instances which it is told, for tests around the network."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from embedmask_jax.ops.locations import level_shapes
from embedmask_jax.presets import PRESETS, Preset
from embedmask_jax.structures import HeadOutputs

DIMS = 6
# Rows and columns of the stride-8 grid: where each lies, and the cell that proposes it.
REGIONS = ((slice(1, 5), slice(1, 5)), (slice(2, 7), slice(6, 10)))
CELLS = ((3, 3), (4, 8))
SCORES = (0.9, 0.4)


@dataclasses.dataclass(frozen=True)
class PlantedNetwork:
  """Stands for `EmbedMask`; whatever the image, it sees `REGIONS`."""

  preset: Preset = PRESETS['2021']

  def apply(self, variables, images, image_size, valid_size, *, train):
    rows, columns = images.shape[1] // 8, images.shape[2] // 8
    count = sum(r * c for r, c in level_shapes(images.shape[1:3]))
    rng = np.random.default_rng(0)
    pixel = rng.normal(0, 0.15, (rows, columns, DIMS))
    logits = np.full((count, 2), -9.0)
    regression = np.full((count, 4), 0.1)
    proposal = rng.normal(0, 1, (count, DIMS))
    for number, (region, (row, column)) in enumerate(zip(REGIONS, CELLS, strict=True)):
      vector = np.zeros(DIMS)
      vector[[2 + number, 5]] = 2.5, 1.5
      pixel[region] += vector
      location = row * columns + column
      proposal[location] = vector
      score = SCORES[number]
      logits[location, number] = np.log(score / (1 - score))
      tall, wide = (part.stop - part.start for part in region)
      regression[location] = np.asarray([wide, tall, wide, tall]) / 2 + 0.3
    margin = np.full((count, DIMS if self.preset.margin == 'per_dimension' else 1), 0.7)
    # Tied to the images, so that every device has its own.
    zero = 0.0 * images[:, 0, 0, 0].astype(jnp.float32)

    def batched(values):
      values = jnp.asarray(values, jnp.float32)
      return values + zero.reshape(-1, *[1] * values.ndim)

    return HeadOutputs(
      class_logits=batched(logits),
      box_regression=batched(regression),
      centerness=batched(np.full(count, 9.0)),
      proposal_embedding=batched(proposal),
      margin=batched(margin),
      pixel_embedding=batched(pixel),
    )
