"""What the web server refuses, and what it forbids the browser to load."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from embedmask_jax.demo.uploads import MAX_BYTES

Messages = Callable[[], Awaitable[dict]]
Send = Callable[[dict], Awaitable[None]]

# Room for what surrounds the file in a request.
_MAX_BODY = MAX_BYTES + 2**20
# The page may load what this server serves and nothing else.
_POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"


class WebGuard:
  """ASGI middleware around the application.

  * A request larger than an upload may be is cut off, whatever it holds (413).
  * A request that would have the server fetch something elsewhere is refused (403).
  * Every answer tells the browser to load nothing from elsewhere.
  """

  def __init__(self, app: Callable):
    """Takes the application that it guards."""
    self._app = app

  async def __call__(self, scope: dict, receive: Messages, send: Send) -> None:
    """Handles one connection."""
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return
    if is_fetch(scope['path']):
      await _refuse(send, 403, 'files of other servers are not fetched')
      return
    headers = dict(scope['headers'])
    kinds = [value for key, value in scope['headers'] if key == b'content-type']
    is_upload = bool(kinds) and all(
      kind.lower().startswith(b'multipart/form-data') for kind in kinds
    )
    body, is_over = b'', False
    # A body under any other content type, or none, may be read as JSON.
    if scope['method'] in ('POST', 'PUT', 'PATCH') and not is_upload:
      body, is_over = await _read_body(receive)
      if is_over:
        await _refuse(send, 413, f'more than {_MAX_BODY} bytes')
        return
      if names_elsewhere(body):
        await _refuse(send, 403, 'files of other servers are not fetched')
        return
      receive = _replay(body, receive)
    else:
      length = headers.get(b'content-length', b'0')
      if not length.isdigit() or int(length) > _MAX_BODY:
        await _refuse(send, 413, f'more than {_MAX_BODY} bytes')
        return
      receive = _bounded(receive)
    await self._app(scope, receive, _with_policy(send))


def is_fetch(path: str) -> bool:
  """Whether a path holds an address on the web, which the server would fetch."""
  return 'http:' in path.lower() or 'https:' in path.lower()


def names_elsewhere(body: bytes) -> bool:
  """Whether a JSON body names a file by its address on the web.

  A body that is no JSON names nothing.
  """
  try:
    waiting: list[Any] = [json.loads(body)]
  except (ValueError, RecursionError):
    return False
  while waiting:
    value = waiting.pop()
    if isinstance(value, dict):
      path = value.get('path')
      if isinstance(path, str) and path.strip().lower().startswith(('http:', 'https:')):
        return True
      waiting += value.values()
    elif isinstance(value, list):
      waiting += value
  return False


async def _read_body(receive: Messages) -> tuple[bytes, bool]:
  """The body, and whether it was cut off because it is too large."""
  parts, count, has_more = [], 0, True
  while has_more:
    message = await receive()
    parts.append(message.get('body', b''))
    count += len(parts[-1])
    if count > _MAX_BODY:
      return b'', True
    has_more = message.get('more_body', False)
  return b''.join(parts), False


def _replay(body: bytes, receive: Messages) -> Messages:
  is_sent = False

  async def replay() -> dict:
    nonlocal is_sent
    if is_sent:
      return await receive()
    is_sent = True
    return {'type': 'http.request', 'body': body, 'more_body': False}

  return replay


def _bounded(receive: Messages) -> Messages:
  """Ends a request of unknown length that goes on for too long."""
  count = 0

  async def bounded() -> dict:
    nonlocal count
    message = await receive()
    count += len(message.get('body', b''))
    return {'type': 'http.disconnect'} if count > _MAX_BODY else message

  return bounded


def _with_policy(send: Send) -> Send:
  async def with_policy(message: dict) -> None:
    if message['type'] == 'http.response.start':
      policy = (b'content-security-policy', _POLICY.encode())
      message = {**message, 'headers': [*message.get('headers', []), policy]}
    await send(message)

  return with_policy


async def _refuse(send: Send, status: int, reason: str) -> None:
  headers = [(b'content-type', b'text/plain; charset=utf-8'), (b'connection', b'close')]
  await send({'type': 'http.response.start', 'status': status, 'headers': headers})
  await send({'type': 'http.response.body', 'body': reason.encode()})
