"""The demo: what is shown, its pictures and files, and the command."""

import contextlib
import dataclasses
import json
import logging
import signal
import socket

import handmade_prediction
import numpy as np
import pytest
from commands import refused
from demo_inputs import explain
from peak_memory import peak_memory
from PIL import Image

from embedmask_jax.command_line import run
from embedmask_jax.demo import server
from embedmask_jax.demo.exploration import LOWEST_SCORE, Exploration
from embedmask_jax.demo.pictures import (
  LONGEST_SIDE,
  draw_distances,
  draw_instances,
  map_size,
  pixel_of_click,
  shade,
)
from embedmask_jax.demo.results import write_results
from embedmask_jax.errors import UserError
from embedmask_jax.visualize import instance_colour


@pytest.fixture
def exploration():
  return Exploration('slide.tif', *explain())


def test_a_score_hides_instances_and_their_choice(exploration):
  assert [len(exploration.at_score(s).shown) for s in (0.05, 0.5, 0.95)] == [3, 2, 0]
  chosen = exploration.choosing(1)
  assert chosen.at_score(0.6).chosen == 1
  assert chosen.at_score(0.61).chosen is None
  assert exploration.choosing(3).chosen is None
  assert exploration.choosing(-1).chosen is None


def test_the_instance_under_a_pixel_is_the_one_on_top(exploration):
  masks = handmade_prediction.masks()
  for y, x in np.argwhere(masks.any(axis=0)):
    assert exploration.at(x, y) == np.flatnonzero(masks[:, y, x])[0]
  assert exploration.at(20, 15) is None  # the hole of the ring
  y, x = np.argwhere(masks[0] & masks[1])[0]
  assert exploration.at(x, y) == 0
  y, x = np.argwhere(masks[1] & ~masks[0])[0]
  assert exploration.at(x, y) == 1
  assert exploration.at_score(0.7).at(x, y) is None


def test_rows_have_the_numbers_of_the_label_map(exploration):
  rows = exploration.at_score(0.5).rows()
  areas = handmade_prediction.masks().sum(axis=(1, 2)).tolist()
  assert rows == [
    [1, 'a/b', 0.9, areas[0], '5,4,30,26'],
    [2, 'box', 0.6, areas[1], '30,25,28,13'],
  ]


def test_a_picture_of_many_instances_takes_little_memory(exploration):
  crowd = handmade_prediction.crowded_prediction()
  shown = dataclasses.replace(exploration, prediction=crowd)
  assert peak_memory(lambda: draw_instances(shown)) < 20e6


def test_a_click_finds_the_pixel_in_enlarged_and_reduced_pictures():
  for size, picture in (((40, 60), (780, 520)), ((3000, 4000), (1600, 1200))):
    for y, x in ((0, 0), (7, 31), (size[0] - 1, size[1] - 1)):
      middle = ((x + 0.5) * picture[0] / size[1], (y + 0.5) * picture[1] / size[0])
      assert pixel_of_click(middle, picture, size) == (x, y)
  assert pixel_of_click((800, -1), (780, 520), (40, 60)) == (59, 0)


def colours_in(picture):
  return {tuple(colour) for colour in np.asarray(picture).reshape(-1, 3).tolist()}


def test_only_what_is_shown_is_drawn(exploration):
  everything = exploration.at_score(0.05)
  assert {instance_colour(k) for k in range(3)} <= colours_in(
    draw_instances(everything)
  )
  better = colours_in(draw_instances(everything.at_score(0.5)))
  assert [instance_colour(k) in better for k in range(3)] == [True, True, False]
  # The chosen one keeps its colour, and its surroundings are dark.
  alone = draw_instances(everything.choosing(1))
  present = colours_in(alone)
  assert [instance_colour(k) in present for k in range(3)] == [False, True, False]
  assert alone.size == draw_instances(everything).size
  assert np.asarray(alone)[:200, :200].mean() < 0.5 * exploration.shown.image.mean()


