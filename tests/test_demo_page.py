"""The demo's page as it is served: to programs, and to a browser."""

import concurrent.futures
import importlib.util
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import handmade_prediction
import numpy as np
import pytest
from demo_inputs import explain, png_that_claims
from headless_chromium import Browser
from PIL import Image

from embedmask_jax.demo import page as demo_page
from embedmask_jax.demo import uploads
from embedmask_jax.demo.server import running
from embedmask_jax.visualize import instance_colour

HERE = {'127.0.0.1', 'localhost'}


def free_port() -> int:
  with socket.socket() as trial:
    trial.bind(('127.0.0.1', 0))
    return trial.getsockname()[1]


def colours_in(picture):
  return {tuple(colour) for colour in np.asarray(picture).reshape(-1, 3).tolist()}


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
def server(calls, tmp_path_factory):
  """A served page, its folder, and the addresses that were asked for meanwhile."""
  # Not imported here: it is to find its folder when the server has made it.
  if importlib.util.find_spec('gradio') is None:
    pytest.skip('there is no gradio')
  asked, connect, look_up = set(), socket.socket.connect, socket.getaddrinfo

  def note(self, address):
    asked.add(str(address[0]))
    return connect(self, address)

  def note_name(host, *arguments, **options):
    asked.add(host)
    return look_up(host, *arguments, **options)

  another = tmp_path_factory.mktemp('another')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('GRADIO_TEMP_DIR', str(another))
    patch.setattr(socket.socket, 'connect', note)
    patch.setattr(socket, 'getaddrinfo', note_name)
    # Proxies are not for this machine.
    patch.setenv('NO_PROXY', '127.0.0.1')
    with running(calls, 'a<b', host='127.0.0.1', port=free_port()) as address:
      folder = Path(tempfile.gettempdir())
      yield address, folder, asked
    assert os.environ['GRADIO_TEMP_DIR'] == str(another)
  assert not folder.exists()
  assert not list(another.iterdir())
  # The last by the client that plays the visitor, on its own account.
  assert asked <= {*HERE, 'huggingface.co'}
  assert tempfile.gettempdir() != str(folder)


@pytest.fixture
def picture_file(tmp_path):
  path = tmp_path / 'picture.png'
  Image.fromarray(handmade_prediction.prediction().image).save(path)
  return path


# First of those with the server, before there is a client.
def test_the_page_loads_nothing_from_elsewhere(server):
  address, _, asked = server
  with urllib.request.urlopen(address) as reply:
    page = reply.read().decode()
    assert "default-src 'self'" in reply.headers['content-security-policy']
  loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="([^"]*)"', page)
  assert loaded
  assert not [url for url in loaded if url.startswith(('http', '//'))]
  with urllib.request.urlopen(f'{address}theme.css') as reply:
    assert not re.search(r'(url\(|@import )[\'"]?(https?:)?//', reply.read().decode())
  assert asked <= HERE


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


def test_who_finds_the_queue_full_is_told(picture_file, monkeypatch):
  if importlib.util.find_spec('gradio') is None:
    pytest.skip('there is no gradio')
  from gradio_client import Client, handle_file
  from gradio_client.utils import QueueError

  begun, go_on = threading.Event(), threading.Event()

  def explain_slowly(image):
    begun.set()
    assert go_on.wait(120)
    return explain(image)

  monkeypatch.setattr(demo_page, '_LONGEST_QUEUE', 1)
  monkeypatch.setenv('NO_PROXY', '127.0.0.1')
  with running(explain_slowly, 'a', host='127.0.0.1', port=free_port()) as address:
    client = Client(address, verbose=False)

    def submit():
      return client.submit(handle_file(picture_file), 0.5, api_name='/detect')

    try:
      first = submit()
      assert begun.wait(120)
      others = [submit() for _ in range(2)]
      done, _ = concurrent.futures.wait(
        [job.future for job in others], 120, concurrent.futures.FIRST_COMPLETED
      )
      [refused] = done
      with pytest.raises(QueueError, match='full'):
        refused.result()
    finally:
      go_on.set()
    assert first.result(120)


@pytest.fixture
def browser(server, tmp_path):
  """Chromium at the page."""
  program = shutil.which('chromium') or shutil.which('chromium-browser')
  if program is None:
    pytest.skip('there is no chromium')
  with Browser(program, tmp_path / 'profile') as browser:
    browser('Page.navigate', url=server[0])
    browser.wait("!!document.querySelector('#upload input[type=file]')")
    yield browser


@pytest.mark.slow
def test_a_message_stays_until_it_is_closed(browser, tmp_path):
  path = tmp_path / 'short.png'
  path.write_bytes(png_that_claims(30, 20)[:-20])
  browser.upload('#upload input[type=file]', path)
  message = "document.querySelector('.toast-body')?.innerText"
  browser.wait(f'!!({message})')
  time.sleep(12)  # Gradio's own messages go after ten.
  said = browser.value(message)
  assert 'short.png: cannot be decoded' in said
  assert 'data set' not in said


@pytest.mark.slow
def test_in_a_browser(browser, server, calls, tmp_path, picture_file):
  address, _, _ = server
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
  # Before the table there is a hidden one, by which columns are measured.
  place = browser.value(
    """(() => {
      const cells = [...document.querySelectorAll('#table span')];
      const box = cells.findLast((cell) => cell.textContent == 'box')
        .getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2];
    })()"""
  )
  browser.click(*place)
  browser.wait(f"{status}.includes('Chosen: number 2, box, 0.60')", 60)
  assert calls.calls == before + 1
  here = (address, 'data:', 'blob:', 'about:')
  assert not [url for url in browser.requested() if not url.startswith(here)]
