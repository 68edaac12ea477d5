"""Writes a ResNet-50 EmbedMask with the golden sets' weights as the authors' `.pth`.

  python experiments/full_size/rule_weights.py OUT.pth

The weights follow from their names (tests/golden/2021/README.md): random, but scaled so
that an image has tens of detections. What they detect means nothing.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

from golden_network import state_dict_of  # noqa: E402
from golden_set import GoldenSet  # noqa: E402

from embedmask_jax.weights.files import write_torch  # noqa: E402

SEED = 13

if __name__ == '__main__':
  golden = GoldenSet(ROOT / 'tests' / 'golden' / '2021')
  write_torch(sys.argv[1], state_dict_of(golden, 'R50', SEED))
