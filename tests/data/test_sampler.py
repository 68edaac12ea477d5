import pickle
import threading
import time
from collections import Counter

import numpy as np
import pytest
from plans import LADDER, drawn, make_plan, members

from embedmask_jax.data.sampler import pad_to_ladder


@pytest.mark.parametrize('short_sides', [(64,), (32, 48, 64)])
@pytest.mark.parametrize('count', [1, 3, 23, 5000])
def test_nothing_is_dropped_or_repeated(count, short_sides):
  plan = make_plan(count, short_sides=short_sides)
  steps = max(60, 3 * count // 4)
  seen = Counter(members(plan, range(steps)))
  assert max(seen.values()) == 1
  # Whatever is still waiting fits into the queues.
  last = max(epoch for epoch, _ in seen)
  missing = [(e, i) for e in range(last) for i in range(count) if (e, i) not in seen]
  assert len(missing) <= 3 * len(plan.canvases)


def test_small_data_flow_across_epochs():
  plan = make_plan(2, sizes=[(64, 64), (64, 128)], batch_size=5)
  for step in range(6):
    batch = plan[step]
    assert len({row.index for row in batch.rows}) == 1
    epochs = [row.epoch for row in batch.rows]
    assert epochs == list(range(epochs[0], epochs[0] + 5))


def test_batches_leave_in_the_order_of_the_stream():
  """A queue is emptied the moment it is full, not at the end of a block."""
  plan = make_plan(50, short_sides=(64,))
  last = [max(row.epoch for row in plan[k].rows) for k in range(300)]
  assert last == sorted(last)


def test_a_step_is_a_pure_function_of_seed_and_step():
  plan = make_plan()
  want = [plan[k] for k in range(1500)]
  fresh = make_plan()
  for step in (1499, 3, 700, 0, 1499, 12):
    assert fresh[step] == want[step]
  assert [make_plan(seed=1)[k] for k in range(5)] != want[:5]
  assert pickle.loads(pickle.dumps(fresh))[701] == want[701]


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
  orders = set()
  for seed in (0, 1):
    plan = make_plan(40, sizes=[(64, 64)] * 40, seed=seed)
    for epoch in (0, 1):
      steps = range(10 * epoch, 10 * (epoch + 1))
      orders.add(tuple(index for _, index in members(plan, steps)))
  assert len(orders) == 4
  assert all(sorted(order) == list(range(40)) for order in orders)
  assert tuple(range(40)) not in orders


def test_several_threads_may_ask():
  plan, want = make_plan(), [make_plan()[k] for k in (0, 900, 1800)]
  found = {}

  def ask(step):
    found[step] = plan[step]

  threads = [threading.Thread(target=ask, args=(k,)) for k in (1800, 0, 900)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert [found[k] for k in (0, 900, 1800)] == want


def test_augmentation_does_not_depend_on_the_batch_layout():
  options = {'short_sides': (32, 48, 64), 'crop_size': (32, 32)}
  few = drawn(make_plan(batch_size=2, **options), 200)
  many = drawn(make_plan(batch_size=8, **options), 50)
  common = few.keys() & many.keys()
  assert len(common) > 300
  assert all(few[key] == many[key] for key in common)


def test_augmentation_belongs_to_the_image_id():
  """Images keep what is drawn for them where the JSON lists them otherwise."""
  sizes = np.full((9, 2), 64)
  ids = np.arange(9) * 5
  plain = make_plan(9, sizes=sizes, image_ids=ids)
  turned = make_plan(9, sizes=sizes, image_ids=ids[::-1])
  for step in range(20):
    left = [(row.epoch, ids[row.index], row.view) for row in plain[step].rows]
    right = [(row.epoch, ids[::-1][row.index], row.view) for row in turned[step].rows]
    assert left == right


def test_frequencies():
  plan = make_plan(100, short_sides=(32, 64), flip_probability=0.25)
  views = list(drawn(plan, 1000).values())
  assert abs(np.mean([view.is_flipped for view in views]) - 0.25) < 0.03
  assert abs(np.mean([min(view.resized) == 32 for view in views]) - 0.5) < 0.03
  assert not any(
    v.is_flipped for v in drawn(make_plan(flip_probability=0), 50).values()
  )
  assert all(v.is_flipped for v in drawn(make_plan(flip_probability=1), 50).values())


def test_crops_are_uniform_and_inside():
  plan = make_plan(64, sizes=[(64, 80)] * 64, crop_size=(60, 64), short_sides=(64,))
  assert plan.canvases == ((64, 64),)
  views = list(drawn(plan, 1600).values())
  tops = Counter(view.window[0] for view in views)
  lefts = Counter(view.window[1] for view in views)
  assert tops.keys() == set(range(5))
  assert lefts.keys() == set(range(17))
  assert min(tops.values()) > 0.85 * len(views) / 5
  assert min(lefts.values()) > 0.7 * len(views) / 17
  assert all(view.image_size == (60, 64) and view.is_crop for view in views)


def test_small_images_are_not_cropped():
  plan = make_plan(4, sizes=[(30, 200)] * 4, crop_size=(64, 64), short_sides=(32,))
  for view in drawn(plan, 8).values():
    assert view.resized[0] < 64
    assert view.image_size == (view.resized[0], 64)
    assert view.window[0] == 0


def test_canvas_holds_every_row():
  plan = make_plan(300, short_sides=(40, 64), canvases=((64, 64),))
  for step in range(300):
    for row in plan[step].rows:
      assert row.view.canvas == plan[step].canvas
      assert row.view.image_size == row.view.resized
      assert all(np.less_equal(row.view.resized, plan[step].canvas))


def test_ladder():
  assert [pad_to_ladder(n, LADDER) for n in (0, 8, 9, 32, 33, 64, 65, 400)] == [
    8,
    8,
    16,
    32,
    64,
    64,
    128,
    512,
  ]


def test_padding_holds_the_largest_image_of_the_batch():
  counts = np.random.default_rng(0).integers(0, 70, 40)
  plan = make_plan(40, counts=counts)
  for step in range(60):
    largest = max(counts[row.index] for row in plan[step].rows)
    assert plan[step].num_instances == pad_to_ladder(largest, LADDER)


def test_padding_counts_what_a_crop_shows():
  plan = make_plan(
    8, sizes=[(200, 200)] * 8, counts=[100] * 8, crop_size=(64, 64), short_sides=(128,)
  )
  sizes = {plan[step].num_instances for step in range(100)}
  assert sizes <= {16, 32, 64}
  assert 32 in sizes


def test_shares_are_contiguous_parts():
  plan = make_plan(batch_size=6)
  batch = plan[3]
  shares = [batch.share(i, 3) for i in range(3)]
  assert sum((share.rows for share in shares), ()) == batch.rows
  assert all(share.batch_size == 2 for share in shares)
  assert all(share.num_instances == batch.num_instances for share in shares)
  assert batch.share(0, 1) == batch


def test_planning_is_cheap():
  rng = np.random.default_rng(0)
  plan = make_plan(
    118_000,
    sizes=rng.integers(300, 640, (118_000, 2)),
    counts=np.full(118_000, 1),
    batch_size=16,
    short_sides=(640, 672, 704, 736, 768, 800),
    long_side=1333,
  )
  start = time.process_time()
  plan[4 * 118_000 // 16]
  assert time.process_time() - start < 5
  tiny = make_plan(16, sizes=[(64, 64)] * 16)
  start = time.process_time()
  tiny[100_000]
  assert time.process_time() - start < 5
