"""A video of three frames becomes a video with what was found in it."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np

from embedmask_jax.command_line import run
from embedmask_jax.predict.video import VideoReader, VideoWriter

y, x = np.mgrid[:96, :96]
with VideoWriter(Path('in.mp4'), Fraction(5)) as writer:
  for number in range(3):
    distance = np.hypot((x - 40 - 4 * number) / 14, (y - 48) / 10)
    light = (20 + 160 / (1 + np.exp(12 * (distance - 1)))).astype(np.uint8)
    writer.write(number / 5, np.repeat(light[..., None], 3, axis=-1))
status = run(
  [
    *('predict', 'in.mp4', '--model=nuclei', '--output=found'),
    *('--config.data.eval_short_side=192', '--config.eval.max_detections=20'),
  ]
)
assert status == 0, status
with VideoReader(Path('found/in.mp4')) as reader:
  assert len(list(reader.frames())) == 3
results = json.loads(Path('found/predictions.json').read_text())
assert {result['frame'] for result in results} == {0, 1, 2}, results
