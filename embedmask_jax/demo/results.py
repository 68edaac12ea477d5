"""The files that a visitor can take home."""

from pathlib import Path

from embedmask_jax.demo.exploration import Exploration
from embedmask_jax.output_kinds import LABEL_MAP, OVERLAY
from embedmask_jax.predict.outputs import OutputFiles, write_json


def write_results(exploration: Exploration, folder: Path) -> list[Path]:
  """Writes COCO results, overlay and label map of what is shown.

  Args:
    exploration: all that is shown is written, chosen or not.
    folder: made; for these files alone.

  Returns:
    The three files.

  Raises:
    UserError: a file cannot be written.
  """
  folder.mkdir(parents=True)
  shown = exploration.shown
  stem = Path(exploration.name).stem or 'image'
  OutputFiles(folder, (OVERLAY, LABEL_MAP)).write(shown, stem, Path(exploration.name))
  label_map = folder / f'{stem}-label-map.png'
  (folder / LABEL_MAP / f'{stem}.png').rename(label_map)
  overlay = folder / f'{stem}-overlay.png'
  (folder / f'{stem}.png').rename(overlay)
  predictions = folder / f'{stem}.json'
  write_json(predictions, shown.to_coco(file_name=exploration.name))
  return [predictions, overlay, label_map]
