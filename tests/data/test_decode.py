import io
import struct
import zlib

import numpy as np
import pytest
from coco_files import noise
from PIL import Image, ImageOps

from embedmask_jax.data.decode import (
  decode_image,
  decode_shown,
  has_several_frames,
  stored_form,
)
from embedmask_jax.errors import UserError

SIZE = (24, 36)
RGB = noise(np.random.default_rng(0), SIZE)
GREY = RGB[..., 0]


def encoded(image, file_format='PNG', **options):
  stream = io.BytesIO()
  (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
    stream, file_format, **options
  )
  return stream.getvalue()


def oriented(value, file_format='JPEG', **options):
  exif = Image.Exif()
  exif[0x0112] = value
  return encoded(RGB, file_format, exif=exif, **options)


def assert_close(image, want, tolerance=0):
  assert image.dtype == np.uint8
  assert image.shape == want.shape
  assert np.abs(image.astype(int) - want).max() <= tolerance


@pytest.mark.parametrize('file_format', ['PNG', 'BMP', 'TIFF', 'PPM', 'GIF'])
def test_formats_without_loss(file_format):
  image = Image.fromarray(RGB)
  if file_format == 'GIF':
    image = image.quantize(64)
  want = np.asarray(image.convert('RGB'))
  assert_close(decode_image(encoded(image, file_format), 'x'), want)


def test_jpeg():
  data = encoded(RGB, 'JPEG', quality=95)
  assert_close(decode_image(data, 'x'), np.asarray(Image.open(io.BytesIO(data))))


def grey(values):
  return np.repeat(np.asarray(values)[..., None], 3, axis=2)


def test_grey_and_bits():
  assert_close(decode_image(encoded(GREY), 'x'), grey(GREY))
  bits = Image.fromarray(GREY > 100)
  assert_close(decode_image(encoded(bits), 'x'), grey(np.where(GREY > 100, 255, 0)))


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_alpha_is_dropped_and_colours_stay(mode):
  image = Image.fromarray(RGB).convert(mode)
  alpha = np.zeros(SIZE, np.uint8)
  alpha[:, ::2] = 128
  image.putalpha(Image.fromarray(alpha))
  want = np.asarray(Image.fromarray(RGB).convert(mode[:-1]).convert('RGB'))
  assert_close(decode_image(encoded(image), 'x'), want)


@pytest.mark.filterwarnings('error')
def test_palette_with_transparency():
  image = Image.fromarray(RGB).quantize(16)
  want = np.asarray(image.convert('RGB'))
  data = encoded(image, transparency=bytes([0, 100, 255]))
  assert_close(decode_image(data, 'x'), want)


def test_cmyk():
  data = encoded(Image.fromarray(RGB).convert('CMYK'), 'JPEG', quality=95)
  assert_close(decode_image(data, 'x'), RGB, 40)


@pytest.mark.parametrize(
  ('largest', 'shift'), [(65535, 8), (4095, 4), (255, 0), (9, 0)]
)
@pytest.mark.parametrize('file_format', ['PNG', 'TIFF'])
def test_16_bits_keep_the_depth_they_use(largest, shift, file_format):
  values = np.linspace(0, largest, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
  image = decode_image(encoded(values, file_format), 'x')
  assert_close(image, grey(values >> shift))


def test_32_bits_and_floats():
  values = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE)
  image = decode_image(encoded(values.astype(np.int32), 'TIFF'), 'x')
  assert_close(image, grey(values >> 2))
  fractions = np.linspace(0, 1, values.size, dtype=np.float32).reshape(SIZE)
  image = decode_image(encoded(fractions, 'TIFF'), 'x')
  assert_close(image, grey(np.rint(fractions * 255)))
  with pytest.raises(UserError, match=r'x\.tif.*not finite'):
    decode_image(encoded(np.where(values == 5, np.nan, fractions), 'TIFF'), 'x.tif')


def turned(image, value):
  return {
    1: image,
    2: image[:, ::-1],
    3: image[::-1, ::-1],
    4: image[::-1],
    5: image.transpose(1, 0, 2),
    6: image.transpose(1, 0, 2)[:, ::-1],
    7: image[::-1, ::-1].transpose(1, 0, 2),
    8: image.transpose(1, 0, 2)[::-1],
  }[value]


@pytest.mark.parametrize('value', range(1, 9))
def test_exif_is_applied_without_annotations(value):
  stored = np.asarray(Image.open(io.BytesIO(oriented(value))))
  assert_close(decode_image(oriented(value), 'x'), turned(stored, value))


