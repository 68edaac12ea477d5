import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from synthetic import random_batch, tiny_model, tiny_variables

from embedmask_jax.inference import make_inference, output_canvas
from embedmask_jax.ops.locations import locations
from embedmask_jax.postprocess import (
  DetectionSettings,
  assemble_masks,
  detect,
  select_proposals,
)
from embedmask_jax.presets import PRESETS
from embedmask_jax.structures import DATA_AXIS, HeadOutputs

CANVAS = (128, 160)
P = len(locations(CANVAS))


def logit(p):
  return np.log(p) - np.log1p(-p)


def outputs_with(proposals, num_classes=3) -> HeadOutputs:
  """Head outputs with the given (location, class, score, half side in strides)."""
  logits = np.full((1, P, num_classes), -20, np.float32)
  regression = np.ones((1, P, 4), np.float32)
  for location, label, score, half in proposals:
    logits[0, location, label] = logit(score)
    regression[0, location] = half
  rows, columns = CANVAS[0] // 8, CANVAS[1] // 8
  position = locations(CANVAS).astype(np.float32) / 100
  return HeadOutputs(
    class_logits=jnp.asarray(logits),
    box_regression=jnp.asarray(regression),
    centerness=jnp.full((1, P), 20.0),
    proposal_embedding=jnp.asarray(np.pad(position, ((0, 0), (0, 2))))[None],
    margin=jnp.full((1, P, 4), 20.0),
    pixel_embedding=jnp.asarray(
      np.pad(position[: rows * columns], ((0, 0), (0, 2))).reshape(1, rows, columns, 4)
    ),
  )


def select(outputs, preset='2021', **settings):
  size = jnp.asarray([CANVAS])
  return select_proposals(
    outputs,
    size,
    size,
    settings=DetectionSettings(**settings),
    preset=PRESETS[preset],
  )


def test_best_first_and_suppression_within_the_class_only():
  # Neighbours on P3: boxes of 64 pixels, 8 apart, IoU about 0.79.
  found = select(
    outputs_with([(105, 0, 0.6, 4), (106, 0, 0.9, 4), (107, 1, 0.7, 4)]),
    max_detections=5,
  )
  assert found.valid[0].tolist() == [True, True, False, False, False]
  assert found.location[0, :2].tolist() == [106, 107]
  assert found.labels[0, :2].tolist() == [0, 1]
  np.testing.assert_allclose(found.scores[0], [0.9, 0.7, 0, 0, 0], atol=1e-6)
  x, y = locations(CANVAS)[106]
  np.testing.assert_allclose(found.boxes[0, 0], [x - 32, y - 32, x + 32, y + 32])
  assert (found.num_candidates[0], found.num_kept[0]) == (3, 2)


def test_threshold_is_on_the_class_score_alone():
  outputs = outputs_with([(10, 0, 0.06, 1), (200, 0, 0.04, 1)])
  outputs = outputs.replace(centerness=jnp.full((1, P), -3.0))
  found = select(outputs, max_detections=4)
  assert found.valid.sum() == 1
  np.testing.assert_allclose(found.scores[0, 0], 0.06 / (1 + np.exp(3)), rtol=1e-5)


def test_a_root_score_is_held_against_the_threshold_by_its_square():
  outputs = outputs_with([(10, 0, 0.06, 1), (200, 0, 0.9, 1)])
  outputs = outputs.replace(centerness=jnp.full((1, P), 1.0))
  found = select(outputs, 'adelaidet', max_detections=4)
  assert found.valid.sum() == 1
  expected = np.sqrt(0.9 / (1 + np.exp(-1)))
  np.testing.assert_allclose(found.scores[0, 0], expected, rtol=1e-5)


def test_boxes_outside_the_image_leave_after_nms():
  """The first suppresses the second, and has no part inside the image."""
  outputs = outputs_with([(0, 0, 0.9, 1), (1, 0, 0.8, 1), (105, 0, 0.5, 4)])
  away = jnp.asarray([40.0, 4, -39, 4])
  regression = outputs.box_regression.at[0, 0].set(away)
  regression = regression.at[0, 1].set(away + jnp.asarray([1.0, 0, -1, 0]))
  found = select(
    outputs.replace(box_regression=regression), 'adelaidet', max_detections=4
  )
  assert found.num_kept[0] == 2
  assert found.valid[0].tolist() == [True, False, False, False]
  assert found.location[0, 0] == 105


