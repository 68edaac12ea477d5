"""Chromium without a screen, driven over a pipe by the DevTools protocol."""

import base64
import fcntl
import json
import os
import subprocess
import time
from pathlib import Path

FLAGS = (
  '--headless=new',
  '--no-sandbox',
  '--disable-gpu',
  '--no-first-run',
  '--disable-extensions',
  '--disable-sync',
  '--disable-component-update',
  '--disable-background-networking',
  '--remote-debugging-pipe',
)


class Browser:
  """One page.

  Attributes:
    events: what the browser has reported so far.
  """

  def __init__(self, program: str, profile: Path, size=(1500, 1000)):
    commands, self._write = os.pipe()
    self._read, answers = os.pipe()
    # The browser reads from 3 and writes to 4; ours must not be among them.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in (commands, answers)]

    def connect():
      os.dup2(ends[0], 3)
      os.dup2(ends[1], 4)

    window = f'--window-size={size[0]},{size[1]}'
    self._process = subprocess.Popen(
      [program, *FLAGS, window, f'--user-data-dir={profile}', 'about:blank'],
      preexec_fn=connect,
      pass_fds=(3, 4),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    for end in (commands, answers, *ends):
      os.close(end)
    self._pending, self._count, self.events = b'', 0, []
    self._session = None
    pages = self('Target.getTargets')['targetInfos']
    target = next(page['targetId'] for page in pages if page['type'] == 'page')
    attached = self('Target.attachToTarget', targetId=target, flatten=True)
    self._session = attached['sessionId']
    for part in ('Page', 'Network', 'Runtime'):
      self(f'{part}.enable')

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._process.terminate()
    self._process.wait(30)
    os.close(self._write)
    os.close(self._read)

  def __call__(self, method, **params):
    """Sends a command and waits for its result."""
    self._count += 1
    message = {'id': self._count, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    os.write(self._write, json.dumps(message).encode() + b'\0')
    while True:
      answer = self._receive()
      if answer.get('id') == self._count:
        assert 'error' not in answer, answer
        return answer['result']
      self.events.append(answer)

  def _receive(self):
    while b'\0' not in self._pending:
      part = os.read(self._read, 1 << 16)
      assert part, 'the browser has ended'
      self._pending += part
    message, self._pending = self._pending.split(b'\0', 1)
    return json.loads(message)

  def value(self, script):
    """What an expression of JavaScript is."""
    result = self('Runtime.evaluate', expression=script, returnByValue=True)
    assert 'exceptionDetails' not in result, result
    return result['result'].get('value')

  def wait(self, script, seconds=300):
    """Waits until an expression is true, and returns it."""
    end = time.monotonic() + seconds
    while not (value := self.value(script)):
      assert time.monotonic() < end, f'{script}: not within {seconds} s'
      time.sleep(0.2)
    return value

  def click(self, x, y):
    for kind in ('mousePressed', 'mouseReleased'):
      self('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)

  def upload(self, selector, path):
    root = self('DOM.getDocument')['root']['nodeId']
    node = self('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
    self('DOM.setFileInputFiles', files=[str(path)], nodeId=node)

  def screenshot(self, path):
    path.write_bytes(base64.b64decode(self('Page.captureScreenshot')['data']))

  def requested(self):
    """Addresses that the page has asked for."""
    return [
      event['params']['request']['url']
      for event in self.events
      if event.get('method') == 'Network.requestWillBeSent'
    ]
