"""labelme: a JSON per image with polygons, rectangles, circles or masks.

Shapes of one label and one `group_id` are one instance. Points, lines and strips have
no area: they are skipped and named.
"""

import base64
import binascii
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from embedmask_jax.data.masks import encode_mask
from embedmask_jax.errors import UserError, shorten
from embedmask_jax.metrics.ground_truth import encode_segmentation
from embedmask_jax.prepare.image_folder import (
  ImageFolder,
  existing_folder,
  read_json_object,
  visible_files,
)
from embedmask_jax.prepare.label_format import LabelledImage, LabelledObject

_CIRCLE_POINTS = 64


class LabelmeLabels:
  """See `LabelFormat`; categories are the names given, or else the labels found."""

  def __init__(self, labels: str, images: str, names: tuple[str, ...] | None = None):
    """Finds the files.

    Args:
      labels: folder of the JSON files, with subfolders.
      images: folder that `imagePath` is looked for in, by its last part; '' for the
        place that `imagePath` names, seen from its JSON, inside of `labels`.
      names: of the classes; a label that is not among them is an error.

    Raises:
      UserError: a folder is missing, or there is no JSON in it.
    """
    self.categories = names
    self._folder = existing_folder(labels, '--labels')
    self._images = ImageFolder(images or labels, '--images' if images else '--labels')
    self._by_name: dict[str, list[str]] = {}
    if images:
      for name in self._images.names:
        self._by_name.setdefault(Path(name).name, []).append(name)
    self._seeks = bool(images)
    self.keys = tuple(
      path.relative_to(self._folder).as_posix()
      for path in visible_files(self._folder, '.json')
    )
    if not self.keys:
      raise UserError(f'--labels={labels}: no JSON file in this folder')
    self.notes: list[str] = []
    bare = len(self._images.names) - len(self.keys)
    if bare > 0:
      self.notes.append(
        f'{bare} more images than JSON files; an image without a JSON is left out'
      )

  def files(self, key: str) -> list[Path]:
    """See `LabelFormat`; the JSON alone, which names the image and its size."""
    return [self._folder / key]

  def read(self, key: str) -> LabelledImage:
    """See `LabelFormat`."""
    path = self._folder / key
    content = read_json_object(path)
    shapes = content.get('shapes')
    if not isinstance(shapes, list) or not all(isinstance(s, dict) for s in shapes):
      raise UserError(f"{path}: not labelme's: there is no list 'shapes'")
    name = self._image(path, content.get('imagePath'))
    told = (content.get('imageHeight'), content.get('imageWidth'))
    is_told = all(isinstance(side, int) for side in told)
    height, width = self._images.size(name, told if is_told else None)  # type: ignore[arg-type]
    objects, skipped = _objects(path, shapes, (height, width), self.categories)
    return LabelledImage(name, height, width, objects, len(shapes), skipped)

  def _image(self, path: Path, told: Any) -> str:
    if not isinstance(told, str) or not told:
      raise UserError(f"{path}: there is no 'imagePath'")
    # Written on Windows too.
    told = told.replace('\\', '/')
    if self._seeks:
      found = self._by_name.get(Path(told).name, [])
      if len(found) != 1:
        what = 'is in several folders' if found else 'is not there'
        raise UserError(f'{path}: image {told} {what} in {self._images.folder}')
      return found[0]
    image = (path.parent / told).resolve()
    root = self._folder.resolve()
    if not image.is_relative_to(root):
      raise UserError(
        f'{path}: image {told} lies outside of {self._folder}; name its folder with '
        '--images'
      )
    if not image.is_file():
      raise UserError(f'{path}: image {told} is not there')
    return image.relative_to(root).as_posix()


