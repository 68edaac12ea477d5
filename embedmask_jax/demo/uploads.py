"""What a visitor may send, and how it is read: bounded in bytes and in pixels."""

from pathlib import Path

import numpy as np

from embedmask_jax.data.decode import decode_image
from embedmask_jax.errors import UserError

MAX_BYTES = 20 * 2**20
# Masks are found at the size of the image: 500 of them take a GB at this one.
MAX_PIXELS = 16_000_000


def read_upload(path: Path) -> np.ndarray:
  """The image as uint8 [h, w, 3], RGB, turned as its EXIF orientation says.

  Raises:
    UserError: more than `MAX_BYTES`, or more than `MAX_PIXELS`, which the file's own
      header says before anything is unpacked; or it is no image that can be decoded.
  """
  with path.open('rb') as file:
    content = file.read(MAX_BYTES + 1)
  if len(content) > MAX_BYTES:
    raise UserError(
      f'{path.name}: the file is larger than {MAX_BYTES // 2**20} MiB; cut the image '
      'into tiles or shrink it'
    )
  return decode_image(content, path.name, max_pixels=MAX_PIXELS)
