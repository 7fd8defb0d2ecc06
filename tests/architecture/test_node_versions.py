"""A node's version says when its cached results no longer hold."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import textwrap
from pathlib import Path

import nodes
from engine.registry import Registry
from engine.spec import NodeSpec

GOLDEN = Path(__file__).with_name("node_versions.json")


def _source_digest(spec: NodeSpec) -> str:
    """Of the function's code alone: formatting, comments and docstrings do not count."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(spec.fn)))
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    if ast.get_docstring(function) is not None:
        function.body = function.body[1:]
    function.decorator_list = []
    return hashlib.blake2b(ast.unparse(function).encode(), digest_size=8).hexdigest()


def _current() -> dict[str, list[object]]:
    registry = Registry()
    nodes.register(registry)
    return {type_: [spec.version, _source_digest(spec)] for type_, spec in sorted(registry.items())}


def test_a_changed_node_has_a_new_version() -> None:
    """Whoever changes what a node computes raises its version; `python -m tests.architecture.test_node_versions` writes the record."""
    recorded = json.loads(GOLDEN.read_text())
    current = _current()
    unchanged = [type_ for type_ in current if type_ in recorded and recorded[type_][0] == current[type_][0]]
    stale = [type_ for type_ in unchanged if recorded[type_] != current[type_]]
    assert stale == [], "raise the version of these nodes, then write the record anew"
    assert set(recorded) == set(current), "a node came or went: write the record anew"


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(_current(), indent=1) + "\n")
