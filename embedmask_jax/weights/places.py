"""Where the tensors of a PyTorch state dict live in our variables, and moving them.

Convolutions are OIHW there and HWIO here; buffers of frozen batch norms are our
`batch_stats`; several of their tensors may be parts of one of ours.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from embedmask_jax.errors import UserError
from embedmask_jax.weights.report import Ledger
from embedmask_jax.weights.tree import get_leaf, has_leaf, leaf_paths, set_leaf


@dataclasses.dataclass(frozen=True)
class Place:
  """Where one of their tensors lives in our variables.

  Attributes:
    key: name in their state dict.
    shape: shape there.
    path: of our leaf, collection first.
    part: which of the last axis of our leaf, where theirs is a part of it; parts come
      in order.
    added: what our values have on top of theirs.
  """

  key: str
  shape: tuple[int, ...]
  path: tuple[str, ...]
  part: slice | None = None
  added: float = 0.0

  @property
  def target(self) -> str:
    """Our name, for reports."""
    name = '/'.join(self.path[1:])
    if self.part is None:
      return name
    first, last = self.part.start, self.part.stop - 1
    return f'{name}[{first}]' if first == last else f'{name}[..., {first}:{last + 1}]'


def conv_places(key: str, shape: tuple[int, ...], *path: str) -> Iterator[Place]:
  """Yields kernel and bias of a convolution under our `path`."""
  yield Place(f'{key}.weight', shape, ('params', *path, 'kernel'))
  yield Place(f'{key}.bias', shape[:1], ('params', *path, 'bias'))


def norm_places(
  key: str, channels: int, *path: str, has_statistics: bool = False
) -> Iterator[Place]:
  """Yields scale and bias of a live normalisation, and its running statistics."""
  for theirs, ours in (('weight', 'scale'), ('bias', 'bias')):
    yield Place(f'{key}.{theirs}', (channels,), ('params', *path, ours))
  if has_statistics:
    for theirs, ours in (('running_mean', 'mean'), ('running_var', 'var')):
      yield Place(f'{key}.{theirs}', (channels,), ('batch_stats', *path, ours))


def frozen_norm_places(
  key: str, channels: int, *path: str, epsilon: float = 0.0
) -> Iterator[Place]:
  """Yields the four buffers of a frozen batch norm; ours has no epsilon of its own."""
  for theirs, ours, added in (
    ('weight', 'scale', 0.0),
    ('bias', 'bias', 0.0),
    ('running_mean', 'mean', 0.0),
    ('running_var', 'var', epsilon),
  ):
    path_of = ('batch_stats', *path, ours)
    yield Place(f'{key}.{theirs}', (channels,), path_of, added=added)


def scalar_places(key: str, count: int, *path: str) -> Iterator[Place]:
  """Yields one-element tensors `key`.<i>.scale, which are one vector here."""
  for i in range(count):
    yield Place(f'{key}.{i}.scale', (1,), ('params', *path), slice(i, i + 1))


def read_places(ledger: Ledger, places: Iterable[Place]) -> dict[str, Any]:
  """Returns our variables, filled from the tensors of a ledger."""
  variables: dict[str, Any] = {}
  parts: dict[tuple[str, ...], list[np.ndarray]] = {}
  for place in places:
    array = to_ours(ledger.take(place.key, place.shape, place.target))
    if place.added:
      array = array + np.float32(place.added)
    if place.part is not None:
      parts.setdefault(place.path, []).append(array)
    elif place.path[-1] == 'position_scale':
      set_leaf(variables, place.path, array.reshape(()))
    else:
      set_leaf(variables, place.path, array)
  for path, arrays in parts.items():
    set_leaf(variables, path, np.concatenate(arrays, axis=-1))
  return variables


def write_places(
  variables: Mapping[str, Any], places: Iterable[Place]
) -> dict[str, np.ndarray]:
  """Returns float32 tensors by their names.

  Raises:
    UserError: the model has other leaves than theirs, or lacks some.
  """
  result = {}
  used = set()
  for place in places:
    used.add(place.path)
    if not has_leaf(variables, place.path):
      raise UserError(
        f'{"/".join(place.path)} is missing: only models with norm=frozen_bn can be '
        "written in the authors' layout"
      )
    leaf = np.asarray(get_leaf(variables, place.path), np.float32)
    if place.part is not None:
      leaf = leaf[..., place.part]
    if place.added:
      leaf = leaf - np.float32(place.added)
    result[place.key] = np.ascontiguousarray(to_theirs(leaf).reshape(place.shape))
  extra = [path for path in leaf_paths(variables) if path not in used]
  if extra:
    raise UserError(
      f'{len(extra)} parameters, the first of them {"/".join(extra[0])}, have no '
      f"place in the authors' layout"
    )
  return result


def strip_module(state_dict: Mapping[str, Any]) -> dict[str, Any]:
  """Drops the `module.` of distributed training, if all the names have it."""
  if state_dict and all(name.startswith('module.') for name in state_dict):
    return {name.removeprefix('module.'): v for name, v in state_dict.items()}
  return dict(state_dict)


def to_ours(array: np.ndarray) -> np.ndarray:
  """Returns a kernel [O, I, H, W] as [H, W, I, O]; other arrays as they are."""
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def to_theirs(array: np.ndarray) -> np.ndarray:
  """Returns a kernel [H, W, I, O] as [O, I, H, W]; other arrays as they are."""
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
