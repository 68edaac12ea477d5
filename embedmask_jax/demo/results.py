"""The files that a visitor can take home."""

from pathlib import Path

from embedmask_jax.demo.exploration import Exploration
from embedmask_jax.output_kinds import LABEL_MAP, OVERLAY
from embedmask_jax.predict.outputs import OutputFiles
from embedmask_jax.writing import write_json


def write_results(exploration: Exploration, folder: Path) -> list[Path]:
  """Writes COCO results, overlay and label map of what is shown.

  Args:
    exploration: all that is shown is written, chosen or not.
    folder: made; for these files alone.

  Returns:
    predictions.json, overlay.png and label-map.png.

  Raises:
    UserError: a file cannot be written.
  """
  folder.mkdir(parents=True)
  shown = exploration.shown
  OutputFiles(folder, (OVERLAY, LABEL_MAP)).write(
    shown, OVERLAY, Path(exploration.name)
  )
  overlay = folder / f'{OVERLAY}.png'
  label_map = (folder / LABEL_MAP / overlay.name).rename(folder / f'{LABEL_MAP}.png')
  predictions = folder / 'predictions.json'
  write_json(predictions, shown.to_coco(file_name=exploration.name))
  return [predictions, overlay, label_map]
