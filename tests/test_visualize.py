import itertools

import numpy as np
import pytest

from embedmask_jax.visualize import draw_detections, grid, instance_colour

NAMES = ('cell', 'Ångström gauge')


def image(height=600, width=700, grey=90):
  return np.full((height, width, 3), grey, np.uint8)


def rectangle(box, height=600, width=700):
  mask = np.zeros((height, width), bool)
  x1, y1, x2, y2 = box
  mask[y1 : y2 + 1, x1 : x2 + 1] = True
  return mask


def draw(picture, boxes, masks=None, scores='falling', labels=None):
  boxes = np.array(boxes, np.float32).reshape(-1, 4)
  if masks is None:
    masks = [rectangle(box.astype(int), *picture.shape[:2]) for box in boxes]
  if isinstance(scores, str):
    scores = np.linspace(0.9, 0.3, len(boxes))
  if labels is None:
    labels = np.zeros(len(boxes), int)
  return draw_detections(picture, boxes, masks, labels, scores, NAMES)


@pytest.mark.parametrize(
  ('height', 'width', 'factor'),
  [(64, 48, 12), (192, 192, 4), (256, 200, 3), (512, 100, 2), (520, 696, 1)],
)
def test_small_images_are_enlarged_by_a_whole_factor(height, width, factor):
  picture = image(height, width)
  drawn = draw(picture, [[4, 4, 30, 40]])
  assert drawn.dtype == np.uint8
  assert drawn.shape == (factor * height, factor * width, 3)
  assert (picture == 90).all()


def test_nothing_to_draw_leaves_the_image():
  picture = np.random.default_rng(0).integers(0, 256, (600, 700, 3)).astype(np.uint8)
  np.testing.assert_array_equal(draw(picture, [], np.zeros((0, 600, 700))), picture)


def test_tint_is_inside_the_mask_and_the_outline_on_its_rim():
  mask = rectangle([300, 300, 399, 379])
  mask &= ~rectangle([340, 330, 359, 349])
  drawn = draw(image(), [[200, 200, 500, 500]], mask[None])
  colour = np.array(instance_colour(0))
  around = drawn[260:440, 260:440]
  changed = (around != 90).any(axis=-1)
  np.testing.assert_array_equal(changed, mask[260:440, 260:440])
  np.testing.assert_array_equal(drawn[300, 300:400], np.tile(colour, (100, 1)))
  np.testing.assert_array_equal(drawn[329, 340:360], np.tile(colour, (20, 1)))
  tinted = drawn[320, 320]
  assert (np.abs(tinted - (0.55 * 90 + 0.45 * colour)) <= 1).all()


def test_boxes_include_their_last_pixel_and_masks_fill_their_pixels():
  box = [5, 6, 20, 18]
  for mask in (np.zeros((96, 96), bool), rectangle(box, 96, 96)):
    drawn = draw(image(96, 96), [box], [mask], scores=None)
    coloured = (drawn == instance_colour(0)).all(axis=-1)
    rows, columns = np.flatnonzero(coloured.any(1)), np.flatnonzero(coloured[8 * 8])
    assert rows[-1] + 1 == 8 * 19
    assert (columns[0], columns[-1] + 1) == (8 * 5, 8 * 21)


@pytest.mark.parametrize(('scores', 'top'), [([0.9, 0.5], 0), ([0.5, 0.9], 1)])
def test_better_detections_lie_on_top(scores, top):
  box, mask = [200, 200, 450, 450], rectangle([300, 300, 400, 400])
  drawn = draw(image(), [box, box], [mask, mask], np.array(scores))
  np.testing.assert_array_equal(drawn[301, 350], instance_colour(top))
  np.testing.assert_array_equal(drawn[450, 350], instance_colour(top))


def test_colours_of_neighbours_differ_and_are_stable():
  colours = np.array([instance_colour(i) for i in range(12)], float)
  for first, second in itertools.combinations(colours, 2):
    assert np.abs(first - second).max() > 25
  for first, second in itertools.pairwise(colours):
    assert np.abs(first - second).max() > 90
  assert instance_colour(3) == instance_colour(3)


def caption_pixels(drawn, plain):
  return (drawn != plain).any(axis=-1).sum()


def test_captions_say_name_and_score_and_avoid_each_other():
  apart = [[100, 100, 200, 200], [400, 100, 500, 200]]
  empty = np.zeros((2, 600, 700), bool)
  plain = draw(image(), apart, empty, scores=None)
  scored = draw(image(), apart, empty)
  assert caption_pixels(scored, image()) > caption_pixels(plain, image())
  # Captions of the same box lie beside each other while there is room.
  box = [[300, 300, 320, 320]]
  alone, two, many = (
    caption_pixels(draw(image(), box * n, np.zeros((n, 600, 700), bool)), image())
    for n in (1, 2, 20)
  )
  assert 1.7 * alone < two <= 2 * alone
  assert many <= 6 * alone


def test_captions_keep_off_the_middle_of_other_instances():
  boxes = [[300, 300, 330, 330], [300, 284, 330, 296]]
  drawn = draw(image(), boxes, np.zeros((2, 600, 700), bool))
  assert (drawn[290, 315] == 90).all()
  assert (drawn[332:345, 305:360] == instance_colour(0)).all(axis=-1).any()


def test_crowds_have_no_captions():
  boxes = [[10 * (i % 60) + 20, 20 * (i // 60) + 100, 0, 0] for i in range(61)]
  boxes = [[x, y, x + 6, y + 6] for x, y, _, _ in boxes]
  drawn = draw(image(), boxes)
  assert (drawn[:95] == 90).all()
  assert (draw(image(), boxes[:60])[:95] != 90).any()


def test_empty_masks_and_boxes_beyond_the_image_do_no_harm():
  boxes = [[-50, -40, 20, 30], [690, 590, 900, 900], [800, 800, 900, 900]]
  drawn = draw(image(), boxes, np.zeros((3, 600, 700), bool), labels=[0, 1, 0])
  assert (drawn[0, 0] == instance_colour(0)).all()


def test_ground_truth_has_no_scores():
  drawn = draw(image(), [[100, 100, 300, 300]], scores=None)
  assert (drawn != 90).any()


def test_grid_places_pictures_in_cells_of_equal_size():
  pictures = [image(40, 60, 10), image(20, 20, 20), image(40, 60, 30)]
  sheet = grid(pictures, columns=2)
  assert sheet.shape == (2 + 2 * 42, 2 + 2 * 62, 3)
  assert (sheet[2:42, 2:62] == 10).all()
  assert (sheet[12:32, 84:104] == 20).all()
  assert (sheet == 20).all(axis=-1).sum() == 400
  assert (sheet[44:84, 2:62] == 30).all()
  assert (sheet[44:, 64:] == 255).all()
  assert grid(pictures * 3).shape[0] == 2 + 3 * 42
