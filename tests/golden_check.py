"""Holds this program against numbers recorded from the authors' code.

  python tests/golden_check.py FOLDER [CHECK ...]

reads a folder of golden records (any preset, seeds, images) and prints a table of
quantities, largest errors, tolerances and verdicts. Exit status 1 if a quantity
fails, or if a file of the folder was not checked. Where some of `CHECKS` are named,
only these run, and no account of the files is made.
"""

import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

if __name__ == '__main__':
  sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from golden_assign import check_assignment
from golden_data import check_data
from golden_losses import check_losses
from golden_manifest import check_manifest, check_rule, check_schedules
from golden_network import check_forward
from golden_post import check_locations, check_post
from golden_set import GoldenSet
from golden_table import Report
from golden_training import check_parameter_gradients
from golden_trajectories import check_trajectories
from golden_units import check_units

from embedmask_jax.errors import UserError

Check = Callable[[GoldenSet, Report], None]

# Cheap and fundamental ones first.
CHECKS: dict[str, Check] = {
  'rule': check_rule,
  'manifest': check_manifest,
  'units': check_units,
  'schedules': check_schedules,
  'data': check_data,
  'locations': check_locations,
  'post-processing': check_post,
  'assignment': check_assignment,
  'losses': check_losses,
  'forward': check_forward,
  'parameter gradients': check_parameter_gradients,
  'trajectories': check_trajectories,
}


def check_folder(folder: str | Path, checks: Iterable[str] = CHECKS) -> Report:
  """Runs checks over a folder; what goes wrong in one does not stop the others.

  Args:
    folder: of golden records.
    checks: names out of `CHECKS`. The account of files is only made when all run.

  Raises:
    UserError: no such folder.
  """
  golden, report = GoldenSet(folder), Report()
  for name in checks:
    # Some take minutes; the table comes at the end.
    print(f'{name} ...', end='', file=sys.stderr, flush=True)
    start = time.perf_counter()
    try:
      CHECKS[name](golden, report)
    except Exception:
      report.fail(f'{name}: stopped\n{traceback.format_exc()}')
    print(f' {time.perf_counter() - start:.0f} s', file=sys.stderr, flush=True)
  if set(checks) == set(CHECKS):
    golden.account(report)
  return report


def main(arguments: list[str]) -> int:
  """The command; returns the exit status."""
  folder, *checks = arguments or ['']
  if not folder or not set(checks) <= set(CHECKS):
    print(__doc__, *CHECKS, sep='\n  ')
    return 2
  try:
    report = check_folder(folder, checks or CHECKS)
  except UserError as error:
    print(error)
    return 2
  print(report)
  return 0 if report.passed else 1


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
