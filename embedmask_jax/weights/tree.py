"""Reaching into nested dictionaries of arrays by path."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def leaf_paths(tree: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
  """Yields the path of every leaf."""
  if not isinstance(tree, Mapping):
    yield prefix
    return
  for name, child in tree.items():
    yield from leaf_paths(child, (*prefix, name))


def has_leaf(tree: Any, path: Sequence[str]) -> bool:
  """Returns whether there is anything at `path`."""
  for name in path:
    if not isinstance(tree, Mapping) or name not in tree:
      return False
    tree = tree[name]
  return True


def get_leaf(tree: Any, path: Sequence[str]) -> Any:
  """Returns what is at `path`.

  Raises:
    KeyError: nothing is.
  """
  for name in path:
    tree = tree[name]
  return tree


def set_leaf(tree: dict[str, Any], path: Sequence[str], leaf: Any) -> None:
  """Puts `leaf` at `path`, in place, with what dictionaries it takes."""
  for name in path[:-1]:
    tree = tree.setdefault(name, {})
  tree[path[-1]] = leaf


def copy_tree(tree: Any) -> Any:
  """Returns new dictionaries around the same leaves."""
  if not isinstance(tree, Mapping):
    return tree
  return {name: copy_tree(child) for name, child in tree.items()}