def test_equal_scores_keep_the_order_of_locations_at_every_cap():
  proposals = [(i, c, 0.5, 0.1) for i in range(0, 40) for c in range(3)]
  found = select(outputs_with(proposals), max_detections=120, pre_nms_top_k=50)
  pairs = list(zip(found.location[0].tolist(), found.labels[0].tolist(), strict=True))
  assert pairs[:50] == [(i // 3, i % 3) for i in range(50)]
  assert found.valid.sum() == 50  # the cap per level
  found = select(outputs_with(proposals), max_detections=7)
  assert found.location[0].tolist() == [0, 0, 0, 1, 1, 1, 2]
  assert found.num_kept[0] == 120


def test_caps_larger_than_the_number_of_locations():
  found = select(outputs_with([(3, 0, 0.5, 1)], 1), max_detections=2 * P)
  assert found.valid.sum() == 1


def test_mask_is_the_disc_around_the_proposal_at_the_original_size():
  """Margin 20 on coordinates in hundreds of pixels: p > 0.53 within 17.8 pixels."""
  location = 8 * 20 + 9
  outputs = outputs_with([(location, 0, 0.9, 4)])
  size, original = jnp.asarray([[120, 150]]), jnp.asarray([[240, 300]])
  found = detect(
    outputs,
    size,
    jnp.asarray([CANVAS]),
    original,
    settings=DetectionSettings(max_detections=3),
    preset=PRESETS['2021'],
    output_canvas=(256, 320),
  )
  mask = np.unpackbits(np.asarray(found.masks[0, 0]), axis=-1)
  x, y = locations(CANVAS)[location] * 2
  rows, columns = np.mgrid[:256, :320]
  radius = 2 * 100 * np.sqrt(-np.log(0.53) / 20)
  # Cell centres are half a pixel off the locations; the edge is a cell wide.
  distance = np.hypot(rows - y, columns - x)
  assert mask[distance < radius - 4].all()
  assert not mask[distance > radius + 4].any()
  assert not np.asarray(found.masks[0, 1:]).any()
  np.testing.assert_allclose(found.boxes[0, 0], 2 * found.network_boxes[0, 0])


def test_masks_end_at_the_original_size():
  outputs = outputs_with([(8 * 20 + 9, 0, 0.9, 12)])
  outputs = outputs.replace(margin=jnp.full((1, P, 4), 1e-6))
  size = jnp.asarray([CANVAS])
  found = detect(
    outputs,
    size,
    size,
    jnp.asarray([[100, 77]]),
    settings=DetectionSettings(max_detections=1),
    preset=PRESETS['2021'],
    output_canvas=(128, 128),
  )
  mask = np.unpackbits(np.asarray(found.masks[0, 0]), axis=-1)
  assert mask[50, :77].any()
  assert not mask[100:].any()
  assert not mask[:, 77:].any()


def test_chunking_changes_nothing():
  rng = np.random.default_rng(0)
  proposals = [(i, i % 3, 0.3 + 0.001 * i, 2) for i in rng.choice(300, 17, False)]
  outputs = outputs_with(proposals)
  size = jnp.asarray([CANVAS])
  results = []
  for chunk in (1, 4, 100):
    settings = DetectionSettings(max_detections=22, mask_chunk=chunk)
    found = select_proposals(
      outputs, size, size, settings=settings, preset=PRESETS['2021']
    )
    assemble = jax.jit(
      lambda found, settings=settings: assemble_masks(
        outputs,
        found,
        size,
        size,
        size,
        settings=settings,
        preset=PRESETS['2021'],
        output_canvas=CANVAS,
      )
    )
    results.append(np.asarray(assemble(found)))
  assert results[0].any()
  np.testing.assert_array_equal(results[0], results[1])
  np.testing.assert_array_equal(results[0], results[2])


def test_inference_compiles_once_per_output_canvas():
  mesh = Mesh(np.asarray(jax.devices()[:1]), (DATA_AXIS,))
  infer = make_inference(tiny_model(), DetectionSettings(max_detections=5), mesh)
  variables = tiny_variables()
  first = random_batch(0, [(96, 96), (50, 70)], (96, 96), [2, 1])
  second = random_batch(1, [(64, 60), (96, 90)], (96, 96), [0, 3])
  infer(variables, first, (96, 96))
  compiled: list[float] = []

  def note(event, seconds, **_):
    if event == '/jax/core/compile/backend_compile_duration':
      compiled.append(seconds)

  jax.monitoring.register_event_duration_secs_listener(note)
  try:
    infer(variables, second, (96, 96))
    assert not compiled
    infer(variables, first, (128, 96))
    assert len(compiled) == 1
  finally:
    jax.monitoring.clear_event_listeners()


def test_output_canvas_is_the_smallest_that_holds_all():
  ladder = ((640, 640), (1024, 1024))
  assert output_canvas(np.asarray([[480, 640], [640, 427]]), ladder) == (640, 640)
  assert output_canvas(np.asarray([[480, 641]]), ladder) == (1024, 1024)
  # Larger than the ladder: a canvas of its own, sides rounded up.
  assert output_canvas(np.asarray([[700, 3000]]), ladder) == (1024, 3072)
