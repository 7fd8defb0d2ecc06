"""What tests of nodes need."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nodes.runs import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Runs small graphs of the real nodes in the test's folder."""
    return Bench(tmp_path)
