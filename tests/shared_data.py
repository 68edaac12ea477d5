"""What lies beside the repository and is not part of it: data sets, golden records.

Tests that want some of it are skipped where it is not there.
"""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / 'shared'
