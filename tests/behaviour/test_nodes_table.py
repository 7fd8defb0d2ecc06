"""The page of nodes says what is declared."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from benchmarks.nodes_table import PAGE, made, page, uses
from engine.errors import InputError
from engine.registry import Registry
from engine.spec import FileChoice, Hint, Optional, Output, Range, Seed, Socket, node


def test_the_page_is_up_to_date() -> None:
    """Written anew by ``python -m benchmarks.nodes_table > docs/nodes.md``."""
    assert PAGE.read_text(encoding="utf-8") == made(), "write it anew: python -m benchmarks.nodes_table > docs/nodes.md"


def test_every_link_of_the_page_leads_somewhere(core: Registry) -> None:
    """Each node is in the table of contents, and each of its places is there once."""
    text = made()
    places = re.findall(r'<a id="(node-[^"]+)">', text)
    assert len(set(places)) == len(places) == len(list(core))
    assert sorted(re.findall(r"\]\(#(node-[^)]+)\)", text)) == sorted(places)
    slugs = {
        re.sub(r"[^\w\- ]", "", line[3:].lower()).replace(" ", "-") for line in text.splitlines() if line[:3] == "## "
    }
    assert set(re.findall(r"^- \[[^\]]+\]\(#([^)]+)\)", text, re.MULTILINE)) == slugs
    assert all((PAGE.parent / path).is_file() for path in re.findall(r"\]\((\.\./[^)]+)\)", text))


@node("Trial+", title="A Trial", category="test", outputs=[Output("IMAGE", "out", is_list=True)], experimental=True)
def trial(
    *,
    image: Annotated[Any, Socket("IMAGE")],
    file: Annotated[Any, FileChoice("loras")],
    how: Literal["a|b", "c"] = "c",
    seed: Annotated[int, Range(0, 9), Seed()] = 3,
    share: Annotated[float, Range(0.0, 1.0, step=0.05), Optional(), Hint(tooltip="a <tip>")] = 1.0,
    on: bool = True,
) -> None:
    """Does `much` *indeed*.

    And more.
    """
    raise InputError("never")


def test_a_node_is_described_whole() -> None:
    """Titles, text, inputs with their defaults and ranges, outputs, workflows; signs of Markdown are signs."""
    text = page([trial], {"Trial+": ["a.json", "b.json"]})
    assert text.startswith("# Nodes\n\n1 nodes")
    assert text.partition("## test\n\n")[2] == (
        '<a id="node-Trial-2b"></a>\n\n### Trial+\n\n*A Trial · experimental*\n\n'
        "Does \\`much\\` \\*indeed\\*.\n\nAnd more.\n\n"
        "| input | type | default | |\n|---|---|---|---|\n"
        "| image | IMAGE |  |  |\n"
        "| file | choice |  | a file of `loras` |\n"
        '| how | choice | `"c"` | `a\\|b`, `c` |\n'
        "| seed | INT | `3` | 0 to 9; drawn anew by editors |\n"
        "| share | FLOAT | `1` | 0 to 1 in steps of 0.05; a \\<tip\\> |\n"
        "| on | BOOLEAN | `true` |  |\n\n"
        "Gives IMAGE `out` (a list).\n\n"
        "Used in [a.json](../workflows/a.json), [b.json](../workflows/b.json).\n"
    )


def test_workflows_of_both_formats_are_looked_into(tmp_path: Path) -> None:
    (tmp_path / "api.json").write_text(json.dumps({"1": {"class_type": "A"}, "2": {"class_type": "A"}}))
    (tmp_path / "editor.json").write_text(json.dumps({"nodes": [{"id": 1, "type": "A"}, {"id": 2, "type": "B"}]}))
    assert uses(tmp_path) == {"A": ["api.json", "editor.json"], "B": ["editor.json"]}
