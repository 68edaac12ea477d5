"""Optimisers and learning-rate schedules, in the original's numbers.

The paper's SGD is PyTorch's: with gradient g, parameter p and rate r,

  buffer <- momentum * buffer + (g + decay * p)        (buffer starts at 0)
  p      <- p - r * buffer

so the rate stays outside the buffer and a drop of the rate acts at once. Bias
leaves (of convolutions and of normalisations) have their own rate multiplier and
decay, scales of normalisations a factor of the decay; every other leaf, the scalar
scales of the head included, is decayed (design notes of the 2021 code, 40 and 41, and
of AdelaiDet, 43).
"""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from embedmask_jax.errors import UserError

Tree = Any


@dataclasses.dataclass(frozen=True)
class OptimSettings:
  """The `optim` fields of a config, with the same names (units: configs/base.py)."""

  name: str
  learning_rate: float
  reference_batch_size: int
  weight_decay: float
  norm_decay_multiplier: float
  momentum: float
  momentum_dtype: str
  bias_rate_multiplier: float
  bias_weight_decay: float
  warmup_steps: int
  warmup: str
  warmup_factor: float
  schedule: str
  milestones: tuple[int, ...]
  decay_factor: float
  clip_norm: float


def scale_to_batch(
  settings: OptimSettings, *, steps: int, batch_size: int
) -> tuple[OptimSettings, int]:
  """The linear rule: the same epochs with another number of images per step.

  With f = batch_size / reference_batch_size the rate is multiplied by f, and the
  number of steps and the milestones are divided by it (rounded to the nearest
  step). The warm-up keeps its number of steps, as in the paper's own recipes.

  Args:
    settings: as configured, for `reference_batch_size` images per step.
    steps: length of the run at that batch size.
    batch_size: images per update, over all devices.

  Returns:
    The settings and the number of steps at `batch_size`; both unchanged where
    `reference_batch_size` is 0 (the rule is off) or equal to it.
  """
  reference = settings.reference_batch_size
  if reference in (0, batch_size):
    return settings, steps
  scaled = dataclasses.replace(
    settings,
    learning_rate=settings.learning_rate * batch_size / reference,
    milestones=tuple(round(m * reference / batch_size) for m in settings.milestones),
  )
  return scaled, round(steps * reference / batch_size)


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The learning rate of every step, counted from 0.

  rate(i) = learning_rate * warm-up(i) * decay(i), where, with a = i / warmup_steps
  and while i < warmup_steps, the warm-up is `warmup_factor` ('constant') or
  warmup_factor * (1 - a) + a ('linear'), and 1 afterwards; the decay is
  decay_factor ^ (number of milestones <= i) ('step') or falls from 1 at the end
  of the warm-up to 0 at `steps` along half a cosine ('cosine').
  """

  settings: OptimSettings
  steps: int

  def __call__(self, step: Any) -> Any:
    """The rate: float64 for a Python integer, float32 for a (traced) jax array."""
    xp: Any = jnp if isinstance(step, jax.Array) else np
    return self.settings.learning_rate * self._warmup(xp, step) * self._decay(xp, step)

  def _warmup(self, xp: Any, step: Any) -> Any:
    settings = self.settings
    if settings.warmup == 'constant':
      factor = settings.warmup_factor
    elif settings.warmup == 'linear':
      alpha = step / max(settings.warmup_steps, 1)
      factor = settings.warmup_factor * (1 - alpha) + alpha
    else:
      raise UserError(
        f"optim.warmup is {settings.warmup!r}; must be 'constant' or 'linear'"
      )
    return xp.where(step < settings.warmup_steps, factor, 1.0)

  def _decay(self, xp: Any, step: Any) -> Any:
    settings = self.settings
    if settings.schedule == 'step':
      # A table of powers taken on the host: float32 powers would be off by an ulp.
      decay = 1.0
      for passed, milestone in enumerate(sorted(settings.milestones), start=1):
        decay = xp.where(step >= milestone, settings.decay_factor**passed, decay)
      return decay
    if settings.schedule == 'cosine':
      span = max(self.steps - settings.warmup_steps, 1)
      progress = xp.clip((step - settings.warmup_steps) / span, 0.0, 1.0)
      return 0.5 * (1.0 + xp.cos(math.pi * progress))
    raise UserError(
      f"optim.schedule is {settings.schedule!r}; must be 'step' or 'cosine'"
    )


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
  return tuple(str(getattr(key, 'key', key)) for key in path)


def _not(tree: Tree) -> Tree:
  return jax.tree.map(lambda flag: not flag, tree)


def is_bias(tree: Tree) -> Tree:
  """A tree of booleans: which leaves are biases (of convolutions and norms)."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: _names(path)[-1] == 'bias', tree
  )


