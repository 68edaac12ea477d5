"""The report's page: all parts are there, and nothing is fetched."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import handmade_prediction
import numpy as np
import pytest
from peak_memory import peak_memory

from embedmask_jax.charts import Line, line_chart, shaded_table, ticks
from embedmask_jax.metrics.coco import score_results
from embedmask_jax.report.page import make_page
from embedmask_jax.report.pictures import side_by_side

CATEGORIES = [{'id': 3, 'name': '<cat> & "co"'}, {'id': 7, 'name': 'dog'}]


def square(image_id, category_id, x, **more):
  outline = [[x, 2, x + 20, 2, x + 20, 22, x, 22]]
  entry = {'image_id': image_id, 'category_id': category_id, 'segmentation': outline}
  return entry | {'bbox': [x, 2, 20, 20], **more}


def truth():
  return {
    'images': [
      {'id': i, 'height': 40, 'width': 90, 'file_name': f'{i}<b>.png'} for i in (1, 2)
    ],
    'categories': CATEGORIES,
    'annotations': [
      square(1, 3, 1, id=1),
      square(1, 7, 40, id=2),
      square(2, 3, 5, id=3),
    ],
  }


def page(results, **options):
  scored = score_results(truth(), results)
  image = np.full((40, 90, 3), 90, np.uint8)
  return make_page(scored, lambda image_id: image, title='a <run>', **options)


class Tags(HTMLParser):
  """Checks that tags are closed in their order, and collects what they refer to."""

  def __init__(self, text):
    super().__init__()
    self.open, self.references = [], []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    for name, value in attributes:
      if name in ('src', 'href', 'xlink:href', 'data', 'action', 'srcset'):
        self.references.append(value)
    if tag not in ('meta', 'img'):
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    pass

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_it_is_whole_and_asks_for_nothing():
  results = [
    square(1, 3, 1, score=0.9),
    square(1, 3, 41, score=0.8),
    square(2, 3, 5, score=0.7),
  ]
  curves = line_chart([Line('loss', [1, 2], [3, 4])], title='losses', x_name='step')
  text = page(results, training_curves=curves)
  tags = Tags(text)
  assert not tags.open
  # One is the worst and the only one confused; both are among the best.
  assert len(tags.references) == 4
  assert all(
    address.startswith('data:image/jpeg;base64,') for address in tags.references
  )
  assert not re.search(r'url\(|@import|<script|<link', text)
  assert "default-src 'none'" in text
  for part in ('COCO metrics', 'Precision and recall', 'Classes and sizes', 'missed'):
    assert part in text
  assert 'dog as &lt;cat&gt; &amp; &quot;co&quot;: 1' in text
  assert '<cat>' not in text
  assert '<b>' not in text
  assert 'losses' in text
  for svg in re.findall(r'<svg.*?</svg>', text):
    ET.fromstring(svg)


@pytest.mark.parametrize(
  'results', [[], [square(1, 3, 1, score=0.9), square(1, 7, 40, score=0.9)]]
)
def test_nothing_found_and_everything_right(results):
  text = page([*results, *([square(2, 3, 5, score=0.9)] if results else [])])
  assert not Tags(text).open
  if results:
    assert 'Every image is perfect.' in text
    assert 'No instance is taken for another class.' in text
  else:
    assert 'There are no detections.' in text


def test_a_picture_of_many_instances_takes_little_memory():
  crowd = handmade_prediction.crowded_prediction()
  entries = crowd.to_coco()
  found = [-1] * len(entries)

  def draw():
    side_by_side(crowd.image, entries, entries, {3: 'box'}, found)

  assert peak_memory(draw) < 20e6


def test_ticks_are_round():
  assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
  assert ticks(3, 1500) == pytest.approx([500, 1000, 1500])
  assert len(ticks(-2.5, 1e-9)) > 2


def test_charts_bear_what_is_not_finite_or_empty():
  nan = float('nan')
  line = Line('x', [0, 1, 2, 3], [1, nan, 2, 3])
  drawing = ET.fromstring(line_chart([line], title='t', x_name='x'))
  assert len(list(drawing.iter('{http://www.w3.org/2000/svg}polyline'))) == 1
  assert len(list(drawing.iter('{http://www.w3.org/2000/svg}circle'))) == 1
  ET.fromstring(line_chart([], title='nothing', x_name='x'))
  ET.fromstring(line_chart([Line('one', [5], [5])], title='one', x_name='x'))
  many = [f'class {i}' for i in range(60)]
  ET.fromstring(shaded_table([[1] * 60] * 60, many, many, title='<many>'))
