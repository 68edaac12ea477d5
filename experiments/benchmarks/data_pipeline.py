"""What the input pipeline costs beside decoding and resizing the JPEGs.

  python experiments/benchmarks/data_pipeline.py --annotations=A.json --images=DIR
    [--count=64] [--rounds=3]

Short side 800, long side 1333. In one run and in turn, of the same images: decoding and
resizing alone with Pillow; the whole pipeline in one thread (flip, rasterised masks,
packed batches); the whole pipeline with threads, and with worker processes.
"""

import argparse
import io
import itertools
from collections.abc import Generator
from functools import partial
from pathlib import Path

from PIL import Image
from timing import add_arguments, measure, print_machine, ratio, show_times

from embedmask_jax.data.pipeline import train_batches, train_plan
from embedmask_jax.data.source import open_source
from embedmask_jax.data.transforms import Arrays
from embedmask_jax.data.views import resize_sizes

SHORT_SIDE, LONG_SIDE = 800, 1333

Stream = Generator[tuple[int, Arrays], None, None]


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--annotations', required=True)
  parser.add_argument('--images', required=True)
  parser.add_argument('--count', type=int, default=64)
  add_arguments(parser, rounds=3)
  arguments = parser.parse_args()

  source = open_source(arguments.annotations, arguments.images)
  sizes = resize_sizes(source.sizes, SHORT_SIDE, LONG_SIDE)

  settings = {
    'seed': 0,
    'short_sides': (SHORT_SIDE,),
    'long_side': LONG_SIDE,
    'flip_probability': 0.5,
    'instance_ladder': (8, 16, 32, 64, 128, 256, 512),
  }

  def open_stream(workers: int, prefetch: int) -> Stream:
    return train_batches(
      source, batch_size=1, workers=workers, prefetch=prefetch, **settings
    )

  plan = train_plan(source, batch_size=1, **settings)
  steps = itertools.count()

  def decode_and_resize() -> None:
    for step in itertools.islice(steps, arguments.count):
      index = plan[step].rows[0].index
      path = Path(arguments.images) / source.file_names[index]
      image = Image.open(io.BytesIO(path.read_bytes())).convert('RGB')
      height, width = sizes[index].tolist()
      image.resize((width, height), Image.Resampling.BILINEAR)

  def read(stream: Stream) -> None:
    for _ in itertools.islice(stream, arguments.count):
      pass

  print_machine()
  indices = [plan[step].rows[0].index for step in range(arguments.count)]
  instances = source.instance_counts[indices].mean()
  print(f'{arguments.count} images a round, {instances:.1f} instances an image')
  kinds = {
    'one thread': (0, 0),
    'threads': (0, 2),
    '1 worker': (1, 2),
    '2 workers': (2, 2),
  }
  streams = {name: open_stream(*kind) for name, kind in kinds.items()}
  tasks = {'decode and resize': decode_and_resize}
  tasks |= {name: partial(read, stream) for name, stream in streams.items()}
  seconds = measure(tasks, arguments.rounds)
  for stream in streams.values():
    stream.close()
  show_times(
    seconds, arguments.plot, f'{arguments.count} images of COCO, decoded and resized'
  )
  base, *pipelines = seconds
  for name in pipelines:
    print(f'{name} / {base}: {ratio(seconds, name, base):.2f}')


if __name__ == '__main__':
  main()
