"""Batches for evaluation: every image exactly once."""

from collections.abc import Sequence

import numpy as np

from embedmask_jax.data.canvases import (
  Canvas,
  choose_canvases,
  complete_canvases,
  derive_canvases,
)
from embedmask_jax.data.sampler import BatchPlan, PlannedRow
from embedmask_jax.data.views import resize_sizes, whole_view
from embedmask_jax.presets import Preset


class EvalPlan:
  """A sequence of BatchPlans that together hold every image once.

  Images of a batch have one canvas and, as far as `output_ladder` tells them apart,
  originals of one size class, so that one small output canvas serves the batch. The
  last batch of each kind may have fewer rows.
  """

  def __init__(
    self,
    *,
    sizes: np.ndarray,
    short_side: int,
    long_side: int,
    batch_size: int,
    preset: Preset,
    canvases: Sequence[Canvas] = (),
    output_ladder: Sequence[Canvas] = (),
  ):
    """Decides all batches.

    Args:
      sizes: int32 [n, 2], (height, width) of the stored images.
      short_side: network pixels.
      long_side: network pixels, upper bound.
      batch_size: images of a batch, over all processes.
      preset: for sizes, and what a view means.
      canvases: (height, width), multiples of 32; () for derived ones. Images that fit
        none get another: nothing is made smaller to fit.
      output_ladder: (height, width) of the output canvases, ascending.
    """
    resized = resize_sizes(sizes, short_side, long_side, rounds=preset.rounds_sizes)
    self.canvases = complete_canvases(
      canvases or derive_canvases([short_side], long_side), resized
    )
    canvas_of = choose_canvases(resized, self.canvases)
    # -1, larger than all of the ladder, is a class as well.
    output_of = choose_canvases(np.asarray(sizes), output_ladder)
    kinds = np.stack([canvas_of, output_of], axis=1)
    self._batches = []
    for kind in np.unique(kinds, axis=0):
      canvas = self.canvases[kind[0]]
      members = np.flatnonzero((kinds == kind).all(axis=1)).tolist()
      for first in range(0, len(members), batch_size):
        rows = tuple(
          PlannedRow(
            i, 0, whole_view(tuple(resized[i].tolist()), canvas, preset=preset)
          )
          for i in members[first : first + batch_size]
        )
        self._batches.append(BatchPlan(canvas, 1, batch_size, rows))

  def __len__(self) -> int:
    return len(self._batches)

  def __getitem__(self, index: int) -> BatchPlan:
    return self._batches[index]
