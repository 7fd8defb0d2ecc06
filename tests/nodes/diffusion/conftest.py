"""The demo model, in a store on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.models import Digest, ModelRef, Part
from nodes.diffusion.devices import device_policy
from nodes.diffusion.store import LocalModelStore

DEMO = Path(__file__).parents[3] / "models" / "checkpoints" / "demo.safetensors"

MakeRef = Callable[[Part], ModelRef]


@pytest.fixture(scope="session")
def demo() -> MakeRef:
    """Makes recipes of the demo model's parts."""
    return lambda part: ModelRef(Digest("demo"), part, str(DEMO))


@pytest.fixture(scope="session")
def demo_store() -> LocalModelStore:
    """A store that keeps the demo model loaded; for tests that only use models."""
    return LocalModelStore(device_policy("cpu"))
