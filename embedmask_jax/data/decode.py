"""The one decoder: the bytes of an image file -> uint8 RGB.

What is made of the less common kinds of file:

  * an alpha channel is dropped, not composited: the stored colours stay;
  * 1-bit, grayscale, palette, CMYK and YCbCr become RGB;
  * 16- and 32-bit integers are shifted down to 8 bits by what the image's own largest
    value needs, so that 12-bit data in a 16-bit file is not nearly black and an image
    of small values is left as it is; 16-bit colour keeps its upper byte;
  * floats in 0..1 are taken as fractions of full brightness, larger ones are rounded
    and treated like integers;
  * of several frames (pages of TIFF, GIF and other animations) the first counts.
"""

import io

import numpy as np
from PIL import Image, TiffImagePlugin

from embedmask_jax.errors import UserError

# Pillow would also hand PostScript to an interpreter.
FORMATS = (
  'BMP',
  'GIF',
  'JPEG',
  'JPEG2000',
  'PNG',
  'PPM',
  'TIFF',
  'WEBP',
)

# A small file can claim any size: beyond this it is not unpacked.
MAX_PIXELS = 89_478_485

_EXIF_ORIENTATION = 0x0112
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
# The others undo themselves.
_BACK = {6: 8, 8: 6}


def decode_image(
  data: bytes,
  name: str,
  size: tuple[int, int] | None = None,
  *,
  max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
  """Returns the image as uint8 [height, width, 3], RGB; see `open_rgb`."""
  return np.asarray(open_rgb(data, name, size, max_pixels=max_pixels))


def decode_shown(data: bytes, name: str) -> tuple[np.ndarray, bool]:
  """Decodes an image file, turned as its EXIF orientation says.

  Returns:
    uint8 [height, width, 3], RGB, and whether it is turned but `keeps_size`.

  Raises:
    UserError: see `open_rgb`.
  """
  rgb, orientation = _open(data, name, None, MAX_PIXELS)
  return np.asarray(rgb), keeps_size(orientation, (rgb.height, rgb.width))


def keeps_size(orientation: int, size: tuple[int, int]) -> bool:
  """Whether EXIF turns or mirrors an image so that its size does not show it.

  Then nothing tells whether annotations are of the pixels as stored or as shown.

  Args:
    orientation: 1 to 8; 1 is upright.
    size: (height, width).
  """
  return orientation != 1 and (orientation <= 4 or size[0] == size[1])


def stored_form(data: bytes) -> tuple[tuple[int, int], int]:
  """How an image file that `open_rgb` can decode stores its pixels.

  Returns:
    (height, width) as stored, and the EXIF orientation, 1 to 8; 1 is upright.
  """
  with Image.open(io.BytesIO(data), formats=FORMATS) as image:
    return _stored_size(image), _orientation(image)


def has_several_frames(data: bytes) -> bool:
  """Whether an image file that `open_rgb` can decode holds more than it reads.

  The smaller copies and depth maps that cameras append to a JPEG do not count.
  """
  with Image.open(io.BytesIO(data), formats=FORMATS) as image:
    try:
      return image.format != 'MPO' and getattr(image, 'is_animated', False)
    # The first frame is whole; what follows is not an image.
    except Exception:
      return False


def _stored_size(image: Image.Image) -> tuple[int, int]:
  """(height, width) of the pixels in the file; Pillow gives that of turned TIFF."""
  if isinstance(image, TiffImagePlugin.TiffImageFile):
    tags = image.tag_v2
    return tags[TiffImagePlugin.IMAGELENGTH], tags[TiffImagePlugin.IMAGEWIDTH]
  return image.height, image.width


def _orientation(image: Image.Image) -> int:
  orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
  return orientation if orientation in _TURNS else 1


def open_rgb(
  data: bytes,
  name: str,
  size: tuple[int, int] | None = None,
  *,
  max_pixels: int = MAX_PIXELS,
) -> Image.Image:
  """Decodes an image file.

  Args:
    data: the file's content.
    name: the file's name, for messages.
    size: (height, width) that the annotations say. COCO's annotations refer to the
      pixels as stored, so the EXIF orientation is applied only where `size` is not
      that of the stored pixels but that of the turned ones. None: no annotations;
      the image is turned as its EXIF orientation says.
    max_pixels: at most MAX_PIXELS; an image that claims more is not unpacked.

  Returns:
    A Pillow image of mode RGB.

  Raises:
    UserError: the data cannot be decoded, are cut short, hold more than
      `max_pixels` pixels, or have another size than `size`.
  """
  return _open(data, name, size, max_pixels)[0]


def _open(
  data: bytes, name: str, size: tuple[int, int] | None, max_pixels: int
) -> tuple[Image.Image, int]:
  """See `open_rgb`; beside the image the EXIF orientation, whatever became of it."""
  remedy = 'replace the file'
  if size is not None:
    remedy += ' or leave it out of the data set'
  try:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    stored = _stored_size(image)
    if stored[0] * stored[1] > max_pixels:
      what = f'{stored[1]}x{stored[0]} pixels (width x height)'
      raise _huge(name, what, max_pixels)
    if size is not None and tuple(size) not in (stored, stored[::-1]):
      raise _wrong_size(name, stored, size)
    is_tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
    before = _orientation(image) if is_tiff else 1
    image.load()
    # Pillow turns TIFF files, and no others, when it loads them.
    orientation = _orientation(image)
    told = before if is_tiff else orientation
    rgb = _to_rgb(image)
  except UserError:
    raise
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
    raise _huge(name, 'too many pixels', max_pixels) from error
  except Image.UnidentifiedImageError as error:
    raise UserError(
      f'{name}: not an image of a known format ({", ".join(FORMATS)}); {remedy}'
    ) from error
  # Pillow's readers answer broken files with nearly every kind of exception.
  except Exception as error:
    raise UserError(
      f'{name}: cannot be decoded ({str(error) or type(error).__name__}); {remedy}'
    ) from error
  if size is not None and stored == tuple(size):
    # Back, where Pillow has turned it.
    orientation = _BACK.get(before, before) if orientation != before else 1
  if orientation != 1:
    rgb = rgb.transpose(_TURNS[orientation])
  if size is not None and (rgb.height, rgb.width) != tuple(size):
    raise _wrong_size(name, stored, size)
  return rgb, told


def _huge(name: str, what: str, max_pixels: int) -> UserError:
  return UserError(
    f'{name}: {what}; at most {max_pixels} are decoded. Cut the image into tiles or '
    'shrink it'
  )


def _wrong_size(name: str, stored: tuple[int, int], size: tuple[int, int]) -> UserError:
  return UserError(
    f'{name}: the file is {stored[1]}x{stored[0]} pixels (width x height), its '
    f'annotations say {size[1]}x{size[0]}; correct the JSON or replace the file'
  )


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode == 'RGB':
    return image
  if image.mode == 'F' or image.mode.startswith('I'):
    return Image.fromarray(_to_8_bits(np.asarray(image))).convert('RGB')
  if image.mode in ('P', 'PA', 'LA'):
    # By way of RGBA: a palette entry's transparency must not become a colour.
    image = image.convert('RGBA')
  return image.convert('RGB')


def _to_8_bits(values: np.ndarray) -> np.ndarray:
  """Grey levels of any depth -> uint8 [h, w]."""
  if not np.isfinite(values).all():
    raise ValueError('values that are not finite')
  values = np.maximum(values, 0)
  largest = values.max(initial=0)
  if values.dtype.kind == 'f':
    values = np.rint(values * 255 if largest <= 1 else values).astype(np.int64)
    largest = values.max(initial=0)
  shift = max(int(largest).bit_length() - 8, 0)
  return (values >> shift).astype(np.uint8)
