"""How long until something happens: import, --help, compilation cold and cached.

  python experiments/benchmarks/startup.py [--plot=FILE.svg]

Compilation is that of the inference function at 800x1344 (ResNet-50, 100 masks), in two
fresh processes that share an empty cache folder.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from full_size import OUTPUT_CANVAS, ROOT, full_size_batch, full_size_model
from timing import print_machine

from embedmask_jax.charts import bar_chart

COMPILE = '--compile'


def seconds(*arguments: str) -> float:
  start = time.perf_counter()
  subprocess.run(
    [sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True
  )
  return time.perf_counter() - start


def compile_inference(cache: str) -> None:
  import jax

  from embedmask_jax.devices import data_mesh, replicate, split
  from embedmask_jax.inference import make_inference
  from embedmask_jax.postprocess import DetectionSettings

  jax.config.update('jax_compilation_cache_dir', cache)
  mesh = data_mesh(1)
  model, variables = full_size_model()
  inference = make_inference(model, DetectionSettings(), mesh)
  arguments = (replicate(mesh, variables), split(mesh, full_size_batch()))
  start = time.perf_counter()
  inference.lower(*arguments, OUTPUT_CANVAS).compile()
  print(time.perf_counter() - start)


def main() -> None:
  if sys.argv[1:2] == [COMPILE]:
    compile_inference(sys.argv[2])
    return
  parser = argparse.ArgumentParser()
  parser.add_argument('--plot', type=Path, help='.svg file to draw the seconds into')
  plot = parser.parse_args().plot
  print_machine()
  bare = min(seconds('-c', 'pass') for _ in range(3))
  package = min(seconds('-c', 'import embedmask_jax') for _ in range(3))
  took = {
    'import, less Python': package - bare,
    '--help': min(seconds('-m', 'embedmask_jax.main', '--help') for _ in range(3)),
  }
  with tempfile.TemporaryDirectory() as cache:
    for name in ('compile inference', 'from the cache'):
      command = [sys.executable, __file__, COMPILE, cache]
      result = subprocess.run(command, check=True, capture_output=True, text=True)
      took[name] = float(result.stdout)
  for name, value in took.items():
    print(f'{name:24s}{value:9.3f}s')
  fraction = took['from the cache'] / took['compile inference']
  print(f'from the cache / compile inference: {fraction:.2f}')
  if plot:
    chart = bar_chart(
      list(took),
      list(took.values()),
      title='Startup',
      x_name='seconds',
      size=(626, 300),
    )
    plot.write_text(chart)


if __name__ == '__main__':
  main()
