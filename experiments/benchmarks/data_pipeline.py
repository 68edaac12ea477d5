"""What the input pipeline costs beside decoding and resizing the JPEGs.

  python experiments/benchmarks/data_pipeline.py --annotations=A.json --images=DIR
    [--count=64] [--rounds=3]

Short side 800, long side 1333. In one run and in turn: decoding and resizing alone with
Pillow; the whole pipeline in one thread (flip, rasterised masks, packed batches);
the whole pipeline with threads, and with worker processes.
"""

import argparse
import io
import itertools
from contextlib import closing
from pathlib import Path

from PIL import Image
from timing import measure, print_machine, print_times, ratio

from embedmask_jax.data.pipeline import train_batches
from embedmask_jax.data.source import open_source
from embedmask_jax.data.views import resize_sizes

SHORT_SIDE, LONG_SIDE = 800, 1333


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--annotations', required=True)
  parser.add_argument('--images', required=True)
  parser.add_argument('--count', type=int, default=64)
  parser.add_argument('--rounds', type=int, default=3)
  arguments = parser.parse_args()

  source = open_source(arguments.annotations, arguments.images)
  count = min(arguments.count, len(source))

  def batches(workers: int, prefetch: int) -> list[int]:
    """The positions in the source of the first `count` images."""
    stream = train_batches(
      source,
      seed=0,
      batch_size=1,
      short_sides=(SHORT_SIDE,),
      long_side=LONG_SIDE,
      flip_probability=0.5,
      instance_ladder=(8, 16, 32, 64, 128, 256, 512),
      workers=workers,
      prefetch=prefetch,
    )
    with closing(stream):
      return [
        int(arrays['image_index'][0]) for _, arrays in itertools.islice(stream, count)
      ]

  indices = batches(workers=0, prefetch=0)
  sizes = resize_sizes(source.sizes, SHORT_SIDE, LONG_SIDE)

  def decode_and_resize() -> None:
    for index in indices:
      path = Path(arguments.images) / source.file_names[index]
      image = Image.open(io.BytesIO(path.read_bytes())).convert('RGB')
      height, width = sizes[index].tolist()
      image.resize((width, height), Image.Resampling.BILINEAR)

  print_machine()
  instances = int(source.instance_counts[indices].sum())
  print(f'{count} images, {instances} instances')
  seconds = measure(
    {
      'decode and resize': decode_and_resize,
      'one thread': lambda: batches(0, 0),
      'threads': lambda: batches(0, 2),
      '1 worker': lambda: batches(1, 2),
      '2 workers': lambda: batches(2, 2),
    },
    arguments.rounds,
  )
  print_times(seconds)
  base, *pipelines = seconds
  for name in pipelines:
    print(f'{name} / {base}: {ratio(seconds, name, base):.2f}')


if __name__ == '__main__':
  main()
