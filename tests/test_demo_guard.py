"""What the demo's server refuses: large uploads, and to fetch anything."""

import asyncio
import json

import numpy as np
import pytest
from demo_inputs import png_that_claims
from PIL import Image

from embedmask_jax.demo import uploads
from embedmask_jax.demo.uploads import read_upload
from embedmask_jax.demo.web_guard import WebGuard, names_elsewhere
from embedmask_jax.errors import UserError


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
UPLOAD = [(b'content-type', b'multipart/form-data; boundary=x')]


def test_every_answer_keeps_the_browser_here():
  start, inside = answer({'headers': UPLOAD}, body(b'a', more=True), body(b'b'))
  assert start['status'] == 200
  assert inside == [b'a', b'b']
  policy = dict(start['headers'])[b'content-security-policy'].decode()
  assert policy.startswith("default-src 'self'")
  assert 'http' not in policy


def test_large_requests_are_cut_off():
  limit = uploads.MAX_BYTES + 2**20
  length = (b'content-length', str(limit + 1).encode())
  assert answer({'headers': [*UPLOAD, length]})[0]['status'] == 413
  half = body(bytes(limit // 2 + 1), more=True)
  start, inside = answer({'headers': UPLOAD}, half, half, half)
  assert start is None
  assert len(inside) == 1
  assert answer({'headers': JSON}, half, half)[0]['status'] == 413


def test_the_server_fetches_nothing():
  path = {'path': '/gradio_api/file=https://example.org/a.png'}
  assert answer(path)[0]['status'] == 403
  named = {'data': [{'path': 'https://example.org/a', 'meta': {}}, 0.3]}
  start, inside = answer({'headers': JSON}, body(json.dumps(named).encode()))
  assert (start['status'], inside) == (403, [])
  for kinds in (
    [b'application/vnd.api+json'],
    [b'Application/JSON'],
    [b'application/json', b'multipart/form-data'],
    [],
  ):
    headers = [(b'content-type', kind) for kind in kinds]
    start, _ = answer({'headers': headers}, body(json.dumps(named).encode()))
    assert start['status'] == 403
  harmless = json.dumps({'data': [{'path': 'a/http.png'}]}).encode()
  start, inside = answer({'headers': JSON}, body(harmless))
  assert (start['status'], inside) == (200, [harmless])
  assert not names_elsewhere(b'no json')
