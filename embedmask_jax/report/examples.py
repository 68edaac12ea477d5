"""The best, worst and most confused images of an evaluation, for its report."""

from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from embedmask_jax.metrics.coco import Scored
from embedmask_jax.report.findings import (
  ImageQuality,
  OperatingPoint,
  image_qualities,
)
from embedmask_jax.report.matching import ImageMatches, confused
from embedmask_jax.report.pictures import side_by_side

# Images of each kind.
_EXAMPLES = 6


def example_pictures(
  scored: Scored,
  images: Sequence[ImageMatches],
  point: OperatingPoint,
  read_image: Callable[[int], np.ndarray],
) -> list[str]:
  """Returns HTML with pictures of the images, see `make_page`."""
  qualities = image_qualities(images, point.threshold)
  by_quality = sorted(qualities, key=lambda q: (-q.quality, -q.num_found, q.index))
  worst = [
    q
    for q in sorted(qualities, key=lambda q: (q.quality, -q.num_missed - q.num_wrong))
    if q.num_wrong or q.num_missed or q.quality < 1
  ]
  mixed = [q for q in qualities if q.num_confused]
  mixed.sort(key=lambda q: (-q.num_confused, q.quality, q.index))
  names = {image['id']: image.get('file_name', '') for image in scored.truth['images']}
  drawn: dict[int, str] = {}

  def picture(quality: ImageQuality) -> str:
    image = images[quality.index]
    if quality.index not in drawn:
      is_shown = image.scores >= point.threshold
      shown = image.detections[is_shown]
      pairs = dict(confused(image, point.threshold))
      found = [pairs.get(int(i), int(image.found[i])) for i in np.flatnonzero(is_shown)]
      drawn[quality.index] = side_by_side(
        read_image(image.image_id),
        [scored.truth['annotations'][i] for i in image.truth],
        [scored.detections[i] for i in shown],
        scored.class_names,
        found,
      )
    words = (
      f'{names[image.image_id]} (id {image.image_id}): quality {quality.quality:.2f}, '
      f'{quality.num_found} found, {quality.num_missed} missed, {quality.num_wrong} '
      f'wrong, {quality.num_confused} confused'
    )
    return (
      f'<figure><img alt="" src="{drawn[quality.index]}"><figcaption>{escape(words)}'
      '</figcaption></figure>'
    )

  parts = [
    '<h2>Images</h2><p>Ground truth on the left, detections on the right. Quality is '
    'panoptic quality over all instances of the image: the sum of the IoU of what is '
    'found, over found + ½ wrong + ½ missed.</p>'
  ]
  for heading, chosen, otherwise in (
    ('Worst', worst, 'Every image is perfect.'),
    ('Most confused', mixed, 'In no image is a class taken for another.'),
    ('Best', by_quality, 'There is nothing in any image.'),
  ):
    pictures = ''.join(map(picture, chosen[:_EXAMPLES]))
    parts.append(f'<h3>{heading}</h3>{pictures or f"<p>{otherwise}</p>"}')
  return parts
