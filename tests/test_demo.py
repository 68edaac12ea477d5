"""The page for trying a model out: pictures, clicks, bounds, and the page itself."""

import asyncio
import dataclasses
import importlib.util
import json
import os
import re
import shutil
import socket
import struct
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import handmade_prediction
import numpy as np
import pytest
from headless_chromium import Browser
from PIL import Image
from test_command_line import refused

from embedmask_jax.demo import uploads
from embedmask_jax.demo.exploration import Exploration
from embedmask_jax.demo.pictures import (
  LONGEST_SIDE,
  draw_distances,
  draw_instances,
  map_size,
  pixel_of_click,
  shade,
)
from embedmask_jax.demo.results import write_results
from embedmask_jax.demo.server import check_free, running
from embedmask_jax.demo.uploads import read_upload
from embedmask_jax.demo.web_guard import WebGuard, names_elsewhere
from embedmask_jax.errors import UserError
from embedmask_jax.predict.embedding_view import EmbeddingView
from embedmask_jax.presets import PRESETS
from embedmask_jax.visualize import instance_colour


def explain(image=None):
  """The prediction made by hand, with embeddings in which each mask is apart."""
  prediction = handmade_prediction.prediction()
  rng = np.random.default_rng(0)
  pixel = rng.normal(0, 0.1, (8, 8, 5)).astype(np.float32)
  height, width = prediction.size
  for index, mask in enumerate(handmade_prediction.masks()):
    cells = mask[4:height:8, 4:width:8]
    pixel[: cells.shape[0], : cells.shape[1], 2 + index][cells] += 3
  view = EmbeddingView(
    pixel=pixel,
    proposal=np.eye(5, dtype=np.float32)[2:] * 3,
    margin=np.full((3, 5), 0.6, np.float32),
    image_size=np.asarray(prediction.size, np.int32),
    valid_size=np.asarray([64, 64], np.int32),
    preset=PRESETS['2021'],
    mask_threshold=0.5,
  )
  return prediction, view


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


def png_that_claims(width, height) -> bytes:
  def chunk(kind, data):
    check = struct.pack('>I', zlib.crc32(kind + data))
    return struct.pack('>I', len(data)) + kind + data + check

  head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  rows = chunk(b'IDAT', zlib.compress(bytes(1000)))
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + rows + chunk(b'IEND', b'')


def test_uploads_are_bounded(tmp_path, monkeypatch):
  good = tmp_path / 'good.png'
  Image.fromarray(np.full((20, 30, 3), 7, np.uint8)).save(good)
  assert read_upload(good).shape == (20, 30, 3)

  bomb = tmp_path / 'bomb.png'
  bomb.write_bytes(png_that_claims(8000, 5000))
  monkeypatch.setattr(Image.Image, 'load', lambda *_: pytest.fail('unpacked'))
  with pytest.raises(UserError, match='bomb.png: 8000x5000 pixels .* at most 16000000'):
    read_upload(bomb)
  monkeypatch.undo()

  large = tmp_path / 'large.png'
  with large.open('wb') as file:
    file.truncate(uploads.MAX_BYTES + 1)
  with pytest.raises(UserError, match='large.png: the file is larger than 20 MiB'):
    read_upload(large)

  text = tmp_path / 'text.png'
  text.write_text('%!PS nothing')
  with pytest.raises(
    UserError, match=r'text.png: not an image .*known format'
  ) as caught:
    read_upload(text)
  assert str(tmp_path) not in str(caught.value)


def answer(scope, *messages):
  """What the guard around an application that reads everything answers."""
  sent, inside = [], []

  async def application(scope, receive, send):
    while (message := await receive())['type'] == 'http.request':
      inside.append(message['body'])
      if not message.get('more_body'):
        break
    else:
      return
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})

  waiting = list(messages)

  async def receive():
    return waiting.pop(0)

  async def send(message):
    sent.append(message)

  scope = {'type': 'http', 'method': 'POST', 'path': '/', 'headers': [], **scope}
  asyncio.run(WebGuard(application)(scope, receive, send))
  return sent[0] if sent else None, inside


def body(content, more=False):
  return {'type': 'http.request', 'body': content, 'more_body': more}


JSON = [(b'content-type', b'application/json')]


