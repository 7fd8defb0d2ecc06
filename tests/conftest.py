"""What many tests need: the real node types, and an executor over folders of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import nodes
from engine.files import LocalFiles, open_files
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.checkpoint import CheckpointStore
from engine.run.disk_tier import DiskTier
from engine.run.executor import Executor
from engine.run.outputs import OutputFolder

ROOT = Path(__file__).parents[1]

# Whether a property holds does not depend on how busy the machine is.
settings.register_profile("mezzotint", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mezzotint")


@pytest.fixture(scope="session")
def core() -> Registry:
    """Our own node types."""
    registry = Registry()
    nodes.register(registry)
    return registry


@pytest.fixture
def local_files(tmp_path: Path) -> LocalFiles:
    """The repository's models and inputs; outputs and state below the test's folder."""
    return open_files(
        models=[ROOT / "models"],
        input=ROOT / "input",
        output=tmp_path / "output",
        temp=tmp_path / "temp",
        state=tmp_path / "state",
    )


@pytest.fixture
def make_executor(core: Registry, local_files: LocalFiles, tmp_path: Path) -> Iterator[Callable[[], Executor]]:
    """Makes executors that share their folders, as one process after the other would."""
    made: list[Executor] = []

    def make() -> Executor:
        executor = Executor(
            core,
            files=local_files,
            cache=OutputCache(disk=DiskTier(tmp_path / "state" / "cache", core.codecs)),
            outputs=OutputFolder(tmp_path / "output", tmp_path / "temp"),
            numerics="cpu/float32/test",
            checkpoints=CheckpointStore(tmp_path / "state" / "checkpoints"),
        )
        made.append(executor)
        return executor

    yield make
    for executor in made:
        executor.close()
