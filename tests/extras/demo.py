"""The page is served, and the server ends when it is asked to."""

import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

with socket.socket() as trial:
  trial.bind(('127.0.0.1', 0))
  port = trial.getsockname()[1]
program = Path(sys.executable).with_name('embedmask')
server = subprocess.Popen([program, 'demo', '--model=nuclei', f'--port={port}'])
try:
  # Proxies are not for this machine.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  for _ in range(300):
    assert server.poll() is None, 'the server has ended'
    try:
      with opener.open(f'http://127.0.0.1:{port}') as reply:
        page = reply.read().decode()
      break
    except urllib.error.URLError:
      time.sleep(1)
  assert 'EmbedMask: nuclei' in page
  server.send_signal(signal.SIGTERM)
  assert server.wait(60) == 0
finally:
  server.kill()
