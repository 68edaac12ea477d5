"""The web server around the page: bounded, private, and gone without a trace."""

import contextlib
import errno
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from embedmask_jax.demo.page import STYLE, Explain, build_page
from embedmask_jax.demo.uploads import MAX_BYTES
from embedmask_jax.demo.web_guard import WebGuard
from embedmask_jax.errors import UserError

# Of so many visitors what they have seen is kept; then that of the least recent goes.
_MOST_SESSIONS = 16
_LOOPBACK = ('127.0.0.1', 'localhost', '::1')


def serve(explain: Explain, model_name: str, *, host: str, port: int) -> None:
  """Serves the page until SIGINT or SIGTERM.

  Args:
    explain: see `build_page`.
    model_name: shown in the title.
    host: address to listen on.
    port: 1 to 65535.

  Raises:
    UserError: see `running`.
  """
  stop = threading.Event()
  before = {
    number: signal.signal(number, lambda *_: stop.set())
    for number in (signal.SIGINT, signal.SIGTERM)
  }
  try:
    with running(explain, model_name, host=host, port=port) as address:
      logging.getLogger(__name__).info('the demo is at %s (Ctrl-C ends it)', address)
      if host not in _LOOPBACK:
        logging.getLogger(__name__).warning(
          '--host=%s: whoever reaches this machine can use it, without a password', host
        )
      stop.wait()
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def running(
  explain: Explain, model_name: str, *, host: str, port: int
) -> Iterator[str]:
  """The server in threads of its own, within a `with` statement.

  All that it writes lies in a temporary folder, which is deleted in the end.

  Args: see `serve`.

  Yields:
    Where the page is.

  Raises:
    UserError: the host and port cannot be listened on.
  """
  check_free(host, port)
  with _temporary_folder(), _environment(GRADIO_ANALYTICS_ENABLED='False'):
    page = build_page(explain, model_name)
    import gradio as gr
    from starlette.middleware import Middleware

    system_font: Any = ('system-ui', 'sans-serif')
    try:
      _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        max_file_size=MAX_BYTES,
        state_session_capacity=_MOST_SESSIONS,
        app_kwargs={'middleware': [Middleware(WebGuard)]},
        theme=gr.themes.Default(font=system_font, font_mono=('monospace',)),
        css=STYLE,
      )
    except OSError as error:
      raise _not_listening(host, port, str(error)) from error
    try:
      yield address
    finally:
      page.close(verbose=False)


def check_free(host: str, port: int) -> None:
  """Finds out whether a host and port can be listened on.

  Raises:
    UserError: they cannot.
  """
  try:
    family, kind, _, _, address = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind) as trial:
      trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      trial.bind(address)
  except OSError as error:
    raise _not_listening(
      host,
      port,
      'another program is there'
      if error.errno == errno.EADDRINUSE
      else error.strerror or str(error),
    ) from error


def _not_listening(host: str, port: int, reason: str) -> UserError:
  return UserError(
    f'--host={host} --port={port}: cannot listen there ({reason}); name another --port'
  )


@contextlib.contextmanager
def _temporary_folder() -> Iterator[None]:
  """Whatever is written to temporary files meanwhile goes away in the end."""
  before = tempfile.tempdir
  with tempfile.TemporaryDirectory(
    prefix='embedmask-demo-', ignore_cleanup_errors=True
  ) as folder:
    tempfile.tempdir = folder
    try:
      with _environment(GRADIO_TEMP_DIR=folder):
        yield
    finally:
      tempfile.tempdir = before


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
  """Sets variables of the environment, and puts back what was there."""
  before = {name: os.environ.get(name) for name in values}
  os.environ.update(values)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        os.environ.pop(name, None)
      else:
        os.environ[name] = value
