"""The layers of the head with an output per class, of which a model has one or both."""

from collections.abc import Mapping
from typing import Any

from embedmask_jax.weights.tree import copy_tree, get_leaf, has_leaf, set_leaf

_LAYERS = (
  ('params', 'head', 'class_logits'),
  ('params', 'head', 'semantic_head', 'logits'),
)


def class_layers(variables: Mapping[str, Any]) -> list[tuple[str, ...]]:
  """The paths of those that a model has."""
  return [layer for layer in _LAYERS if has_leaf(variables, layer)]


def with_class_layers(
  variables: Mapping[str, Any], source: Mapping[str, Any]
) -> dict[str, Any]:
  """`variables` with the class layers of `source`, which may have other shapes."""
  result = copy_tree(variables)
  for layer in class_layers(source):
    set_leaf(result, layer, get_leaf(source, layer))
  return result
