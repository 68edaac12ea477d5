"""The pages are built, without running the notebook; a warning is an error."""

import sys
from pathlib import Path

from sphinx.cmd.build import main

ROOT = Path(__file__).resolve().parents[2]
status = main(
  [
    *('--quiet', '--fail-on-warning', '--keep-going', '--nitpicky'),
    *('-D', 'nb_execution_mode=off', '-d', 'doctrees'),
    *('--conf-dir', str(ROOT / 'docs'), str(ROOT), 'site'),
  ]
)
assert status == 0
assert Path('site/docs/tour.html').is_file()
sys.exit(status)
