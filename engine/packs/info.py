"""What editors are told of a pack's node: its own declaration, as plain JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.packs.hidden import hidden_inputs
from engine.packs.inputs import GROUPS, input_types, is_wildcard
from engine.packs.outputs import declared_outputs, return_types
from engine.types import ANY


def object_info_of(type_: str, cls: Any, title: str | None, pack: str) -> dict[str, Any]:
    """The ``object_info`` of one class, with its choices as they are now."""
    declared = input_types(cls)
    groups: dict[str, dict[str, Any]] = {
        group: {str(name): plain(spec) for name, spec in (declared.get(group) or {}).items()} for group in GROUPS
    }
    hidden = hidden_inputs(declared)
    if hidden:
        groups["hidden"] = dict(hidden)
    outputs = declared_outputs(cls)
    return {
        "input": groups,
        "input_order": {group: list(inputs) for group, inputs in groups.items()},
        "output": [plain(kind) for kind in return_types(cls)],
        "output_is_list": [output.is_list for output in outputs],
        "output_name": [str(output.label) for output in outputs],
        "output_tooltips": [plain(output.tooltip) for output in outputs],
        "name": type_,
        "display_name": title or type_,
        "description": str(getattr(cls, "DESCRIPTION", None) or ""),
        "category": str(getattr(cls, "CATEGORY", "sd")),
        "python_module": f"custom_nodes.{pack}",
        "output_node": bool(getattr(cls, "OUTPUT_NODE", False)),
        "is_input_list": bool(getattr(cls, "INPUT_IS_LIST", False)),
        "deprecated": bool(getattr(cls, "DEPRECATED", False)),
        "experimental": bool(getattr(cls, "EXPERIMENTAL", False)),
    }


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: wildcards as ``"*"``, numbers that are none as null, anything odd as its text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return str(ANY) if is_wildcard(value) else str(getattr(value, "value", value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "size", None) == 1:  # numpy's numbers
        return plain(value.item())
    return str(value)
