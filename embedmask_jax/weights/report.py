"""What became of every tensor of a weight file."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedmask_jax.errors import UserError

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class WeightReport:
  """The account of one import.

  Attributes:
    mapped: (name in the file, name of ours) of what was taken.
    unused: (name in the file, why it has no place here).
    filled: (name of ours, value) of what the file does not store and its format
      defines.
    untouched: our names that this kind of file never has; they keep the values
      they had.
    settings: config fields that the weights need, in `--config` notation.
  """

  mapped: tuple[tuple[str, str], ...]
  unused: tuple[tuple[str, str], ...] = ()
  filled: tuple[tuple[str, str], ...] = ()
  untouched: tuple[str, ...] = ()
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def table(self) -> str:
    """Returns one line per tensor, then the totals and the settings needed."""
    rows = [('mapped', source, f'-> {target}') for source, target in self.mapped]
    rows += [('unused', source, f'({reason})') for source, reason in self.unused]
    rows += [('filled', target, f'= {value}') for target, value in self.filled]
    rows += [('untouched', target, '') for target in self.untouched]
    width = max((len(name) for _, name, _ in rows), default=0)
    lines = [f'{kind:<10}{name:<{width}}  {note}'.rstrip() for kind, name, note in rows]
    return '\n'.join([*lines, self.summary()])

  def summary(self) -> str:
    """Returns the totals, one line, and a line per config field needed."""
    totals = (
      f'{len(self.mapped)} mapped, {len(self.unused)} unused, '
      f'{len(self.filled)} filled, {len(self.untouched)} untouched'
    )
    needed = [f'needs model.{name}={value}' for name, value in self.settings.items()]
    return '\n'.join([totals, *needed])


class Ledger:
  """Hands out the tensors of a file and keeps account of them.

  Problems are collected, so that one refusal names them all: until `close` has
  been called, what was taken may hold zeros in place of bad tensors.
  """

  def __init__(self, tensors: Mapping[str, Any], *, what: str):
    """Opens the account.

    Args:
      tensors: the file's arrays by name.
      what: what the file is meant to be, for the refusal.
    """
    self._tensors = tensors
    self._what = what
    self._mapped: list[tuple[str, str]] = []
    self._missing: list[str] = []
    self._wrong: list[str] = []

  def take(self, name: str, shape: Sequence[int], target: str) -> np.ndarray:
    """Returns the file's tensor as float32, and enters it under our name.

    Args:
      name: name in the file.
      shape: shape it must have.
      target: name of ours.
    """
    if name not in self._tensors:
      self._missing.append(name)
      return np.zeros(shape, np.float32)
    array = np.asarray(self._tensors[name])
    if array.shape != tuple(shape):
      self._wrong.append(f'{name} is {_sides(array.shape)}, expected {_sides(shape)}')
      return np.zeros(shape, np.float32)
    if not np.issubdtype(array.dtype, np.floating):
      self._wrong.append(f'{name} holds {array.dtype} instead of floating point')
      return np.zeros(shape, np.float32)
    if not np.isfinite(array).all():
      self._wrong.append(f'{name} holds values that are not finite')
      return np.zeros(shape, np.float32)
    self._mapped.append((name, target))
    return array.astype(np.float32)

  def close(
    self, *, reasons: Mapping[str, str], otherwise: str, **extra: Any
  ) -> WeightReport:
    """Returns the account.

    Args:
      reasons: why tensors whose name ends so have no place here.
      otherwise: the reason for all others.
      **extra: the report's remaining fields.

    Raises:
      UserError: a tensor is missing or cannot be what its name says.
    """
    problems = []
    if self._missing:
      problems.append(f'{len(self._missing)} missing ({_some(self._missing)})')
    if self._wrong:
      problems.append(f'{len(self._wrong)} unfit ({_some(self._wrong)})')
    if problems:
      raise UserError(
        f'not {self._what}: of its tensors {" and ".join(problems)}; '
        f'check that file and config are of one architecture'
      )
    taken = {name for name, _ in self._mapped}
    unused = tuple(
      (name, next((r for end, r in reasons.items() if name.endswith(end)), otherwise))
      for name in self._tensors
      if name not in taken
    )
    return WeightReport(mapped=tuple(self._mapped), unused=unused, **extra)


def _sides(shape: Sequence[int]) -> str:
  return 'x'.join(map(str, shape)) or 'a scalar'


def _some(names: Sequence[str]) -> str:
  rest = len(names) - _SHOWN
  return ', '.join(names[:_SHOWN]) + (f' and {rest} more' if rest > 0 else '')
