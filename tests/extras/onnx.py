"""The nuclei model becomes ONNX, which finds the same in a picture."""

import numpy as np
from PIL import Image

from embedmask_jax.command_line import run

y, x = np.mgrid[:96, :96]
distance = np.minimum(np.hypot(x - 30, y - 40) / 12, np.hypot(x - 66, y - 58) / 9)
light = (20 + 160 / (1 + np.exp(12 * (distance - 1)))).astype(np.uint8)
Image.fromarray(np.repeat(light[..., None], 3, axis=-1)).save('picture.png')
status = run(
  [
    *('export', '--model=nuclei', '--format=onnx', '-o', 'exported', '--canvas=96x96'),
    *('--config.data.eval_short_side=192', '--config.eval.max_detections=20'),
    *('--verify', 'picture.png'),
  ]
)
assert status == 0, status
