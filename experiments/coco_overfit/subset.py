"""Writes a COCO JSON with some of the images of another.

  python experiments/coco_overfit/subset.py IN.json OUT.json --images=16
    [--min_box_share=0.02]

Takes the first images, by id, that have instances, no crowd, and no instance whose
box covers less of the image than `min_box_share`. All categories are kept.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('source', type=Path)
  parser.add_argument('target', type=Path)
  parser.add_argument('--images', type=int, default=16)
  parser.add_argument('--min_box_share', type=float, default=0.0)
  arguments = parser.parse_args()

  content = json.loads(arguments.source.read_text())
  by_image = defaultdict(list)
  for annotation in content['annotations']:
    by_image[annotation['image_id']].append(annotation)

  def is_wanted(image: dict) -> bool:
    smallest = arguments.min_box_share * image['width'] * image['height']
    annotations = by_image[image['id']]
    return bool(annotations) and all(
      not a['iscrowd'] and a['bbox'][2] * a['bbox'][3] >= smallest for a in annotations
    )

  images = sorted(content['images'], key=lambda image: image['id'])
  images = [image for image in images if is_wanted(image)][: arguments.images]
  annotations = [a for image in images for a in by_image[image['id']]]
  arguments.target.write_text(
    json.dumps({**content, 'images': images, 'annotations': annotations})
  )
  classes = len({a['category_id'] for a in annotations})
  print(f'{len(images)} images, {len(annotations)} instances of {classes} classes')


if __name__ == '__main__':
  main()