def is_norm_scale(tree: Tree) -> Tree:
  """A tree of booleans: which leaves are scales of group or batch norms."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: _names(path)[-1] == 'scale', tree
  )


def is_trained(
  params: Tree, frozen_stages: int, *, has_frozen_mask_norm: bool = False
) -> Tree:
  """A tree of booleans: which leaves of `params` the optimiser may change.

  Args:
    params: parameter tree, with the backbone under `backbone/stem` and
      `backbone/stage<k>_block<j>`.
    frozen_stages: 0 trains everything, 1 freezes the stem, 2 also stage 1, and so
      on to 5, the whole backbone (the original's FREEZE_CONV_BODY_AT).
    has_frozen_mask_norm: freezes the batch norm of mask branch and semantic head.
  """

  def trained(path: tuple[Any, ...], _: Any) -> bool:
    names = _names(path)
    if names[0] != 'backbone':
      is_mask_norm = names[1] in ('mask_branch', 'semantic_head') and 'norm' in names
      return not (is_mask_norm and has_frozen_mask_norm)
    if names[1] == 'stem':
      return frozen_stages < 1
    stage = re.match(r'stage(\d)_', names[1])
    if stage is None:
      raise ValueError(f'no stage number in the parameter path {"/".join(names)}')
    return frozen_stages < int(stage[1]) + 1

  return jax.tree_util.tree_map_with_path(trained, params)


def make_optimizer(
  settings: OptimSettings, schedule: Schedule, *, trained: Tree
) -> optax.GradientTransformation:
  """The optimiser of a run.

  Args:
    settings: name ('sgd' or 'adamw'), decay, momentum, clipping. AdamW adds its
      decay to the normalised step (decoupled); the rules for biases are the same.
    schedule: rate of step i; counts the updates made.
    trained: tree of booleans over the parameters (`is_trained`). The others get
      zero updates, hold no optimiser state and do not enter the clipped norm.

  Raises:
    UserError: unknown `name`.
  """

  def is_weight(params: Tree) -> Tree:
    neither = lambda bias, scale: not (bias or scale)  # noqa: E731
    return jax.tree.map(neither, is_bias(params), is_norm_scale(params))

  scale_decay = settings.weight_decay * settings.norm_decay_multiplier
  decay = optax.chain(
    optax.add_decayed_weights(settings.weight_decay, mask=is_weight),
    optax.add_decayed_weights(scale_decay, mask=is_norm_scale),
    optax.add_decayed_weights(settings.bias_weight_decay, mask=is_bias),
  )
  dtype = jnp.dtype(settings.momentum_dtype)
  if settings.name == 'sgd':
    direction = optax.chain(
      decay, optax.trace(settings.momentum, accumulator_dtype=dtype)
    )
  elif settings.name == 'adamw':
    direction = optax.chain(optax.scale_by_adam(mu_dtype=dtype), decay)
  else:
    raise UserError(f"optim.name is {settings.name!r}; must be 'sgd' or 'adamw'")
  clip = (
    optax.clip_by_global_norm(settings.clip_norm)
    if settings.clip_norm
    else optax.identity()
  )
  update = optax.chain(
    clip,
    direction,
    optax.scale_by_learning_rate(schedule),
    optax.masked(optax.scale(settings.bias_rate_multiplier), is_bias),
  )
  return optax.chain(
    optax.masked(update, trained), optax.masked(optax.set_to_zero(), _not(trained))
  )