def _objects(
  path: Path,
  shapes: list[dict],
  size: tuple[int, int],
  names: tuple[str, ...] | None,
) -> tuple[list[LabelledObject], list[str]]:
  groups: dict[Any, list[Any]] = {}
  skipped = []
  for number, shape in enumerate(shapes):
    place = f'{path} shapes[{number}]'
    label, group = shape.get('label'), shape.get('group_id')
    if not isinstance(label, str) or not label:
      raise UserError(f"{place}: there is no 'label'")
    kind = shape.get('shape_type') or 'polygon'
    if kind in ('point', 'points', 'line', 'linestrip'):
      skipped.append(f'{place}: a {kind} has no area')
      continue
    if names is not None and label not in names:
      raise UserError(f'{place}: label {label!r}; --names has {shorten(names)}')
    try:
      part = _segmentation(shape, kind, size)
      encode_segmentation(part, *size)
    except (ValueError, TypeError, KeyError, IndexError, OSError) as error:
      raise UserError(f'{place}: unusable {kind} ({error})') from error
    key = (label, str(group)) if group is not None else (label, None, number)
    groups.setdefault(key, []).append(part)
  objects = [
    LabelledObject(key[0], _merged(parts, size), parts=len(parts))
    for key, parts in groups.items()
  ]
  return objects, skipped


def _merged(parts: list[Any], size: tuple[int, int]) -> Any:
  """Several polygons, or the union where there are masks among them."""
  if all(isinstance(part, list) for part in parts):
    return [polygon for part in parts for polygon in part]
  if len(parts) == 1:
    return parts[0]
  from pycocotools import mask as coco_mask

  runs = coco_mask.merge([encode_segmentation(part, *size) for part in parts])
  return {'size': list(size), 'counts': runs['counts'].decode('ascii')}


def _segmentation(shape: dict, kind: str, size: tuple[int, int]) -> Any:
  """COCO's segmentation of a shape; ValueError where it is malformed."""
  points = [(float(x), float(y)) for x, y in shape['points']]
  if not all(math.isfinite(side) for point in points for side in point):
    raise ValueError('coordinates that are not finite')
  if kind == 'polygon':
    if len(points) < 3:
      raise ValueError(f'{len(points)} points; at least 3 are needed')
    return [[side for point in points for side in point]]
  if kind not in ('rectangle', 'circle', 'mask'):
    raise ValueError(f'unknown shape_type {kind!r}')
  if len(points) < 2:
    raise ValueError(f'{len(points)} points; 2 are needed')
  if kind == 'rectangle':
    # Two opposite corners, or all four.
    (x1, x2), (y1, y2) = ((min(side), max(side)) for side in zip(*points, strict=True))
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]
  if len(points) > 2:
    raise ValueError(f'{len(points)} points; 2 are needed')
  (x1, y1), (x2, y2) = points
  if kind == 'circle':
    radius = math.hypot(x2 - x1, y2 - y1)
    turns = [2 * math.pi * i / _CIRCLE_POINTS for i in range(_CIRCLE_POINTS)]
    return [
      [s for t in turns for s in (x1 + radius * math.cos(t), y1 + radius * math.sin(t))]
    ]
  return _placed_mask(shape['mask'], (round(x1), round(y1)), size)


def _placed_mask(text: str, corner: tuple[int, int], size: tuple[int, int]) -> dict:
  """A mask stored as PNG in base64, put at its corner (x, y) of the image."""
  try:
    data = base64.b64decode(text, validate=True)
  except (binascii.Error, TypeError) as error:
    raise ValueError(f'mask is not base64 ({error})') from error
  with Image.open(io.BytesIO(data), formats=('PNG',)) as image:
    part = np.asarray(image)
  if part.ndim != 2:
    raise ValueError('mask has several channels')
  x, y = corner
  if x < 0 or y < 0 or y + part.shape[0] > size[0] or x + part.shape[1] > size[1]:
    raise ValueError(f'mask at {corner} reaches beyond the image')
  mask = np.zeros(size, bool)
  mask[y : y + part.shape[0], x : x + part.shape[1]] = part != 0
  if not mask.any():
    raise ValueError('mask without a pixel')
  return encode_mask(mask)
