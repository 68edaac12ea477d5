"""An image gives the same result in any canvas and beside any other image."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from synthetic import make_batch, network_cases, rectangles, tiny_model, tiny_variables

from embedmask_jax.losses import compute_losses, loss_names, normalisers
from embedmask_jax.postprocess import DetectionSettings, detect
from embedmask_jax.presets import PRESETS
from embedmask_jax.structures import Batch
from embedmask_jax.targets import assign_targets

SIZE = (90, 120)  # valid 96 x 128, so that P6 and P7 round up
CANVASES = [(96, 128), (128, 224), (192, 256)]


def placed(canvas, beside=0) -> Batch:
  """The image of SIZE first, `beside` others of the full canvas after it."""
  rng = np.random.default_rng(0)
  instances = [rectangles(rng, SIZE, 3)]
  instances += [rectangles(rng, canvas, 3) for _ in range(beside)]
  return make_batch(instances, [SIZE] + [canvas] * beside, canvas)


def with_confident_classes(variables):
  """Raises the class bias, so that there are detections to compare."""
  params = jax.tree.map(lambda x: x, variables['params'])
  head = params['head']
  head['class_logits']['kernel'] *= 60
  head['class_logits']['bias'] = jnp.full(3, -2.0)
  return {**variables, 'params': params}


@pytest.mark.parametrize(
  ('norm', 'preset'), network_cases('group', slow=('frozen_bn',))
)
def test_losses_and_gradients_do_not_depend_on_the_canvas(norm, preset):
  model = tiny_model(norm=norm, preset=PRESETS[preset], axis_name=None)
  variables = tiny_variables(norm, preset)

  @jax.jit
  def losses_and_gradient(params, batch):
    targets = assign_targets(batch, model.preset)

    def total(params):
      outputs, _ = model.apply(
        {**variables, 'params': params},
        batch.images,
        batch.image_size,
        batch.valid_size,
        train=True,
        mutable=['batch_stats'],
      )
      parts = normalisers(batch, targets)
      losses = compute_losses(
        outputs, targets, batch, parts, preset=model.preset, key=jax.random.key(0)
      )
      return sum(losses.values()), losses

    return jax.grad(total, has_aux=True)(params)

  reference, losses = losses_and_gradient(variables['params'], placed(CANVASES[0]))
  assert losses['mask'] > 0
  gradient, other = losses_and_gradient(variables['params'], placed(CANVASES[-1]))
  for name in loss_names(model.preset):
    np.testing.assert_allclose(other[name], losses[name], rtol=2e-5)
  norm_of = np.linalg.norm
  total_norm = optax.tree.norm(reference)
  for a, b in zip(jax.tree.leaves(reference), jax.tree.leaves(gradient), strict=True):
    # A bias before a norm has no gradient but for rounding.
    assert norm_of(a - b) < 5e-3 * norm_of(a) + 1e-6 * total_norm


@pytest.mark.parametrize(
  ('norm', 'preset'), network_cases('batch', 'group', slow=('frozen_bn',))
)
def test_detections_do_not_depend_on_the_canvas_or_on_company(norm, preset):
  model = tiny_model(norm=norm, preset=PRESETS[preset])
  variables = with_confident_classes(tiny_variables(norm, preset))
  settings = DetectionSettings(max_detections=20)

  @jax.jit
  def found(batch):
    outputs = model.apply(
      variables, batch.images, batch.image_size, batch.valid_size, train=False
    )
    return detect(
      outputs,
      batch.image_size,
      batch.valid_size,
      batch.original_size * 2,
      settings=settings,
      preset=model.preset,
      output_canvas=(2 * SIZE[0], 2 * SIZE[1]),
    )

  reference = found(placed(CANVASES[0]))
  assert reference.valid.sum() > 5
  for batch in (placed(CANVASES[1]), placed(CANVASES[2]), placed(CANVASES[2], 2)):
    other = jax.tree.map(lambda x: x[:1], found(batch))
    np.testing.assert_array_equal(other.labels, reference.labels)
    np.testing.assert_allclose(other.scores, reference.scores, atol=1e-5)
    np.testing.assert_allclose(other.boxes, reference.boxes, atol=1e-3)
    differing = np.unpackbits(np.asarray(other.masks ^ reference.masks))
    assert differing.mean() <= 1e-4
