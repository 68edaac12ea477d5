"""Writes small COCO data sets for tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

CATEGORIES = [{'id': 3, 'name': 'cat'}, {'id': 7, 'name': 'dog'}]


def encode_mask(mask: np.ndarray) -> bytes:
  """Compressed run lengths of a bool [h, w] mask."""
  return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))['counts']


def runs(mask: np.ndarray, *, compressed: bool) -> dict:
  """A bool [h, w] mask as it stands in a JSON."""
  size = list(mask.shape)
  if compressed:
    return {'size': size, 'counts': encode_mask(mask).decode()}
  flat = mask.T.ravel()
  changes = np.flatnonzero(np.diff(flat.astype(np.int8)))
  edges = np.concatenate([[0] if flat[0] else [], [0], changes + 1, [flat.size]])
  return {'size': size, 'counts': np.diff(np.sort(edges)).astype(int).tolist()}


def disc(size: tuple[int, int], y: float, x: float, radius: float) -> np.ndarray:
  rows, columns = np.mgrid[: size[0], : size[1]]
  return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def annotation(identity: int, image_id: int, bbox, segmentation, **more) -> dict:
  entry = {
    'id': identity,
    'image_id': image_id,
    'category_id': 3,
    'bbox': bbox,
    'segmentation': segmentation,
    'iscrowd': 0,
    'area': 1.0,
  }
  return {**entry, **more}


def save_json(path: Path, images, annotations, categories=CATEGORIES) -> str:
  content = {'images': images, 'annotations': annotations, 'categories': categories}
  path.write_text(json.dumps(content))
  return str(path)


def noise(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
  """Smooth enough to survive JPEG and resizing."""
  small = rng.integers(0, 256, (4, 5, 3), np.uint8)
  return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def write_dataset(folder: Path, sizes, *, seed: int = 0) -> tuple[str, str]:
  """Images of the given (height, width) with 0, 1, 2 ... instances in turn.

  Half are JPEG, half PNG; ids have gaps and do not ascend; segmentations are
  polygons, lists of runs and compressed runs in turn.

  Returns:
    Paths of the JSON and of the image folder.
  """
  rng = np.random.default_rng(seed)
  image_folder = folder / 'images'
  image_folder.mkdir(parents=True)
  images, annotations = [], []
  for number, size in enumerate(sizes):
    height, width = size
    image_id = 1000 - 7 * number
    name = f'{number:03d}.{"png" if number % 2 else "jpg"}'
    Image.fromarray(noise(rng, size)).save(image_folder / name)
    images.append({'id': image_id, 'file_name': name, 'height': height, 'width': width})
    for k in range(number % 4):
      radius = rng.uniform(3, 0.3 * min(size))
      y, x = rng.uniform(radius, np.asarray(size) - radius)
      mask = disc(size, y, x, radius)
      rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
      if k % 3 == 0:
        angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)
        segmentation = [np.round(points, 2).ravel().tolist()]
      else:
        segmentation = runs(mask, compressed=k % 3 == 2)
      bbox = [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
      annotations.append(
        annotation(
          5 + len(annotations),
          image_id,
          [float(side) for side in bbox],
          segmentation,
          category_id=3 if k % 2 else 7,
          area=float(mask.sum()),
        )
      )
  order = rng.permutation(len(annotations))
  annotations = [annotations[i] for i in order]
  return save_json(folder / 'instances.json', images, annotations), str(image_folder)