@pytest.mark.parametrize('value', range(1, 9))
def test_annotations_decide_whether_exif_is_applied(value):
  stored = np.asarray(Image.open(io.BytesIO(oriented(value))))
  assert_close(decode_image(oriented(value), 'x', SIZE), stored)
  if value >= 5:
    image = decode_image(oriented(value), 'x', SIZE[::-1])
    assert_close(image, turned(stored, value))
  else:
    with pytest.raises(UserError, match=r'a\.jpg.*36x24.*24x36'):
      decode_image(oriented(value), 'a.jpg', SIZE[::-1])


@pytest.mark.parametrize('file_format', ['JPEG', 'PNG', 'TIFF'])
@pytest.mark.parametrize('value', range(1, 9))
def test_a_turn_without_another_size_is_told(value, file_format):
  image, is_told = decode_shown(oriented(value, file_format), 'x')
  assert is_told == (2 <= value <= 4)
  assert image.shape[:2] == (SIZE if value < 5 else SIZE[::-1])
  exif = Image.Exif()
  exif[0x0112] = value
  square = encoded(Image.fromarray(RGB[:20, :20]), file_format, exif=exif)
  assert decode_shown(square, 'x')[1] == (value > 1)


# Packed ones are read by libtiff, the others by Pillow itself.
@pytest.mark.parametrize('options', [{}, {'compression': 'tiff_lzw'}])
@pytest.mark.parametrize('value', range(1, 9))
def test_tiff_is_turned_once_or_not_at_all(value, options):
  data = oriented(value, 'TIFF', **options)
  assert stored_form(data) == (SIZE, value)
  assert_close(decode_image(data, 'x'), turned(RGB, value))
  assert_close(decode_image(data, 'x', SIZE), RGB)
  if value >= 5:
    assert_close(decode_image(data, 'x', SIZE[::-1]), turned(RGB, value))
  else:
    with pytest.raises(UserError, match=r'a\.tif.*36x24.*24x36'):
      decode_image(data, 'a.tif', SIZE[::-1])


@pytest.mark.parametrize('value', range(1, 5))
def test_tiff_that_pillow_does_not_turn(value, monkeypatch):
  monkeypatch.setattr(ImageOps, 'exif_transpose', lambda *_, **__: None)
  data = oriented(value, 'TIFF')
  assert_close(decode_image(data, 'x'), turned(RGB, value))
  assert_close(decode_image(data, 'x', SIZE), RGB)


@pytest.mark.parametrize('file_format', ['GIF', 'TIFF', 'PNG', 'WEBP', 'MPO'])
def test_several_frames(file_format):
  frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
  options = {'save_all': True, 'append_images': frames[1:]}
  assert not has_several_frames(encoded(frames[0], file_format))
  many = encoded(frames[0], file_format, **options)
  # The second image of a JPEG is the camera's own.
  assert has_several_frames(many) == (file_format != 'MPO')
  decode_image(many, 'x', SIZE)


def test_wrong_orientation_tags_are_ignored():
  stored = np.asarray(Image.open(io.BytesIO(oriented(1))))
  for value in (0, 9):
    assert_close(decode_image(oriented(value), 'x'), stored)


def test_wrong_size_names_file_and_both_sizes():
  with pytest.raises(UserError, match=r'b\.png.*36x24 pixels.*40x24'):
    decode_image(encoded(RGB), 'b.png', (24, 40))


@pytest.mark.parametrize(
  'data',
  [
    b'',
    b'not an image',
    encoded(RGB)[:400],
    encoded(RGB, 'JPEG')[:300],
    encoded(RGB)[:60] + bytes(200),
    b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n',
  ],
)
def test_broken_files_are_named(data):
  with pytest.raises(UserError, match=r'c\.png'):
    decode_image(data, 'c.png')


def test_other_formats_are_refused():
  with pytest.raises(UserError, match=r'e\.tga: not an image of a known format'):
    decode_image(encoded(RGB, 'TGA'), 'e.tga')


def huge_png(width, height):
  """A PNG that claims a size and holds next to nothing."""

  def chunk(kind, body):
    checksum = zlib.crc32(kind + body)
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', checksum)

  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  body = zlib.compress(bytes(1000))
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', header)
    + chunk(b'IDAT', body)
    + chunk(b'IEND', b'')
  )


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('size', [(10000, 10000), (30000, 30000)])
def test_huge_images_are_refused(size):
  with pytest.raises(UserError, match=r'd\.png: .*at most 89478485'):
    decode_image(huge_png(*size), 'd.png')


@pytest.mark.filterwarnings('error')
def test_huge_images_are_refused_where_warnings_are_errors():
  with pytest.raises(UserError, match='at most'):
    decode_image(huge_png(10000, 10000), 'd.png')


def test_limit_is_pixels():
  with pytest.raises(UserError, match='36x24'):
    decode_image(encoded(RGB), 'x', max_pixels=SIZE[0] * SIZE[1] - 1)
  decode_image(encoded(RGB), 'x', max_pixels=SIZE[0] * SIZE[1])
