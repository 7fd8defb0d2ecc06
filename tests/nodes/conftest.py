"""What tests of nodes need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes.runs import Bench
from tests.nodes.studio import Studio


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Runs small graphs of the real nodes in the test's folder."""
    return Bench(tmp_path)


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    """Runs the real nodes on models, in the test's folder."""
    studio = Studio(tmp_path)
    yield studio
    studio.executor.close()