def test_every_answer_keeps_the_browser_here():
  start, inside = answer({}, body(b'a', more=True), body(b'b'))
  assert start['status'] == 200
  assert inside == [b'a', b'b']
  policy = dict(start['headers'])[b'content-security-policy'].decode()
  assert policy.startswith("default-src 'self'")
  assert 'http' not in policy


def test_large_requests_are_cut_off():
  limit = uploads.MAX_BYTES + 2**20
  length = [(b'content-length', str(limit + 1).encode())]
  assert answer({'headers': length})[0]['status'] == 413
  half = body(bytes(limit // 2 + 1), more=True)
  start, inside = answer({}, half, half, half)
  assert start is None
  assert len(inside) == 1
  assert answer({'headers': JSON}, half, half)[0]['status'] == 413


def test_the_server_fetches_nothing():
  path = {'path': '/gradio_api/file=https://example.org/a.png'}
  assert answer(path)[0]['status'] == 403
  named = {'data': [{'path': 'https://example.org/a', 'meta': {}}, 0.3]}
  start, inside = answer({'headers': JSON}, body(json.dumps(named).encode()))
  assert (start['status'], inside) == (403, [])
  harmless = json.dumps({'data': [{'path': 'a/http.png'}]}).encode()
  start, inside = answer({'headers': JSON}, body(harmless))
  assert (start['status'], inside) == (200, [harmless])
  assert not names_elsewhere(b'no json')


def test_a_port_in_use_is_told():
  with socket.socket() as other:
    other.bind(('127.0.0.1', 0))
    other.listen()
    port = other.getsockname()[1]
    with pytest.raises(UserError, match=f'--port={port}: cannot .*another program'):
      check_free('127.0.0.1', port)
  check_free('127.0.0.1', port)
  with pytest.raises(UserError, match='--host=203.0.113.9 '):
    check_free('203.0.113.9', port)


def test_mistakes_of_the_command(capsys, monkeypatch):
  assert '--port=0 is not' in refused(capsys, 'demo', '--port=0')
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  assert "pip install 'embedmask-jax[demo]'" in refused(capsys, 'demo')


def free_port() -> int:
  with socket.socket() as trial:
    trial.bind(('127.0.0.1', 0))
    return trial.getsockname()[1]


class OneAtATime:
  """`explain`, which notes how many call it at once, and how often."""

  def __init__(self):
    self.now = self.most = self.calls = 0
    self._lock = threading.Lock()

  def __call__(self, image):
    with self._lock:
      self.now, self.calls = self.now + 1, self.calls + 1
      self.most = max(self.most, self.now)
    time.sleep(0.2)
    with self._lock:
      self.now -= 1
    return explain(image)


@pytest.fixture(scope='module')
def calls():
  return OneAtATime()


@pytest.fixture(scope='module')
def server(calls):
  """A served page, and the addresses that were asked for meanwhile."""
  # Not imported here: it is to find its folder when the server has made it.
  if importlib.util.find_spec('gradio') is None:
    pytest.skip('there is no gradio')
  asked, connect = set(), socket.socket.connect

  def note(self, address):
    asked.add(str(address[0]))
    return connect(self, address)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(socket.socket, 'connect', note)
    # Proxies are not for this machine.
    patch.setenv('NO_PROXY', '127.0.0.1')
    with running(calls, 'a<b', host='127.0.0.1', port=free_port()) as address:
      folder = Path(tempfile.gettempdir())
      yield address, folder, asked
  assert not folder.exists()
  assert asked <= {'127.0.0.1', 'localhost'}
  assert tempfile.gettempdir() != str(folder)
  assert 'GRADIO_TEMP_DIR' not in os.environ


@pytest.fixture
def picture_file(tmp_path):
  path = tmp_path / 'picture.png'
  Image.fromarray(handmade_prediction.prediction().image).save(path)
  return path


def test_the_page_loads_nothing_from_elsewhere(server):
  address, _, _ = server
  with urllib.request.urlopen(address) as reply:
    page = reply.read().decode()
    assert "default-src 'self'" in reply.headers['content-security-policy']
  loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="([^"]*)"', page)
  assert loaded
  assert not [url for url in loaded if url.startswith(('http', '//'))]
  with urllib.request.urlopen(f'{address}theme.css') as reply:
    assert not re.search(r'(url\(|@import )[\'"]?(https?:)?//', reply.read().decode())


