"""Every node for people: ``docs/nodes.md``, written from the declarations.

python -m benchmarks.nodes_table > docs/nodes.md
python -m benchmarks.nodes_table --check           # whether that file says what is so
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import nodes
from engine.registry import Registry
from engine.spec import MISSING, InputSpec, NodeSpec, Output
from engine.types import BOOLEAN, COMBO

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "nodes.md"
WORKFLOWS: Final = ROOT / "workflows"
RELEASED: Final = WORKFLOWS / "released"
EXAMPLES: Final = WORKFLOWS / "nodes"
"""Written by ``benchmarks.node_examples``, for the nodes that no other workflow has."""

MOST: Final = 5
"""Workflows that are named with a node."""

_MANY: Final = 24
"""Choices beyond which only the first ones are named."""

_BEFORE: Final = """# Nodes

{count} nodes, by category. `mezzotint nodes NAME` prints one of them; the editor shows the same text. An input without a default has to be
linked or given; *optional* ones may be left out.

This page is written by `python -m benchmarks.nodes_table > docs/nodes.md`."""


def page(specs: Iterable[NodeSpec], uses: Mapping[str, Sequence[str]]) -> str:
    """The page: a table of contents, then every node below its category. ``uses``: the workflows that have a node, by its type."""
    by_category: dict[str, list[NodeSpec]] = defaultdict(list)
    for spec in specs:
        by_category[spec.category].append(spec)
    ordered = {
        category: sorted(by_category[category], key=lambda spec: (spec.type.lower(), spec.type))
        for category in sorted(by_category)
    }
    parts = [_BEFORE.format(count=sum(map(len, ordered.values()))), "\n".join(_contents(ordered))]
    for category, found in ordered.items():
        parts.append(f"## {category}")
        parts += [section(spec, uses.get(spec.type, ())) for spec in found]
    return "\n\n".join(parts) + "\n"


def _contents(ordered: Mapping[str, Sequence[NodeSpec]]) -> Iterator[str]:
    for category, found in ordered.items():
        names = ", ".join(f"[{_escaped(spec.type)}](#{_anchor(spec)})" for spec in found)
        yield f"- [{category}](#{_slug(category)}): {names}"


def section(spec: NodeSpec, workflows: Sequence[str]) -> str:
    """One node: its titles, what it does, what goes in and comes out, and where to see it used."""
    marks = [word for word, holds in (("deprecated", spec.deprecated), ("experimental", spec.experimental)) if holds]
    title = "" if spec.title == spec.type else f" {_escaped(spec.title)}"
    head = f'<a id="{_anchor(spec)}"></a>\n\n### {_escaped(spec.type)}'
    told = " · ".join(
        filter(None, [title.strip(), *marks, "writes files or shows something" if spec.output_node else ""])
    )
    parts = [head, f"*{told}*" if told else "", _escaped(spec.description)]
    if spec.inputs:
        rows = (_row(known.name, _kind(known), _value(known), _limits(known)) for known in spec.inputs)
        parts.append("\n".join(["| input | type | default | |", "|---|---|---|---|", *rows]))
    if spec.outputs:
        parts.append("Gives " + ", ".join(map(_output, spec.outputs)) + ".")
    if workflows:
        links = ", ".join(f"[{name}](../workflows/{name})" for name in workflows[:MOST])
        more = f" and {len(workflows) - MOST} more" if len(workflows) > MOST else ""
        parts.append(f"Used in {links}{more}.")
    return "\n\n".join(filter(None, parts))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _kind(spec: InputSpec) -> str:
    return "choice" if spec.type == COMBO else "any" if spec.type == "*" else spec.type


def _value(spec: InputSpec) -> str:
    if spec.default is not MISSING and spec.default is not None:
        return "`" + _literal(spec, spec.default) + "`"
    return "" if spec.required else "*optional*"


def _literal(spec: InputSpec, value: object) -> str:
    if spec.type == BOOLEAN:
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return _number(value)


def _number(value: object) -> str:
    """Whole floats without their fraction; no float in more digits than it needs."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _limits(spec: InputSpec) -> str:
    told = []
    if spec.files is not None:
        told.append(_files(spec))
    elif isinstance(spec.choices, tuple):
        told.append(_choices(spec.choices))
    elif spec.choices is not None:
        told.append("names that are there when it is looked at")
    if spec.range is not None:
        step = "" if spec.range.step in (None, 1) else f" in steps of {_number(spec.range.step)}"
        told.append(f"{_number(spec.range.min)} to {_number(spec.range.max)}{step}")
    told += [word for word, holds in (("drawn anew by editors", spec.seed), ("lazy", spec.lazy)) if holds]
    if spec.tooltip:
        told.append(_escaped(spec.tooltip))
    return "; ".join(told)


def _files(spec: InputSpec) -> str:
    assert spec.files is not None
    what = "an entry of a file" if spec.files.entries else "a folder" if spec.files.tree else "a file"
    return f"{what} of `{spec.files.folder}`"


def _choices(names: Sequence[Any]) -> str:
    told = ", ".join(f"`{name}`" for name in names[:_MANY])
    return told if len(names) <= _MANY else f"{told} and {len(names) - _MANY} more"


def _output(output: Output) -> str:
    kind = "any" if output.type == "*" else output.type
    name = f" `{output.name}`" if output.name and output.name != output.type else ""
    return f"{kind}{name}{' (a list)' if output.is_list else ''}"


def _escaped(text: str) -> str:
    """Signs that Markdown would take for itself."""
    return re.sub(r"([\\`*_<>\[\]{}#|])", r"\\\1", text)


def _anchor(spec: NodeSpec) -> str:
    """Types that differ in signs alone have one each: ``MaskPreview`` and ``MaskPreview+``."""
    return "node-" + re.sub(r"[^A-Za-z0-9]", lambda sign: f"-{ord(sign[0]):x}", spec.type)


def _slug(heading: str) -> str:
    """As the usual renderers of Markdown name a heading's place."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def uses(folder: Path) -> dict[str, list[str]]:
    """The workflow files of a folder that use each type of node."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        for type_ in sorted(set(_types(json.loads(path.read_text(encoding="utf-8"))))):
            found[type_].append(path.name)
    return found


def examples() -> dict[str, list[str]]:
    """The workflows of the repository that use each type of node, as paths below ``workflows/``: those for their own sake first, and
    those for the sake of nodes only where there is no other."""
    found: dict[str, list[str]] = defaultdict(list)
    for folder in (WORKFLOWS, RELEASED):
        for type_, names in uses(folder).items():
            found[type_] += [(folder / name).relative_to(WORKFLOWS).as_posix() for name in names]
    for type_, names in uses(EXAMPLES).items():
        if type_ not in found:
            found[type_] = [f"{EXAMPLES.name}/{name}" for name in names]
    return found


def _types(workflow: Any) -> Iterator[str]:
    """Of a workflow in the API format or an editor's."""
    calls = workflow.get("nodes", []) if isinstance(workflow.get("nodes"), list) else workflow.values()
    for call in calls:
        type_ = call.get("class_type", call.get("type")) if isinstance(call, dict) else None
        if isinstance(type_, str):
            yield type_


def made() -> str:
    """The page as it should be."""
    registry = Registry()
    nodes.register(registry)
    return page(registry.values(), examples())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with docs/nodes.md instead of printing")
    if not parser.parse_args().check:
        print(made(), end="")
        return 0
    if made() == PAGE.read_text(encoding="utf-8"):
        return 0
    print(f"{PAGE} is not what is so; write it anew: python -m benchmarks.nodes_table > {PAGE}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
