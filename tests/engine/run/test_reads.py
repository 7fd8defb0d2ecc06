"""Files that a text names count by their content, however the text comes to the node."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from engine.registry import Registry
from engine.run.executor import Executor, Run
from engine.spec import Output, node
from tests.engine.run.toolbox import Calls, graph, make_executor


def _named(text: str | None) -> Iterable[tuple[str, str | None]]:
    if text is None:
        yield "input", None
    else:
        yield from (("input", word) for word in text.split())


@node("Say", category="test", outputs=[Output("STRING")])
def say(text: str = "") -> str:
    """A text, for a link."""
    return text


@node("Length", category="test", outputs=[Output("INT")], reads=_named)
def length(text: str = "") -> int:
    """Stands for a node that opens what its text names."""
    return len(text)


@node("Best", category="test", outputs=[Output("INT")], reads=lambda: [("input", re.compile(r"best\.txt$", re.I))])
def best() -> int:
    """Stands for a node that looks for a file by a part of its name."""
    return 1


LITERAL = graph(n=("Length", {"text": "a.txt"}), o=("Show", {"value": "n/0"}))
LINKED = graph(s=("Say", {"text": "a.txt"}), n=("Length", {"text": "s/0"}), o=("Show", {"value": "n/0"}))


def _executor(root: Path) -> Executor:
    registry: Registry = Calls().registry(say, length, best)
    return make_executor(registry, root)


def test_a_named_file_counts_and_others_do_not(tmp_path: Path) -> None:
    """A node runs again when the file its text names has changed, and only then."""
    executor = _executor(tmp_path)
    (tmp_path / "input" / "a.txt").write_text("1")
    assert "n" in executor.run_sync(Run(LITERAL)).ran
    (tmp_path / "input" / "b.txt").write_text("1")
    assert executor.run_sync(Run(LITERAL)).ran == ()
    (tmp_path / "input" / "a.txt").write_text("2")
    assert executor.run_sync(Run(LITERAL)).ran == ("n", "o")


def test_a_text_that_comes_over_a_link_may_name_any_file(tmp_path: Path) -> None:
    """Nobody knows before the run what it names, so every file of the folder counts."""
    executor = _executor(tmp_path)
    (tmp_path / "input" / "a.txt").write_text("1")
    assert "n" in executor.run_sync(Run(LINKED)).ran
    assert executor.run_sync(Run(LINKED)).ran == ()
    (tmp_path / "input" / "a.txt").write_text("2")
    assert executor.run_sync(Run(LINKED)).ran == ("n", "o")


def test_a_file_that_a_pattern_fits_counts_and_others_do_not(tmp_path: Path) -> None:
    """It may come and change."""
    executor = _executor(tmp_path)
    looking = graph(n=("Best", {}), o=("Show", {"value": "n/0"}))
    assert "n" in executor.run_sync(Run(looking)).ran
    (tmp_path / "input" / "other.txt").write_text("1")
    assert executor.run_sync(Run(looking)).ran == ()
    for content in ("1", "22"):
        (tmp_path / "input" / "The-Best.txt").write_text(content)
        assert "n" in executor.run_sync(Run(looking)).ran
    assert executor.run_sync(Run(looking)).ran == ()
