"""A pack's node types as plain data, for the process that serves: it knows all about them and imports none of them.

What has to ask the class itself (its choices now, its checks, its fingerprint, its ``object_info``) asks through ``PackHooks``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import Any, Final, Protocol

from engine.errors import DefinitionError
from engine.spec import MISSING, InputSpec, NodeSpec, Output, Range
from engine.types import SocketType


class PackHooks(Protocol):
    """The other end: the process that has imported the packs."""

    def choices(self, type_: str, name: str) -> Sequence[str]: ...

    def check(self, type_: str, arguments: Mapping[str, Any]) -> str | None: ...

    def fingerprint(self, type_: str, arguments: Mapping[str, Any]) -> Any: ...

    def describe(self, type_: str) -> dict[str, Any]: ...


_SAME: Final = (
    "title", "category", "description", "version", "output_node", "pure", "lasting", "by_id", "takes_context", "takes_lists",
    "takes_extra", "extra_links_only", "is_async", "expands", "deprecated", "experimental", "judges_types", "pack",
)  # fmt: skip
"""Fields of a ``NodeSpec`` that are plain already."""

_INPUT: Final = tuple(
    field.name for field in fields(InputSpec) if field.name not in ("default", "range", "choices", "files")
)


def to_plain(spec: NodeSpec) -> dict[str, Any]:
    """Everything about a node type that is data, as msgpack can hold it."""
    return {
        "type": spec.type,
        "inputs": [_input_to_plain(entry) for entry in spec.inputs],
        "outputs": [asdict(output) for output in spec.outputs],
        "hidden": dict(spec.hidden),
        "judges": sorted(spec.judges),
        "checks": spec.check is not None,
        "has_fingerprint": spec.fingerprint is not None,
        **{name: getattr(spec, name) for name in _SAME},
    }


def _input_to_plain(entry: InputSpec) -> dict[str, Any]:
    plain: dict[str, Any] = {name: getattr(entry, name) for name in _INPUT}
    if entry.default is not MISSING:
        plain["default"] = _literal(entry.default)
    if entry.range is not None:
        plain["range"] = [
            _literal(value) for value in (entry.range.min, entry.range.max, entry.range.step, entry.range.round)
        ]
    return {**plain, "is_choice": entry.choices is not None}


def _literal(value: Any) -> Any:
    """A value as msgpack holds it: a number beyond 64 bits as the float next to it, which is all an editor makes of it."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value) if abs(value) < 2**1023 else math.copysign(math.inf, 1 if value > 0 else -1)
    if isinstance(value, Mapping):
        return {str(name): _literal(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def from_plain(plain: Mapping[str, Any], hooks: PackHooks) -> NodeSpec:
    """The node type that ``to_plain`` described; its function only says that it is elsewhere."""
    type_ = plain["type"]

    def elsewhere(*args: Any, **kwargs: Any) -> Any:
        raise DefinitionError(f"{type_} runs in the process that loaded pack {plain['pack']}, not in this one")

    return NodeSpec(
        type=type_,
        fn=elsewhere,
        inputs=tuple(_input_from_plain(entry, type_, hooks) for entry in plain["inputs"]),
        outputs=tuple(Output(**output) for output in plain["outputs"]),
        hidden=plain["hidden"],
        judges=frozenset(plain["judges"]),
        check=(lambda **arguments: hooks.check(type_, arguments)) if plain["checks"] else None,
        fingerprint=(lambda **arguments: hooks.fingerprint(type_, arguments)) if plain["has_fingerprint"] else None,
        describe=partial(hooks.describe, type_),
        **{name: plain[name] for name in _SAME},
    )


def _input_from_plain(plain: Mapping[str, Any], type_: str, hooks: PackHooks) -> InputSpec:
    given = {name: plain[name] for name in _INPUT}
    return InputSpec(
        **{**given, "type": SocketType(given["type"])},
        default=plain.get("default", MISSING),
        range=Range(*plain["range"]) if "range" in plain else None,
        choices=partial(hooks.choices, type_, given["name"]) if plain["is_choice"] else None,
    )
