"""Which of the values an editor stored beside a node belongs to which input.

The values are stored by position: one for every input that can be typed in, required ones first, with extras of the
editor's own in between (after a seed what becomes of it; behind the rest an upload button). See ``Widgets``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.graph.editor_model import EditorNode
from engine.graph.graph import Value
from engine.graph.seeds import CONTROLS, Control, is_seed
from engine.spec import MISSING, InputSpec, NodeSpec
from engine.types import BOOLEAN, FLOAT, INT, STRING, WIDGETS

CONTROL_NAME = "control_after_generate"


@dataclass(frozen=True, slots=True)
class Widgets:
    """Values by input name, and what becomes of the seeds among them."""

    values: Mapping[str, Value]
    controls: Mapping[str, Control]


def widget_values(spec: NodeSpec, node: EditorNode) -> Widgets:
    """What the widgets of a node hold. A widget without a stored value has its default; a file choice without one is
    left out."""
    stored, controls = _stored(spec, node)
    stored |= node.override
    if CONTROL_NAME in node.override:
        controls |= _all_controls(spec, node.override[CONTROL_NAME])
    values: dict[str, Value] = {}
    for known in ordered_inputs(spec):
        if known.is_widget:
            value = stored.get(known.name)
            value = default_value(known) if value is None else value
            if value is not MISSING:
                values[known.name] = value
    return Widgets(values, controls)


def ordered_inputs(spec: NodeSpec) -> list[InputSpec]:
    """The inputs as an editor orders them: required ones first."""
    return [known for known in spec.inputs if known.required] + [known for known in spec.inputs if not known.required]


def default_value(spec: InputSpec) -> Any:
    """What a fresh widget holds; ``MISSING`` for a file choice without default and for what may be left out."""
    if spec.default is not MISSING or not spec.required or spec.files is not None:
        return spec.default
    if choices := spec.options:
        return choices[0]
    if spec.type in (INT, FLOAT):
        return max(0, spec.range.min) if spec.range else 0
    return {STRING: "", BOOLEAN: False}.get(spec.type, MISSING)


def is_control(value: object, following: InputSpec | None) -> bool:
    """Whether a value stored after a seed is what becomes of the seed, and not the value of the input that follows.

    Files of early 2023 have a boolean in that place, some have null.
    """
    if value in CONTROLS:
        return True
    return value is None or (isinstance(value, bool) and (following is None or following.type != BOOLEAN))


def as_control(value: object) -> Control:
    """The control a stored value means. The booleans of 2023 said whether a new seed is drawn."""
    if value is True:
        return "randomize"
    return next((control for control in CONTROLS if control == value), "fixed")


def _stored(spec: NodeSpec, node: EditorNode) -> tuple[dict[str, Any], dict[str, Control]]:
    widgets = [known for known in ordered_inputs(spec) if known.is_widget]
    by_position: tuple[dict[str, Any], dict[str, Control]] = ({}, {})
    if not isinstance(node.values, Mapping):
        by_position = assign(_places(spec, node.values), node.values)
    named = node.named if node.named is not None else node.values
    if not isinstance(named, Mapping):
        return by_position
    controls = dict(by_position[1])
    if named.get(CONTROL_NAME) in CONTROLS:
        controls |= _all_controls(spec, named[CONTROL_NAME])
    return {known.name: named[known.name] for known in widgets if known.name in named}, controls


def _all_controls(spec: NodeSpec, control: object) -> dict[str, Control]:
    return {known.name: as_control(control) for known in spec.inputs if is_seed(known)}


def assign(places: Sequence[InputSpec], values: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Control]]:
    """Values by the names of ``places``, and the controls that stand between them."""
    found: dict[str, Any] = {}
    controls: dict[str, Control] = {}
    for place, value, control in align(places, values):
        found[place.name] = value
        if control is not MISSING:
            controls[place.name] = as_control(control)
    return found, controls


def align(places: Sequence[InputSpec], values: Sequence[Any]) -> Iterator[tuple[InputSpec, Any, Any]]:
    """Each place that has a value, with its value and its control (``MISSING`` where there is none)."""
    position = 0
    for index, place in enumerate(places):
        if position >= len(values):
            return
        value = values[position]
        position += 1
        control: Any = MISSING
        if is_seed(place) and position < len(values):
            following = places[index + 1] if index + 1 < len(places) else None
            if is_control(values[position], following):
                control = values[position]
                position += 1
        yield place, value, control


def _places(spec: NodeSpec, values: Sequence[Any]) -> list[InputSpec]:
    """The inputs that have a value in the list. Old editors stored one for every socket-only INT, STRING... as well."""
    inputs = ordered_inputs(spec)
    widgets = [known for known in inputs if known.is_widget]
    with_sockets = [known for known in inputs if known.type in WIDGETS]
    controls = sum(is_seed(known) for known in widgets)
    dummies = len(with_sockets) > len(widgets) and len(values) == len(with_sockets) + controls
    return with_sockets if dummies else widgets
