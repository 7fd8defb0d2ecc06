"""A node's inputs, read from the signature of its function."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from engine.errors import DefinitionError
from engine.inputs import (
    MISSING,
    Choices,
    FileChoice,
    Hint,
    InputSpec,
    Lazy,
    Multiline,
    Optional,
    Range,
    RawLink,
    Seed,
    Socket,
    SocketOnly,
)
from engine.types import ANY, BOOLEAN, COMBO, FLOAT, INT, STRING, SocketType


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function says of its node."""

    inputs: tuple[InputSpec, ...]
    takes_context: bool
    takes_extra: bool


def read_signature(type_: str, fn: Callable[..., Any]) -> Signature:
    """The inputs of the node ``type_`` that ``fn`` computes. Raises DefinitionError where the signature contradicts itself."""
    parameters = list(inspect.signature(fn).parameters.values())
    hints = typing.get_type_hints(fn, include_extras=True)
    takes_context = bool(parameters) and parameters[0].name == "ctx"
    declared = parameters[1:] if takes_context else parameters
    takes_extra = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in declared)
    inputs = []
    for parameter in declared:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise DefinitionError(
                f"{type_}: parameter {parameter.name} must be a plain named one: inputs are passed by name"
            )
        if parameter.name not in hints:
            raise DefinitionError(
                f"{type_}: parameter {parameter.name} has no annotation; its socket type is read from it"
            )
        inputs.append(_read_input(type_, parameter, hints[parameter.name]))
    return Signature(tuple(inputs), takes_context, takes_extra)


def _read_input(node_type: str, parameter: inspect.Parameter, hint: Any) -> InputSpec:
    base, markers, nullable = _unwrap(hint)
    default = MISSING if parameter.default is inspect.Parameter.empty else parameter.default
    marks = {type(marker): marker for marker in markers}
    type_, choices = _socket(node_type, parameter.name, base, marks)
    bounds = marks.get(Range)
    hint_mark = marks.get(Hint, Hint())
    multiline = marks.get(Multiline)
    spec = InputSpec(
        name=parameter.name,
        type=type_,
        required=Optional not in marks and not (nullable and default is None),
        default=MISSING if default is None and nullable else default,
        range=bounds,
        choices=choices,
        files=marks.get(FileChoice),
        seed=Seed in marks,
        multiline=multiline is not None,
        dynamic_prompts=multiline is not None and multiline.dynamic_prompts,
        lazy=Lazy in marks,
        raw_link=RawLink in marks,
        socket_only=SocketOnly in marks,
        tooltip=hint_mark.tooltip,
        display=hint_mark.display,
        own_type=Socket in marks and marks[Socket].widget,
    )
    _check_input(node_type, spec)
    return spec


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """The plain type under ``Annotated`` and ``X | None``, the markers met on the way, whether None is allowed."""
    markers: tuple[Any, ...] = ()
    nullable = False
    while True:
        origin = get_origin(hint)
        if origin is Annotated:
            hint, *found = get_args(hint)
            markers += tuple(found)
        elif origin in (typing.Union, types.UnionType) and type(None) in get_args(hint):
            nullable = True
            rest = [arg for arg in get_args(hint) if arg is not type(None)]
            if len(rest) != 1:
                return hint, markers, nullable
            hint = rest[0]
        else:
            return hint, markers, nullable


_WIDGET_TYPES: Final[dict[Any, SocketType]] = {int: INT, float: FLOAT, str: STRING, bool: BOOLEAN}


def _socket(
    node_type: str, name: str, base: Any, marks: Mapping[type, Any]
) -> tuple[SocketType, tuple[str, ...] | Callable[[], Sequence[str]] | None]:
    if Socket in marks:
        return SocketType(marks[Socket].type), None
    if FileChoice in marks:
        return COMBO, None
    if Choices in marks:
        return COMBO, marks[Choices].names
    if get_origin(base) is Literal:
        return COMBO, tuple(get_args(base))
    if base in _WIDGET_TYPES:
        return _WIDGET_TYPES[base], None
    if base is Any:
        return ANY, None
    raise DefinitionError(
        f"{node_type}: parameter {name} is annotated {base!r}; use int, float, str, bool, Literal[...] or Annotated[..., Socket(NAME)]"
    )


def _check_input(node_type: str, spec: InputSpec) -> None:
    where = f"{node_type}: input {spec.name}"
    if spec.range and spec.type not in (INT, FLOAT):
        raise DefinitionError(f"{where} has a range but is of type {spec.type}; ranges are for INT and FLOAT")
    if spec.lazy and spec.raw_link:
        raise DefinitionError(
            f"{where} is both lazy and a raw link; whoever gets the link itself cannot ask for its value"
        )
    if spec.seed and spec.type != INT:
        raise DefinitionError(f"{where} is marked Seed but is of type {spec.type}; a seed is an INT")
    if spec.default is MISSING:
        return
    if isinstance(spec.choices, tuple) and spec.default not in spec.choices:
        raise DefinitionError(f"{where} defaults to {spec.default!r}, which is not among {', '.join(spec.choices)}")
    if spec.range and isinstance(spec.default, int | float) and not spec.range.min <= spec.default <= spec.range.max:
        raise DefinitionError(f"{where} defaults to {spec.default}, outside {spec.range.min}..{spec.range.max}")
