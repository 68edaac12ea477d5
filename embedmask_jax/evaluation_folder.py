"""Where the files of an evaluation go: none takes the place of another's."""

import itertools
import json
from pathlib import Path
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from embedmask_jax.checkpoint import StoredCheckpoint
from embedmask_jax.config import RESULT_FIELDS, flatten, to_json
from embedmask_jax.data.coco_source import image_folders
from embedmask_jax.folders import writable_folder
from embedmask_jax.storage import located, read_bytes

# What was evaluated, beside the results.
RECORD_NAME = 'data.json'


def evaluation_record(checkpoint: epath.Path, config: ConfigDict) -> dict[str, Any]:
  """What tells evaluations apart, in JSON types: checkpoint, settings and data.

  Args:
    checkpoint: its folder, or its file.
    config: model, data and eval parts.
  """
  fields = flatten(to_json(config))
  settings = {name: fields[name] for name in RESULT_FIELDS}
  record: dict[str, Any] = {'checkpoint': str(checkpoint), 'settings': settings}
  data = config.data
  if not data.eval.annotations:
    return {**record, 'generated': data.generated.to_dict()}
  folders = [folder for folder in image_folders(data.eval.images) if folder]
  return {
    **record,
    'annotations': str(located(data.eval.annotations)),
    'images': [str(located(folder)) for folder in folders],
  }


def evaluation_folder(
  workdir: epath.Path, stored: StoredCheckpoint, config: ConfigDict
) -> epath.Path:
  """WORKDIR/eval/<step>, or <step>-<name of the data> where something is not the run's.

  That is: for other data, or with another of `RESULT_FIELDS`, than in the checkpoint's
  config. With a number behind it where that holds another evaluation; once more the
  same folder for the same evaluation.

  Args:
    workdir: of the run, or another one.
    stored: the checkpoint.
    config: says what it is evaluated on, and how.

  Raises:
    UserError: nothing can be written there.
  """
  record = evaluation_record(stored.folder, config)
  is_own = record == evaluation_record(stored.folder, stored.metadata.config)
  is_own_folder = workdir / 'checkpoints' / str(stored.step) == stored.folder
  name = str(stored.step)
  if not is_own:
    name += f'-{Path(config.data.eval.annotations).stem or "scenes"}'
  parent = writable_folder(workdir / 'eval', 'evaluation folder')
  for number in itertools.count(1):
    folder = parent / (name if number == 1 else f'{name}-{number}')
    if not folder.exists():
      break
    there = _read_record(folder)
    # Evaluations of earlier versions have none.
    if there == record or (there is None and is_own and is_own_folder):
      break
  return folder


def _read_record(folder: epath.Path) -> Any:
  """None where it is absent or torn."""
  try:
    return json.loads(read_bytes(folder / RECORD_NAME))
  except (OSError, ValueError):
    return None
