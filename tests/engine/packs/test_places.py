"""Where packs find the installation that they believe to be part of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.engine.packs.conftest import Bench


def test_files_put_beside_the_modules_lie_beside_the_models(load: Callable[[str], Bench], tmp_path: Path) -> None:
    bench = load(
        """
        import inspect
        import os

        import folder_paths
        from server import PromptServer

        for name, place in (("a", inspect.getfile(PromptServer)), ("b", folder_paths.__file__)):
            os.makedirs(os.path.join(os.path.dirname(place), "web", name))

        NODE_CLASS_MAPPINGS = {"T_Show": Show}
        """
    )
    assert bench.report.failures == []
    assert sorted(path.name for path in (tmp_path / "web").iterdir()) == ["a", "b"]
