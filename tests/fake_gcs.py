"""A server on this machine that answers like Google Cloud Storage, as far as we ask.

Objects live in memory. Known are the calls of the JSON API that gcsfs, TensorStore and
Google's own client make for reading, writing (whole, in parts, resumable), listing,
moving and deleting, with preconditions on generations. Credentials are not asked for.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
import threading
import time
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = 'bucket'


@dataclasses.dataclass(frozen=True)
class Stored:
  content: bytes
  generation: int
  updated: float


class Refused(Exception):
  """An answer other than 2xx."""

  def __init__(self, status):
    super().__init__(status)
    self.status = status


class FakeGcs:
  """The objects of one bucket, by name; `refuse` may raise `Refused` before a write."""

  def __init__(self):
    self.objects = {}
    self.refuse = lambda name: None
    self.lock = threading.Lock()
    self.url = ''
    self._generations = itertools.count(1)

  def environment(self):
    return {
      'STORAGE_EMULATOR_HOST': self.url,
      'TENSORSTORE_GCS_HTTP_URL': self.url,
      # Asks another service, which is not played here, for the kind of the bucket.
      'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
      'GOOGLE_CLOUD_PROJECT': 'project',
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'token',
    }

  def read(self, name, query):
    found = self.objects.get(name)
    self._check(found, query)
    if found is None:
      raise Refused(404)
    if query.get('ifGenerationNotMatch') == str(found.generation):
      raise Refused(304)
    return found

  def write(self, name, content, query):
    self.refuse(name)
    with self.lock:
      self._check(self.objects.get(name), query)
      stored = Stored(content, next(self._generations), time.time())
      self.objects[name] = stored
      return self.resource(name)

  def delete(self, name, query):
    with self.lock:
      self._check(self.objects.get(name), query)
      if self.objects.pop(name, None) is None:
        raise Refused(404)

  def list(self, query):
    """Names below a prefix, those with a further delimiter as prefixes."""
    prefix, delimiter = query.get('prefix', ''), query.get('delimiter', '')
    names, prefixes = [], set()
    for name in sorted(self.objects):
      first, last = query.get('startOffset', ''), query.get('endOffset', '')
      if not name.startswith(prefix) or name < first or (last and name >= last):
        continue
      rest = name[len(prefix) :]
      if delimiter and delimiter in rest:
        prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
      else:
        names.append(name)
    # Two pages at least, so that readers have to turn them.
    start = int(query.get('pageToken', 0))
    stop = start + max(min(int(query.get('maxResults', 1000)), len(names) // 2), 1)
    answer = {
      'kind': 'storage#objects',
      'items': [self.resource(name) for name in names[start:stop]],
    }
    if start == 0:
      answer['prefixes'] = sorted(prefixes)
    if stop < len(names):
      answer['nextPageToken'] = str(stop)
    return answer

  def resource(self, name):
    found = self.objects[name]
    when = time.strftime('%Y-%m-%dT%H:%M:%S.000Z', time.gmtime(found.updated))
    return {
      'kind': 'storage#object',
      'bucket': BUCKET,
      'name': name,
      'size': str(len(found.content)),
      'generation': str(found.generation),
      'metageneration': '1',
      'updated': when,
      'timeCreated': when,
      'md5Hash': b64encode(hashlib.md5(found.content).digest()).decode(),
    }

  def _check(self, found, query):
    wanted = query.get('ifGenerationMatch')
    if wanted is not None and int(wanted) != (found.generation if found else 0):
      raise Refused(412)


class _Handler(BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  gcs: FakeGcs
  uploads: dict

  def log_message(self, *args):
    del args

  def do_GET(self):
    self._answer(self._get)

  def do_POST(self):
    self._answer(self._post)

  do_PUT = do_POST

  def do_DELETE(self):
    self._answer(self._delete)

  def _answer(self, handle):
    url = urlsplit(self.path)
    self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
    self.body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
    try:
      status, headers, content = handle(url.path)
    except Refused as error:
      status, headers = error.status, {}
      message = {
        'error': {'code': error.status, 'message': 'No such object, or not so'}
      }
      content = b'' if status == 304 else json.dumps(message).encode()
    if isinstance(content, dict):
      content = json.dumps(content).encode()
      headers['Content-Type'] = 'application/json'
    self.send_response(status)
    for key, value in headers.items():
      self.send_header(key, value)
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    with contextlib.suppress(ConnectionError):
      self.wfile.write(content)

  def _get(self, path):
    if re.fullmatch(rf'/storage/v1/b/{BUCKET}', path):
      return 200, {}, {'kind': 'storage#bucket', 'name': BUCKET, 'location': 'US'}
    if re.fullmatch(rf'/storage/v1/b/{BUCKET}/o', path):
      return 200, {}, self.gcs.list(self.query)
    name = self._name(path, r'(?:/download)?/storage/v1/b/')
    found = self.gcs.read(name, self.query)
    if self.query.get('alt') != 'media':
      return 200, {}, self.gcs.resource(name)
    return self._media(found)

  def _media(self, found):
    headers = {'x-goog-generation': str(found.generation)}
    size = len(found.content)
    ranged = re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range', ''))
    if not ranged:
      return 200, headers, found.content
    if ranged[1]:
      first, last = int(ranged[1]), min(int(ranged[2] or size), size - 1)
    else:
      first, last = max(size - int(ranged[2]), 0), size - 1
    if first >= size:
      raise Refused(416)
    headers['Content-Range'] = f'bytes {first}-{last}/{size}'
    return 206, headers, found.content[first : last + 1]

  def _post(self, path):
    if path.startswith('/resumed/'):
      return self._resume(path)
    if path == f'/upload/storage/v1/b/{BUCKET}/o':
      return self._upload()
    moved = re.fullmatch(
      rf'/storage/v1/b/{BUCKET}/o/([^/]+)/(rewriteTo|copyTo|moveTo)'
      rf'(?:/b/{BUCKET})?/o/([^/]+)',
      path,
    )
    if not moved:
      raise Refused(404)
    source, target = unquote(moved[1]), unquote(moved[3])
    resource = self.gcs.write(target, self.gcs.read(source, {}).content, {})
    if moved[2] == 'moveTo':
      self.gcs.delete(source, {})
    if moved[2] == 'rewriteTo':
      resource = {'kind': 'storage#rewriteResponse', 'done': True, 'resource': resource}
    return 200, {}, resource

  def _upload(self):
    kind = self.query['uploadType']
    if kind == 'media':
      return 200, {}, self.gcs.write(self.query['name'], self.body, self.query)
    if kind == 'multipart':
      mark = re.search(r'boundary="?([^";]+)', self.headers['Content-Type'])[1]
      parts = self.body.split(b'--' + mark.encode())[1:3]
      described, content = (
        re.split(rb'\r?\n\r?\n', part, maxsplit=1)[1] for part in parts
      )
      content = re.sub(rb'\r?\n\Z', b'', content)
      name = json.loads(described)['name']
      return 200, {}, self.gcs.write(name, content, self.query)
    name = self.query.get('name') or json.loads(self.body)['name']
    key = str(len(self.uploads))
    self.uploads[key] = [name, b'', self.query]
    return 200, {'Location': f'{self.gcs.url}/resumed/{key}'}, b''

  def _resume(self, path):
    upload = self.uploads[path.rpartition('/')[2]]
    upload[1] += self.body
    if not self.headers['Content-Range'].endswith('/*'):
      name, content, query = upload
      return 200, {}, self.gcs.write(name, content, query)
    return 308, {'Range': f'bytes=0-{len(upload[1]) - 1}'}, b''

  def _delete(self, path):
    self.gcs.delete(self._name(path, '/storage/v1/b/'), self.query)
    return 204, {}, b''

  def _name(self, path, before):
    match = re.fullmatch(rf'{before}{BUCKET}/o/(.+)', path)
    if not match:
      raise Refused(404)
    return unquote(match[1])


@contextlib.contextmanager
def fake_gcs():
  """Yields a `FakeGcs` that is being served."""
  gcs = FakeGcs()
  handler = type('Handler', (_Handler,), {'gcs': gcs, 'uploads': {}})
  server = ThreadingHTTPServer(('localhost', 0), handler)
  server.daemon_threads = True
  # Clients that are killed leave connections behind.
  server.handle_error = lambda *args: None
  gcs.url = f'http://localhost:{server.server_port}'
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield gcs
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
