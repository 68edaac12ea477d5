"""Generated scenes with exact masks, for a machine without data.

Objects of six classes lie on textured surfaces, overlap and cover each other. Their
classes differ in silhouette alone: colours, textures, sizes and rotations are drawn
alike for all. Masks are those of the visible parts.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from embedmask_jax.data import scene_drawing, scene_shapes
from embedmask_jax.data.masks import encode_mask
from embedmask_jax.errors import UserError
from embedmask_jax.storage import CACHE_VARIABLE, default_folder
from embedmask_jax.writing import replaced_folder

CLASS_NAMES = tuple(scene_shapes.SHAPES)

# Every object shows at least this many pixels and this share of its silhouette.
MIN_VISIBLE_AREA = 40
MIN_VISIBLE_SHARE = 0.3

MIN_IMAGE_SIZE = 64
# Aimed at; fewer only where a crowded picture leaves no room.
MIN_OBJECTS = 2
MAX_OBJECTS = 6
# The longer side of the smallest objects in pixels. Thin ones are drawn larger, so that
# they show MIN_VISIBLE_AREA pixels.
MIN_OBJECT_SIZE = 12.0
# The longer side of the largest objects, as a share of the picture's.
MAX_OBJECT_SHARE = 0.5
# Degrees by which an object leans to either side at most.
MAX_TURN = 15.0

_ATTEMPTS = 12


@dataclass(frozen=True)
class Scene:
  """A picture and what is to be found in it.

  Attributes:
    image: uint8 [side, side, 3], RGB.
    masks: bool [n, side, side], the visible part of every object.
    labels: tuple of n indices into CLASS_NAMES.
  """

  image: np.ndarray
  masks: np.ndarray
  labels: tuple[int, ...]


def make_scene(rng: np.random.Generator, image_size: int) -> Scene:
  """Draws one scene.

  Args:
    rng: the only source of randomness.
    image_size: side of the square picture in pixels, at least MIN_IMAGE_SIZE.

  Returns:
    A scene with at least one object.
  """
  side = image_size
  picture = scene_drawing.make_background(rng, side)
  background = picture.mean(axis=(0, 1))
  direction = rng.uniform(-2.6, -0.5)
  light = (float(np.cos(direction)), float(np.sin(direction)))
  count = rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1)
  largest = MAX_OBJECT_SHARE * side
  # One in ten is small and the others rather large; small ones go on top, to show.
  spread = rng.uniform(size=count)
  spread = np.where(rng.random(count) < 0.1, 0.3 * spread, spread**0.25)
  spread = np.sort(spread)[::-1]
  sizes = MIN_OBJECT_SIZE * (largest / MIN_OBJECT_SIZE) ** spread

  masks: list[np.ndarray] = []
  labels: list[int] = []
  full_areas: list[int] = []
  for size in sizes:
    label = int(rng.integers(len(CLASS_NAMES)))
    sprite = _make_sprite(rng, label, float(size), largest)
    place = _find_place(rng, sprite, masks, full_areas, side)
    if place is None:
      continue
    left, top, mask = place
    for below in masks:
      below &= ~mask
    masks.append(mask)
    labels.append(label)
    full_areas.append(int(sprite.mask.sum()))
    scene_drawing.add_object(picture, sprite, left, top, light, rng, background)
  picture += rng.normal(0, 0.01, (side, side, 1)).astype(np.float32)
  image = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
  return Scene(image, np.stack(masks), tuple(labels))


def _make_sprite(
  rng: np.random.Generator, label: int, size: float, largest: float
) -> scene_drawing.Sprite:
  """An object of the class, enlarged where it would have too few pixels."""
  shape = scene_shapes.SHAPES[CLASS_NAMES[label]](rng)
  angle = np.radians(rng.uniform(-MAX_TURN, MAX_TURN))
  is_mirrored = bool(rng.random() < 0.5)
  while True:
    sprite = scene_drawing.make_sprite(shape, size, angle, is_mirrored)
    if sprite.mask.sum() >= 1.2 * MIN_VISIBLE_AREA or size >= largest:
      return sprite
    size *= 1.1


def _find_place(
  rng: np.random.Generator,
  sprite: scene_drawing.Sprite,
  masks: list[np.ndarray],
  full_areas: list[int],
  side: int,
) -> tuple[int, int, np.ndarray] | None:
  """Column, row and mask [side, side] of a place where every object stays visible.

  None where no attempt finds one.
  """
  full_area = sprite.mask.sum()
  # Most objects lie clear of the others and of the picture's edge, some do not.
  may_cover = 1 - MIN_VISIBLE_SHARE if rng.random() < 0.15 else 0.12
  may_leave = 0.5 if masks and rng.random() < 0.2 else 0.0
  half = sprite.mask.shape[0] // 2
  low = 0 if may_leave else half
  for _ in range(_ATTEMPTS):
    left, top = (rng.integers(low, side - low + 1, 2) - half).tolist()
    mask = np.zeros((side + 4 * half, side + 4 * half), bool)
    mask[top + 2 * half :, left + 2 * half :][: 2 * half, : 2 * half] = sprite.mask
    mask = mask[2 * half : 2 * half + side, 2 * half : 2 * half + side]
    inside = mask.sum()
    if inside < max(MIN_VISIBLE_AREA, (1 - may_leave) * full_area):
      continue
    for below, below_full in zip(masks, full_areas, strict=True):
      covered = (below & mask).sum()
      kept = below.sum() - covered
      if covered > may_cover * below_full or kept < max(
        MIN_VISIBLE_AREA, MIN_VISIBLE_SHARE * below_full
      ):
        break
    else:
      return left, top, mask.copy()
  return None


def generate_scenes(
  folder: str | Path | None = None,
  *,
  num_images: int,
  image_size: int = 192,
  seed: int = 0,
) -> tuple[str, str]:
  """Draws a data set in COCO form, or finds it where it was drawn before.

  Image k depends on the seed, k and the image size alone, so a larger data set
  begins with the images of a smaller one. A data set is either whole or
  absent: it is drawn beside its final place and moved there when complete, so
  concurrent calls are safe and an interrupted one leaves nothing that looks finished.

  Args:
    folder: parent of the data set's own folder, whose name holds a hash of all that
      decides the content; `default_folder()` when None.
    num_images: number of scenes.
    image_size: side of the square images in pixels.
    seed: any integer from 0; another one gives other scenes.

  Returns:
    Path of the annotations (JSON with compressed RLE of the visible parts) and path
    of the folder with the images (PNG).

  Raises:
    UserError: a value out of range, or a folder that cannot be written.
  """
  _check(num_images, image_size, seed)
  parent = Path(folder) if folder else default_folder()
  parameters = {'num_images': num_images, 'image_size': image_size, 'seed': seed}
  final = parent / f'scenes-{num_images}x{image_size}px-{_fingerprint(parameters)}'
  if not final.is_dir():
    logging.info('drawing %d scenes into %s', num_images, final)
    try:
      with replaced_folder(final, others_will_do=True) as beside:
        _write(beside, parameters)
    except OSError as error:
      raise UserError(
        f'cannot write generated scenes into {parent} ({error.strerror}): make room '
        'there, or name a writable folder in the environment variable '
        f'{CACHE_VARIABLE}'
      ) from error
  return str(final / 'annotations.json'), str(final / 'images')


def _check(num_images: int, image_size: int, seed: int) -> None:
  least = MIN_IMAGE_SIZE
  for is_good, rule in (
    (num_images >= 1, f'num_images {num_images} must be 1 or more'),
    (image_size >= least, f'image_size {image_size} must be {least} or more'),
    (seed >= 0, f'seed {seed} must be 0 or more'),
  ):
    if not is_good:
      raise UserError(f'generated scenes: {rule}')


def _fingerprint(parameters: dict) -> str:
  """Hash of the parameters and of the drawing code, so that neither goes stale."""
  digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
  for source in (__file__, scene_drawing.__file__, scene_shapes.__file__):
    digest.update(Path(source).read_bytes())
  return digest.hexdigest()[:12]


def _write(folder: Path, parameters: dict) -> None:
  """Draws all images and writes them and their annotations into a folder."""
  (folder / 'images').mkdir()
  image_size = parameters['image_size']
  images: list[dict] = []
  annotations: list[dict] = []
  for k in range(parameters['num_images']):
    rng = np.random.default_rng([parameters['seed'], k])
    scene = make_scene(rng, image_size)
    name = f'{k:06d}.png'
    Image.fromarray(scene.image).save(folder / 'images' / name, compress_level=1)
    images.append(
      {'id': k + 1, 'file_name': name, 'height': image_size, 'width': image_size}
    )
    for mask, label in zip(scene.masks, scene.labels, strict=True):
      segmentation = encode_mask(mask)
      annotations.append(
        {
          'id': len(annotations) + 1,
          'image_id': k + 1,
          'category_id': label + 1,
          'segmentation': segmentation,
          'bbox': rle.toBbox(segmentation).tolist(),
          'area': int(rle.area(segmentation)),
          'iscrowd': 0,
        }
      )
  content = {
    'info': {'description': 'generated scenes of embedmask_jax', **parameters},
    'images': images,
    'annotations': annotations,
    'categories': [{'id': i + 1, 'name': name} for i, name in enumerate(CLASS_NAMES)],
  }
  (folder / 'annotations.json').write_text(json.dumps(content), encoding='utf-8')
