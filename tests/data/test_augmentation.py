import hashlib
from collections import Counter

import numpy as np
import pytest
from plans import LADDER, drawn, make_plan, members

from embedmask_jax.data.sampler import pad_to_ladder
from embedmask_jax.data.transforms import show_boxes
from embedmask_jax.errors import UserError

SIZES = [(48, 64), (64, 48), (64, 64), (40, 100)] * 6
CROP = {'sizes': SIZES, 'crop_size': (40, 48)}
JITTER = {**CROP, 'scale_jitter': (0.1, 2.0)}
PASTE = {**JITTER, 'copy_paste_probability': 0.6}


def pasted(plan, steps):
  return [row for step in range(steps) for row in plan[step].rows if row.paste]


@pytest.mark.parametrize(
  ('options', 'want'),
  [
    ({}, '9210ee7e9f6f0792'),
    ({'short_sides': (32, 48, 64)}, '6fc64c1bb958cbfd'),
    ({'crop_size': (40, 48)}, '49aedb72029f4de3'),
    (
      {
        'crop_size': (40, 48),
        'short_sides': (32, 48, 64),
        'canvases': ((32, 64), (64, 64)),
      },
      '2a0f3f94cde85180',
    ),
  ],
)
def test_without_these_options_the_stream_is_what_it_was(options, want):
  """A change of this would silently change every run."""
  plan = make_plan(24, sizes=SIZES, **options)
  batches = [
    (
      batch.canvas,
      batch.num_instances,
      [
        (v.resized, v.is_flipped, v.window, v.is_crop, row.index, row.epoch)
        for row in batch.rows
        for v in [row.view]
      ],
    )
    for batch in map(plan.__getitem__, range(50))
  ]
  assert hashlib.sha256(repr(batches).encode()).hexdigest()[:16] == want
  assert not pasted(plan, 50)


def test_jitter_is_uniform_and_keeps_the_shape():
  sizes = [(64, 96)] * 24
  plan = make_plan(24, **{**JITTER, 'sizes': sizes})
  views = list(drawn(plan, 600).values())
  factors = np.asarray([view.resized for view in views]) / [64, 96]
  # Of rounding.
  assert np.abs(factors[:, 0] - factors[:, 1]).max() < 0.5 / 64 + 0.5 / 96
  counts = np.histogram(factors[:, 1], 5, (0.1, 2.0))[0]
  assert np.abs(counts - len(views) / 5).max() < 100
  assert factors[:, 1].min() < 0.12
  assert factors[:, 1].max() > 1.98


def test_jittered_images_are_cut_or_padded():
  plan = make_plan(24, **JITTER)
  assert plan.canvases == ((64, 64),)
  views = list(drawn(plan, 300).values())
  for view in views:
    assert view.image_size == tuple(np.minimum(view.resized, (40, 48)))
    top, left, height, width = view.window
    assert 0 <= top <= view.resized[0] - height
    assert 0 <= left <= view.resized[1] - width
    assert view.is_crop
  assert any(view.image_size == (40, 48) for view in views)
  assert any(max(view.image_size) < 30 for view in views)


def test_jitter_finds_a_canvas_for_every_size():
  plan = make_plan(24, **{**JITTER, 'canvases': ((32, 32),), 'crop_size': (90, 200)})
  kinds = Counter()
  for step in range(300):
    for row in plan[step].rows:
      assert all(np.less_equal(row.view.image_size, plan[step].canvas))
      kinds[plan[step].canvas] += 1
  assert (32, 32) in kinds
  assert len(kinds) > 1


@pytest.mark.parametrize('options', [JITTER, PASTE])
def test_nothing_is_dropped_or_repeated(options):
  plan = make_plan(24, **options)
  seen = Counter(members(plan, range(60)))
  assert max(seen.values()) == 1
  # All in one canvas, so that 6 steps are an epoch.
  assert seen.keys() == {(epoch, i) for epoch in range(10) for i in range(24)}


def test_a_step_is_a_pure_function_of_seed_and_step():
  plan, fresh = make_plan(24, **PASTE), make_plan(24, **PASTE)
  want = [plan[step] for step in range(200)]
  for step in (199, 3, 70, 0):
    assert fresh[step] == want[step]
  other = make_plan(24, seed=1, **PASTE)
  assert [row.paste for row in pasted(plan, 9)] != [r.paste for r in pasted(other, 9)]


