"""Compiled programs, and the memory that they take."""

import dataclasses
import time
from typing import Any

import jax
from absl import logging

from embedmask_jax.structures import Batch
from embedmask_jax.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device, by the compiler's own account.

  Attributes:
    arguments: what goes in: parameters, state of the optimiser, batch.
    results: what comes out beyond the arguments that it takes the place of.
    scratch: what lives in between.
  """

  arguments: int
  results: int
  scratch: int

  @property
  def total(self) -> int:
    """What a device must have."""
    return self.arguments + self.results + self.scratch

  def __str__(self) -> str:
    return f'{_size(self.total)} a device, of that {_size(self.scratch)} scratch'


def memory_of(program: jax.stages.Compiled) -> Memory | None:
  """The memory of a compiled program, or None where its compiler does not tell."""
  stats = program.memory_analysis()
  if stats is None:
    return None
  return Memory(
    stats.argument_size_in_bytes,
    stats.output_size_in_bytes - stats.alias_size_in_bytes,
    stats.temp_size_in_bytes,
  )


def compile_program(name: str, function: Any, *arguments: Any) -> jax.stages.Compiled:
  """Compiles a jitted function for the shapes of its arguments; logs what it needs.

  Args:
    name: for the log.
    function: a result of `jax.jit`.
    *arguments: arrays, or `jax.ShapeDtypeStruct`s with shardings, in their trees.
  """
  start = time.perf_counter()
  program = function.lower(*arguments).compile()
  seconds = time.perf_counter() - start
  memory = memory_of(program)
  logging.info('%s: compiled in %.0f s, %s', name, seconds, memory or 'memory unknown')
  devices = jax.local_devices()
  limit = min((d.memory_stats() or {}).get('bytes_limit', 0) for d in devices)
  if memory and 0 < limit < memory.total:
    logging.warning(
      'a device has %s: this will not fit, unless the batch is smaller '
      '(train.batch_size), is computed in parts (train.accumulation_steps), or '
      'data.short_sides and data.long_side are',
      _size(limit),
    )
  return program


class TrainPrograms:
  """A training step as programs, one for each shape of a batch.

  The memory of each is logged before it first runs.
  """

  def __init__(self, train_step: Any):
    """Takes the jitted (state, batch) -> (state, metrics)."""
    self._train_step = train_step
    self._programs: dict[tuple[int, ...], jax.stages.Compiled] = {}

  def __call__(self, state: TrainState, batch: Batch) -> Any:
    """The training step; compiles what has not been compiled."""
    return self.program(state, batch)(state, batch)

  def program(self, state: TrainState, batch: Batch) -> jax.stages.Compiled:
    """The program for arguments of these shapes.

    Args:
      state: arrays or shapes.
      batch: arrays or shapes, of all devices.
    """
    size, height, width, _ = batch.images.shape
    instances = batch.labels.shape[1]
    key = (size, height, width, instances)
    if key not in self._programs:
      self._programs[key] = compile_program(
        f'training step, {size} x {height}x{width}, up to {instances} instances each',
        self._train_step,
        state,
        batch,
      )
    return self._programs[key]


def _size(count: int) -> str:
  if count < 2**30:
    return f'{count / 2**20:.1f} MiB'
  return f'{count / 2**30:.2f} GiB'
