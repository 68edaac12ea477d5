import numpy as np
import pytest

from embedmask_jax.data.eval_plan import EvalPlan
from embedmask_jax.presets import PRESETS

OUTPUTS = ((100, 100), (200, 200))


def make_plan(sizes, **options):
  settings = {
    'short_side': 64,
    'long_side': 107,
    'batch_size': 4,
    'preset': PRESETS['2021'],
  }
  return EvalPlan(sizes=np.asarray(sizes, np.int32), **{**settings, **options})


@pytest.mark.parametrize('batch_size', [1, 4, 7])
def test_every_image_once(batch_size):
  sizes = np.random.default_rng(0).integers(10, 300, (61, 2))
  plan = make_plan(sizes, batch_size=batch_size, output_ladder=OUTPUTS)
  batches = [plan[k] for k in range(len(plan))]
  seen = [row.index for batch in batches for row in batch.rows]
  assert sorted(seen) == list(range(61))
  for batch in batches:
    assert batch.batch_size == batch_size
    assert batch.num_instances == 1
    for row in batch.rows:
      assert not row.view.is_flipped
      assert row.view.canvas == batch.canvas
      assert row.view.image_size == row.view.resized
      assert all(np.less_equal(row.view.resized, batch.canvas))


def test_batches_have_one_class_of_original_sizes():
  sizes = np.tile([(90, 90), (180, 180), (360, 360)], (5, 1))
  plan = make_plan(sizes, output_ladder=OUTPUTS)
  classes = [
    {int(sizes[row.index, 0]) for row in plan[k].rows} for k in range(len(plan))
  ]
  assert all(len(kinds) == 1 for kinds in classes)
  assert len(plan) == 6
  assert len(make_plan(sizes)) == 4


def test_nothing_is_made_smaller_to_fit():
  """Given canvases that are too small for some images."""
  sizes = [(64, 64), (64, 100), (500, 64), (64, 5000)]
  plan = make_plan(sizes, canvases=((64, 64),))
  resized = {
    row.index: row.view.resized for k in range(len(plan)) for row in plan[k].rows
  }
  assert resized[0] == (64, 64)
  assert resized[1] == (64, 100)
  assert resized[2] == (109, 14)
  assert plan.canvases[0] == (64, 64)


def test_shares_of_a_batch_that_is_not_full():
  plan = make_plan([(64, 64)] * 5)
  shares = [plan[1].share(i, 2) for i in range(2)]
  assert [len(share.rows) for share in shares] == [1, 0]
  assert all(share.batch_size == 2 for share in shares)
