"""The wheel of this repository, as pip builds it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def built_wheel(folder: Path) -> Path:
  """Builds it into a folder."""
  run(
    *(sys.executable, '-m', 'pip', '--quiet', '--no-input', 'wheel', '--no-deps'),
    *('--no-build-isolation', f'--wheel-dir={folder}', str(ROOT)),
  )
  [file] = folder.glob('*.whl')
  return file


def run(*command: str, **options) -> str:
  """Runs a command that must succeed; what it prints to standard output."""
  done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
  assert done.returncode == 0, f'{done.stdout}\n{done.stderr}'
  return done.stdout