def test_options_leave_what_is_drawn_beside_them():
  """Pasting does not move the image beneath, nor jitter its order and mirroring."""
  jittered = drawn(make_plan(24, **JITTER), 60)
  assert drawn(make_plan(24, **PASTE), 60) == jittered
  plain = drawn(make_plan(24, **CROP), 60)
  assert plain.keys() == jittered.keys()
  assert all(plain[k].is_flipped == jittered[k].is_flipped for k in plain)


def test_frequencies_of_pasting():
  plan = make_plan(24, **{**CROP, 'copy_paste_probability': 0.6})
  rows = [row for step in range(600) for row in plan[step].rows]
  # An eighth of the choices of up to 3 instances is empty, and a cut misses some.
  share = np.mean([row.paste is not None for row in rows])
  assert 0.3 < share < 0.55
  pastes = [row.paste for row in rows if row.paste]
  sources = Counter(paste.index for paste in pastes)
  assert sources.keys() == set(range(24))
  assert all(row.paste.index != row.index for row in rows if row.paste)
  assert abs(np.mean([paste.view.is_flipped for paste in pastes]) - 0.5) < 0.05
  assert len({paste.chosen for paste in pastes}) == 7
  # Drawn anew for every image that the other is laid over.
  shown = {
    (row.epoch, row.paste.index, row.paste.view.window) for row in rows if row.paste
  }
  assert len(shown) > 0.5 * len(pastes)


def test_what_is_pasted_is_seen_and_lies_in_the_image():
  plan = make_plan(24, **PASTE)
  boxes = plan._augmentation._boxes.reshape(24, 3, 4)
  rows = pasted(plan, 300)
  corners = set()
  for row in rows:
    paste = row.paste
    end = np.add(paste.corner, paste.view.image_size)
    assert all(np.less_equal(end, row.view.image_size))
    assert paste.view.is_crop
    is_seen = show_boxes(boxes[paste.index], SIZES[paste.index], paste.view)[1]
    assert is_seen[list(paste.chosen)].all()
    corners.add(paste.corner)
  assert len(corners) > 50


def test_padding_holds_what_is_pasted():
  counts = np.random.default_rng(0).integers(0, 12, 24)
  plan = make_plan(24, sizes=SIZES, counts=counts, copy_paste_probability=0.8)
  larger = 0
  for step in range(100):
    rows = plan[step].rows
    own = [int(counts[row.index]) for row in rows]
    more = [len(row.paste.chosen) if row.paste else 0 for row in rows]
    both = np.add(own, more)
    assert plan[step].num_instances == pad_to_ladder(max(both), LADDER)
    larger += pad_to_ladder(max(both), LADDER) > pad_to_ladder(max(own), LADDER)
  assert larger


def test_pasting_belongs_to_the_image_id():
  """Images get the same where the JSON lists them otherwise."""
  ids = np.arange(9) * 5
  options = {'sizes': [(64, 64)] * 9, 'copy_paste_probability': 0.7, 'counts': [1] * 9}
  boxes = np.tile(np.asarray([[3, 4, 50, 60]], np.float32), (9, 1))
  plain = make_plan(9, image_ids=ids, boxes=boxes, **options)
  turned = make_plan(9, image_ids=ids[::-1], boxes=boxes, **options)
  for step in range(20):
    left, right = (
      [
        (order[r.index], r.paste and (order[r.paste.index], r.paste.view))
        for r in plan[step].rows
      ]
      for plan, order in ((plain, ids), (turned, ids[::-1]))
    )
    assert left == right


def test_only_images_with_instances_are_copied_from():
  counts = [2, 0, 1, 0, 0, 3]
  plan = make_plan(6, counts=counts, copy_paste_probability=1.0)
  rows = pasted(plan, 60)
  assert {row.paste.index for row in rows} == {0, 2, 5}
  assert {row.index for row in rows} == set(range(6))
  with pytest.raises(UserError, match='0.5, but there are 1 images with instances'):
    make_plan(3, counts=[0, 4, 0], copy_paste_probability=0.5)
