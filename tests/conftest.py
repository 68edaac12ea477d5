"""Settings for all tests."""

import logging
import os
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from absl import logging as absl_logging

# Compiling is most of the work here, and what is compiled runs once or twice.
is_quick = os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1') == '1'
if is_quick and version('jaxlib').startswith('0.10.'):
  # XLA's older code generator needs half the time. Later versions do not have it, and
  # end at a flag that they do not know.
  os.environ['XLA_FLAGS'] = (
    '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 '
    + os.environ.get('XLA_FLAGS', '')
  )

_MAPS = Path('/proc/self/maps')
# Linux lets a process have 65530 memory maps. A compiled program takes tens of them,
# and where there are no more, compiling crashes.
_MANY_MAPS = 25_000


def pytest_configure():
  """Has Ctrl-C interrupt, also where the tests are a background job of a shell."""
  signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def logging_as_at_first():
  """Takes back what a command that ran in this process has set."""
  logging.root.setLevel(logging.WARNING)
  absl_logging.get_absl_logger().setLevel(logging.NOTSET)
  for handler in logging.root.handlers[:]:
    if type(handler) is logging.StreamHandler:
      logging.root.removeHandler(handler)


def pytest_runtest_setup(item):
  """Leaves out slow tests that would not end by SLOW_TESTS_UNTIL, in Unix seconds."""
  if 'slow' not in item.keywords:
    return
  # Seen on two cores without AVX-512: up to 507 s and 168 s, though not all were run.
  longest = 15 * 60 if 'optimised' in item.keywords else 4 * 60
  if time.time() + longest > float(os.environ.get('SLOW_TESTS_UNTIL', 'inf')):
    pytest.skip('no time left: SLOW_TESTS_UNTIL')


def pytest_runtest_teardown(item, nextitem):
  """Forgets compiled programs before they are too many."""
  is_last_of_file = nextitem is None or nextitem.path != item.path
  if not (is_last_of_file or 'slow' in item.keywords):
    return
  if _MAPS.exists() and _MAPS.read_bytes().count(b'\n') > _MANY_MAPS:
    sys.modules['jax'].clear_caches()
