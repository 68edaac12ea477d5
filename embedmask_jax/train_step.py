"""One update of the parameters, compiled over a mesh of devices."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from embedmask_jax.losses import Normalisers, compute_losses, loss_names, normalisers
from embedmask_jax.models.embedmask import EmbedMask
from embedmask_jax.models.rematerialisation import Remat
from embedmask_jax.structures import DATA_AXIS, Array, Batch, Targets
from embedmask_jax.targets import assign_targets
from embedmask_jax.train_state import TrainState, keep_finite, moving_average

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]


def make_train_step(
  model: EmbedMask,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  *,
  accumulation_steps: int = 1,
  ema_decay: float = 0.0,
  remat: Remat = 'none',
  seed: int = 0,
) -> TrainStep:
  """Returns the compiled step: (state, global batch) -> (state, metrics).

  Each replica computes its share of the batch, in `accumulation_steps` parts one
  after another. Normalisers are summed over all replicas and parts before any
  loss is computed (they depend on the ground truth alone), so that the update is
  that of the whole batch at once, however it is split.

  Args:
    model: the network; its preset says what is learnt.
    optimizer: optax transformation of the summed gradient.
    mesh: with the axis `DATA_AXIS`; the batch is split over it.
    accumulation_steps: parts of a replica's share; must divide it.
    ema_decay: see `moving_average`.
    remat: see `models/rematerialisation.py`.
    seed: of the draws of a step, which differ by step, replica and part.

  Returns:
    The step. Its state argument is donated. Metrics are float32 scalars: `loss`,
    `loss/<name>` for all `loss_names`, `grad_norm` and `num_positive`.
  """
  preset = model.preset
  model = model.clone(remat=remat)

  def part_losses(
    params: dict,
    batch_stats: dict,
    batch: Batch,
    targets: Targets,
    key: Array,
    total: Normalisers,
  ) -> tuple[Array, tuple[dict, dict[str, Array]]]:
    outputs, updated = model.apply(
      {'params': params, 'batch_stats': batch_stats},
      batch.images,
      batch.image_size,
      batch.valid_size,
      train=True,
      mutable=['batch_stats'],
    )
    losses = compute_losses(outputs, targets, batch, total, preset=preset, key=key)
    return sum(losses.values()), (updated.get('batch_stats', {}), losses)

  def replica_step(
    state: TrainState, batch: Batch
  ) -> tuple[TrainState, dict[str, Array]]:
    targets = assign_targets(batch, preset)
    share = normalisers(batch, targets, parts=accumulation_steps)
    total = jax.lax.psum(share, DATA_AXIS)
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    key = jax.random.fold_in(key, jax.lax.axis_index(DATA_AXIS))
    keys = jax.random.split(key, accumulation_steps)
    parts = jax.tree.map(
      lambda x: x.reshape(accumulation_steps, -1, *x.shape[1:]), (batch, targets)
    )
    parts = (*parts, keys)
    # Taken as varying over the replicas, the parameters get each replica's own
    # gradient, which is summed once, after the last part.
    varying = partial(jax.lax.pcast, axis_name=DATA_AXIS, to='varying')
    params = jax.tree.map(varying, state.params)

    def accumulate(
      carry: tuple, part: tuple[Batch, Targets, Array]
    ) -> tuple[tuple, None]:
      batch_stats, grads, losses = carry
      part_grads, (batch_stats, part_values) = jax.grad(part_losses, has_aux=True)(
        params, batch_stats, *part, total
      )
      add = partial(jax.tree.map, jnp.add)
      return (batch_stats, add(grads, part_grads), add(losses, part_values)), None

    carry = (
      state.batch_stats,
      jax.tree.map(jnp.zeros_like, params),
      {name: varying(jnp.zeros(())) for name in loss_names(preset)},
    )
    # XLA runs convolutions inside a loop ten times slower on CPUs.
    if accumulation_steps == 1:
      carry, _ = accumulate(carry, jax.tree.map(lambda x: x[0], parts))
    else:
      carry, _ = jax.lax.scan(accumulate, carry, parts)
    batch_stats, grads, losses = carry
    grads, losses = jax.lax.psum((grads, losses), DATA_AXIS)

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics = {f'loss/{name}': value for name, value in losses.items()}
    metrics['loss'] = sum(losses.values())
    metrics['grad_norm'] = optax.tree.norm(grads)
    metrics['num_positive'] = total.num_positive
    params = optax.apply_updates(state.params, updates)
    new_state = TrainState(
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
      ema_params=moving_average(state, params, ema_decay),
    )
    finite = jnp.isfinite(metrics['loss']) & jnp.isfinite(metrics['grad_norm'])
    return keep_finite(state, new_state, finite), metrics

  mapped = jax.shard_map(
    replica_step,
    mesh=mesh,
    in_specs=(PartitionSpec(), PartitionSpec(DATA_AXIS)),
    out_specs=PartitionSpec(),
  )
  return jax.jit(mapped, donate_argnums=0)