def test_many_visitors_wait_for_each_other(server, calls, picture_file, tmp_path):
  from gradio_client import Client, handle_file

  address, folder, _ = server
  clients = [
    Client(address, verbose=False, download_files=tmp_path / 'got') for _ in range(3)
  ]
  jobs = [
    client.submit(handle_file(picture_file), 0.5, api_name='/detect')
    for client in clients
  ]
  results = [job.result(120) for job in jobs]
  assert (calls.most, calls.calls) == (1, 3)
  for result in results:
    table = next(part for part in result if isinstance(part, dict) and 'data' in part)
    assert [row[:3] for row in table['data']] == [[1, 'a/b', 0.9], [2, 'box', 0.6]]
  # The slider asks the network nothing.
  result = clients[0].predict(0.95, api_name='/score')
  assert any('**0** of 3' in part for part in result if isinstance(part, str))
  assert calls.calls == 3
  paths = clients[1].predict(api_name='/files')
  paths = paths['value'] if isinstance(paths, dict) else paths
  names = {Path(path).name for path in paths}
  assert names == {'predictions.json', 'overlay.png', 'label-map.png'}
  assert list(folder.rglob('picture.png'))


def test_visitors_are_told_what_is_wrong(server, tmp_path):
  from gradio_client import Client, handle_file
  from gradio_client.exceptions import AppError

  address, _, _ = server
  client = Client(address, verbose=False)
  bomb = tmp_path / 'bomb.png'
  bomb.write_bytes(png_that_claims(50000, 50000))
  with pytest.raises(AppError, match='bomb.png: too many pixels; at most 16000000'):
    client.predict(handle_file(bomb), 0.5, api_name='/detect')
  part = (
    b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
  )
  data = part + bytes(uploads.MAX_BYTES + 2**19) + b'\r\n--x--\r\n'
  kind = {'Content-Type': 'multipart/form-data; boundary=x'}
  upload = urllib.request.Request(f'{address}gradio_api/upload', data, kind)
  with pytest.raises(urllib.error.HTTPError, match='413'):
    urllib.request.urlopen(upload)
  with pytest.raises(urllib.error.HTTPError, match='403'):
    urllib.request.urlopen(f'{address}gradio_api/file=http://example.org/a')


@pytest.mark.slow
def test_in_a_browser(server, calls, tmp_path, picture_file):
  program = shutil.which('chromium') or shutil.which('chromium-browser')
  if program is None:
    pytest.skip('there is no chromium')
  address, _, _ = server
  with Browser(program, tmp_path / 'profile') as browser:
    browser('Page.navigate', url=address)
    browser.wait("!!document.querySelector('#upload input[type=file]')")
    before = calls.calls
    browser.upload('#upload input[type=file]', picture_file)
    browser.wait("document.querySelector('#embedding img')?.naturalWidth > 0")
    status = "document.querySelector('#status').innerText"
    assert '3 of 3 instances' in browser.wait(f'{status}.includes(" of 3") && {status}')
    assert not browser.value("!!document.querySelector('#distances img')")
    x, y, width, height = browser.value(
      """(() => {
        const box = document.querySelector('#picture img').getBoundingClientRect();
        return [box.x, box.y, box.width, box.height];
      })()"""
    )
    # A pixel of the second instance alone.
    rows, columns = handmade_prediction.SIZE
    browser.click(x + 54.5 / columns * width, y + 27.5 / rows * height)
    browser.wait("document.querySelector('#distances img')?.naturalWidth > 0")
    assert 'Chosen: number 2, box, 0.60' in browser.value(status)
    shot = tmp_path / 'screenshot.png'
    browser.screenshot(shot)
    seen = np.asarray(Image.open(shot).convert('RGB'))
    assert instance_colour(1) in colours_in(seen)
    assert instance_colour(0) not in colours_in(seen)
    browser.value("document.querySelector('#all').click()")
    browser.wait("!document.querySelector('#distances img')")
    assert calls.calls == before + 1
    here = (address, 'data:', 'blob:', 'about:')
    assert not [url for url in browser.requested() if not url.startswith(here)]
