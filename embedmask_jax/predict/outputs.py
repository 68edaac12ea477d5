"""The files that predictions become."""

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from embedmask_jax.errors import UserError
from embedmask_jax.output_kinds import (
  CROPS,
  GEOJSON,
  INSTANCES,
  LABEL_MAP,
  LABELME,
  OUTPUT_KINDS,
  OVERLAY,
)
from embedmask_jax.predict.polygons import Polygon, open_holes
from embedmask_jax.predict.prediction import Prediction
from embedmask_jax.writing import write_json


class OutputFiles:
  """Writes the chosen kinds of files; threads may write different images at once."""

  def __init__(
    self, folder: Path, kinds: Collection[str], *, polygon_tolerance: float = 0.0
  ):
    """Takes the folder, what to write of `OUTPUT_KINDS`, and see `mask_polygons`.

    Raises:
      UserError: an unknown kind, or a negative tolerance.
    """
    unknown = [kind for kind in kinds if kind not in OUTPUT_KINDS]
    if unknown:
      raise UserError(
        f'cannot save {unknown[0]!r}; there are {", ".join(OUTPUT_KINDS)}'
      )
    if not polygon_tolerance >= 0:
      raise UserError(f'polygon_tolerance is {polygon_tolerance}; must be 0 or more')
    self._folder = folder
    self._kinds = frozenset(kinds)
    self._tolerance = polygon_tolerance

  def write(self, prediction: Prediction, name: str, source: Path) -> None:
    """Writes the files of one image.

    Args:
      prediction: what was found.
      name: of the files, without suffix.
      source: the image's own file.

    Raises:
      UserError: a file cannot be written.
    """
    try:
      self._write(prediction, name, source)
    except OSError as error:
      raise UserError(
        f'cannot write the results of {source.name} into {self._folder} '
        f'({error.strerror or error}); make room there, or name another folder'
      ) from error

  def _write(self, prediction: Prediction, name: str, source: Path) -> None:
    kinds = self._kinds
    if OVERLAY in kinds:
      prediction.plot().save(self._folder / f'{name}.png')
    if LABEL_MAP in kinds:
      numbers = prediction.label_map().astype(np.uint16)
      Image.fromarray(numbers).save(self._path(LABEL_MAP, f'{name}.png'))
    for kind in {INSTANCES, CROPS} & kinds:
      _remove_numbered(self._folder / kind / name)
    for i, class_name in enumerate(prediction.class_names):
      file_name = f'{i + 1:03d}-{_safe(class_name)}.png'
      if INSTANCES in kinds:
        mask = prediction.windows[i].dense(prediction.size)
        Image.fromarray(mask).save(self._path(INSTANCES, name, file_name))
      if CROPS in kinds:
        cutout = Image.fromarray(prediction.cutout(i))
        cutout.save(self._path(CROPS, name, file_name))
    if not {GEOJSON, LABELME} & kinds:
      return
    polygons = prediction.polygons(tolerance=self._tolerance)
    if GEOJSON in kinds:
      content = geojson(prediction, polygons)
      write_json(self._path(GEOJSON, f'{name}.geojson'), content)
    if LABELME in kinds:
      path = self._path(LABELME, f'{name}.json')
      image_path = os.path.relpath(source.resolve(), path.parent.resolve())
      write_json(path, labelme(prediction, polygons, image_path))

  def _path(self, *parts: str) -> Path:
    path = self._folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def geojson(prediction: Prediction, polygons: Sequence[Sequence[Polygon]]) -> dict:
  """A GeoJSON FeatureCollection (RFC 7946), a feature for every instance.

  Coordinates are pixels of the image, y downwards. An empty mask has the geometry
  null.
  """
  features = []
  for i, parts in enumerate(polygons):
    closed = [
      [[*ring.tolist(), ring[0].tolist()] for ring in polygon] for polygon in parts
    ]
    if len(closed) == 1:
      geometry = {'type': 'Polygon', 'coordinates': closed[0]}
    else:
      geometry = {'type': 'MultiPolygon', 'coordinates': closed}
    properties = {
      'instance': i + 1,
      'class': prediction.class_names[i],
      'category_id': prediction.category_ids[i],
      'score': float(prediction.scores[i]),
    }
    features.append(
      {
        'type': 'Feature',
        'geometry': geometry if closed else None,
        'properties': properties,
      }
    )
  return {'type': 'FeatureCollection', 'features': features}


def labelme(
  prediction: Prediction, polygons: Sequence[Sequence[Polygon]], image_path: str
) -> dict:
  """A file for labelme; the parts of an instance share a `group_id`.

  labelme has no holes: each is joined to the outside by a cut of no width. An
  instance without a mask becomes a rectangle, its box with its last pixels.

  Args:
    prediction: what was found.
    polygons: what `Prediction.polygons` gives.
    image_path: the image, seen from the folder of the file.
  """
  shapes = []
  extent = prediction.box_extent
  for i, parts in enumerate(polygons):
    outlines = [('polygon', open_holes(polygon)) for polygon in parts]
    corners = prediction.boxes[i].astype(float) + np.asarray([0, 0, extent, extent])
    for shape_type, points in outlines or [('rectangle', corners.reshape(2, 2))]:
      shapes.append(
        {
          'label': prediction.class_names[i],
          'points': points.tolist(),
          'group_id': i + 1,
          'description': f'score {prediction.scores[i]:.3f}',
          'shape_type': shape_type,
          'flags': {},
        }
      )
  height, width = prediction.size
  return {
    'version': '5.5.0',
    'flags': {},
    'shapes': shapes,
    'imagePath': image_path,
    'imageData': None,
    'imageHeight': height,
    'imageWidth': width,
  }


def coco_data_set(
  images: Sequence[dict], results: Sequence[dict], categories: Sequence[tuple[int, str]]
) -> dict:
  """COCO instances JSON of predictions; the annotations keep their scores.

  Args:
    images: id, file_name, height and width of each.
    results: what `Prediction.to_coco` gives; those of other images are left out.
    categories: (id, name).
  """
  ids = {image['id'] for image in images}
  annotations = []
  kept = (result for result in results if result['image_id'] in ids)
  for number, result in enumerate(kept, start=1):
    area = int(rle.area(result['segmentation']))
    annotations.append({**result, 'id': number, 'iscrowd': 0, 'area': area})
  return {
    'images': list(images),
    'annotations': annotations,
    'categories': [{'id': key, 'name': name} for key, name in categories],
  }


def _remove_numbered(folder: Path) -> None:
  """Removes what an earlier run has written there, of which there may be more."""
  for path in folder.glob('*.png'):
    if re.match(r'\d{3,}-', path.name):
      path.unlink()


def _safe(name: str) -> str:
  """A class name as part of a file name."""
  return re.sub(r'[^\w.-]+', '_', name)[:80] or 'class'
