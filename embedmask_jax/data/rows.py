"""A planned row of a training batch: what has to be read for it, and filled in."""

from collections.abc import Callable, Mapping

import numpy as np

from embedmask_jax.data.copy_paste import paste_instances
from embedmask_jax.data.decode import open_rgb
from embedmask_jax.data.image_source import ImageRecord
from embedmask_jax.data.sampler import PlannedRow
from embedmask_jax.data.transforms import fill_example, fill_image


def fill_row(
  batch: Mapping[str, np.ndarray],
  row: int,
  read: Callable[[int], ImageRecord],
  planned: PlannedRow,
) -> None:
  """Reads what a row is planned from, and writes it into a batch.

  Args:
    batch: as `empty_batch` makes it, with the row's canvas and room for its instances.
    row: 0..B-1.
    read: gives the image at a position of the source.
    planned: the row.

  Raises:
    UserError: an image cannot be read or decoded.
  """
  record, view = read(planned.index), planned.view
  if planned.paste is None:
    fill_example(batch, row, record, view, planned.index)
    return
  image = open_rgb(record.encoded, record.file_name, (record.height, record.width))
  fill_image(batch, row, image, view, planned.index)
  other = read(planned.paste.index)
  paste_instances(batch, row, record, view, other, planned.paste)
