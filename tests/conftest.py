"""Settings for all tests."""

import os

# Compiling is most of the work here, and what is compiled runs once or twice.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
