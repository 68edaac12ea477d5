"""Models that come with the package (docs/nuclei_model.md)."""

from pathlib import Path

from embedmask_jax.errors import UserError


def shipped_models() -> dict[str, Path]:
  """The model files by name."""
  return {path.stem: path for path in Path(__file__).parent.glob('*.npz')}


def shipped_model(name: str) -> Path:
  """The model file called `name`.

  Raises:
    UserError: there is none; names those that there are.
  """
  files = shipped_models()
  if name not in files:
    raise UserError(f'--model={name}: there are {", ".join(sorted(files))}')
  return files[name]
