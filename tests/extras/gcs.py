"""A model file in a bucket, of a server on this machine, is opened there."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from fake_gcs import fake_gcs

from embedmask_jax.command_line import run
from embedmask_jax.shipped import shipped_model

with fake_gcs() as server:
  os.environ.update(server.environment())
  from embedmask_jax.storage import located

  there = located('gs://bucket/models/nuclei.npz')
  there.parent.mkdir(parents=True, exist_ok=True)
  there.write_bytes(shipped_model('nuclei').read_bytes())
  assert [path.name for path in there.parent.iterdir()] == ['nuclei.npz']
  assert run(['info', str(there)]) == 0