def test_large_pictures_are_sent_smaller(exploration):
  prediction = exploration.prediction.select(np.zeros(3, bool))
  image = np.zeros((2000, 4000, 3), np.uint8)
  prediction = dataclasses.replace(prediction, image=image)
  empty = Exploration('a', prediction, exploration.view)
  assert draw_instances(empty).size == (LONGEST_SIDE, LONGEST_SIDE // 2)
  assert map_size((2000, 4000)) == (LONGEST_SIDE // 2, LONGEST_SIDE)
  assert map_size((100, 200)) == (256, 512)
  assert map_size((1, 9000)) == (1, LONGEST_SIDE)


def test_the_distance_map_is_bright_in_the_chosen_instance(exploration):
  exploration = exploration.at_score(0.05)
  prediction = exploration.prediction
  pictures = [np.asarray(draw_distances(exploration.choosing(k))) for k in (0, 1)]
  height, width = map_size(prediction.size)
  for k, picture in enumerate(pictures):
    assert picture.shape[1] == width
    light = picture[:height].sum(axis=-1)
    enlarged = np.asarray(Image.fromarray(prediction.masks[k]).resize((width, height)))
    assert np.median(light[enlarged]) > 2 * np.median(light[~enlarged])
  assert (pictures[0] != pictures[1]).any()
  with pytest.raises(ValueError, match='no instance'):
    draw_distances(exploration)


def test_shades_grow_brighter_without_a_step_back():
  light = shade(np.linspace(1, 0, 200)[None]).astype(int).sum(axis=-1)[0]
  assert (np.diff(light) >= 0).all()
  assert light[0] < 100
  assert light[-1] > 600


def test_results_are_those_of_predict(exploration, tmp_path):
  exploration = exploration.at_score(0.5).choosing(1)
  paths = write_results(exploration, tmp_path / 'results')
  assert [path.name for path in paths] == [
    'predictions.json',
    'overlay.png',
    'label-map.png',
  ]
  shown = exploration.shown
  assert json.loads(paths[0].read_text()) == shown.to_coco(file_name='slide.tif')
  np.testing.assert_array_equal(np.asarray(Image.open(paths[1])), shown.plot())
  np.testing.assert_array_equal(np.asarray(Image.open(paths[2])), shown.label_map())


def test_a_port_in_use_is_told():
  with socket.socket() as other:
    other.bind(('127.0.0.1', 0))
    other.listen()
    port = other.getsockname()[1]
    with pytest.raises(UserError, match=f'--port={port}: cannot .*another program'):
      server.check_free('127.0.0.1', port)
  server.check_free('127.0.0.1', port)
  with pytest.raises(UserError, match='--host=203.0.113.9 '):
    server.check_free('203.0.113.9', port)


def test_mistakes_of_the_command(capsys, monkeypatch):
  assert '--port=0 is not' in refused(capsys, 'demo', '--port=0')
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  assert "pip install 'embedmask-jax[demo]'" in refused(capsys, 'demo')


def test_the_command_serves_this_machine_alone_and_keeps_all_scores(monkeypatch):
  seen = {}

  class Predictor:
    def __init__(self, stored, config, *, score_threshold):
      seen['threshold'] = score_threshold

    def explain(self, image):
      return None

  def serve(explain, name, *, host, port):
    seen.update(name=name, host=host, port=port)

  module = 'embedmask_jax.predict.embedding_predictor.EmbeddingPredictor'
  monkeypatch.setattr(module, Predictor)
  monkeypatch.setattr(server, 'serve', serve)
  monkeypatch.setattr(server, 'check_free', lambda host, port: None)
  monkeypatch.setattr('importlib.util.find_spec', lambda name: name)
  assert run(['demo', '--compilation-cache=off']) == 0
  here = {'name': 'nuclei', 'host': '127.0.0.1', 'port': 7860}
  assert seen == {**here, 'threshold': LOWEST_SCORE}


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('host', ['127.0.0.1', '0.0.0.0'])
def test_a_signal_ends_it_and_an_open_host_is_warned_of(
  number, host, monkeypatch, caplog
):
  before = signal.getsignal(number)
  ended = []

  @contextlib.contextmanager
  def running(explain, name, *, host, port):
    assert signal.getsignal(number) is not before
    signal.raise_signal(number)
    yield f'http://{host}:{port}'
    ended.append(host)

  monkeypatch.setattr(server, 'running', running)
  with caplog.at_level(logging.WARNING):
    server.serve(explain, 'nuclei', host=host, port=7860)
  assert ended == [host]
  assert signal.getsignal(number) is before
  assert ('without a password' in caplog.text) == (host == '0.0.0.0')
