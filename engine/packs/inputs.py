"""What a class's INPUT_TYPES says, as ``InputSpec``s."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from engine.errors import DefinitionError
from engine.packs.hidden import unseen_inputs
from engine.spec import MISSING, InputSpec, Range
from engine.types import ANY, COMBO, FLOAT, INT, STRING, WIDGETS, SocketType, members

GROUPS: Final = ("required", "optional")
_WIDEST: Final = 2**64
"""Stands for a bound that is not given; the widest number an editor sends is just below it."""
_PROBE: Final = "\0 no input is called this"

_LINKED_ONLY: Final = frozenset(
    {
        "AUDIO", "CLIP", "CLIP_VISION", "CLIP_VISION_OUTPUT", "CONDITIONING", "CONTROL_NET", "GLIGEN", "GUIDER", "IMAGE", "LATENT",
        "MASK", "MODEL", "NOISE", "SAMPLER", "SIGMAS", "STYLE_MODEL", "UPSCALE_MODEL", "VAE", "VIDEO",
    }
)  # fmt: skip
"""Types that everybody knows and nobody can type in. Any other may have a widget that the pack's own scripts draw."""

InputTypes = Callable[[], Mapping[str, Any]]


def input_types(cls: Any) -> Mapping[str, Any]:
    """What the class declares at this moment. Raises ``DefinitionError`` for what is no declaration."""
    declared = cls.INPUT_TYPES()
    if not isinstance(declared, Mapping):
        raise DefinitionError(
            f"INPUT_TYPES returned a {type(declared).__name__}; expected a dict with required, optional"
        )
    return declared


def read_inputs(read: InputTypes) -> tuple[InputSpec, ...]:
    """The inputs of a class whose declaration is ``read``; it is called again whenever a choice is looked at."""
    declared = read()
    seen = tuple(
        _read_input(group, name, declared[group][name], read)
        for group in GROUPS
        for name in list((declared.get(group) or {}).keys())
    )
    return (*seen, *(InputSpec(name, ANY, required=False, socket_only=True) for name in unseen_inputs(declared)))


def takes_any_input(declared: Mapping[str, Any]) -> bool:
    """Whether the optional inputs are one of those mappings that have whatever they are asked for."""
    optional = declared.get("optional")
    return optional is not None and _PROBE in optional


def is_wildcard(declared: Any) -> bool:
    """Whether it is one of the strings packs write for any type, which are never unequal to another."""
    return not operator.ne(declared, _PROBE)


def socket_type(declared: Any) -> SocketType:
    """A type as it is declared: a name, a list of choices, or one of those strings that equal every other."""
    if isinstance(declared, list | tuple):
        return COMBO
    if is_wildcard(declared):
        return ANY
    return SocketType(str(getattr(declared, "value", declared)))


def _split(declared: Any) -> tuple[Any, Mapping[str, Any]]:
    """The type and the options of one input's declaration."""
    if not isinstance(declared, list | tuple) or not declared:
        return declared, {}
    options = declared[1] if len(declared) > 1 and isinstance(declared[1], Mapping) else {}
    return declared[0], options


def _read_input(group: str, name: str, declared: Any, read: InputTypes) -> InputSpec:
    kind, options = _split(declared)
    if kind is None:
        raise DefinitionError(f"input {name} is declared {declared!r}; expected a type and options")
    type_ = socket_type(kind)
    return InputSpec(
        name=name,
        type=type_,
        required=group == "required",
        default=options.get("default", MISSING),
        range=_range(type_, options),
        choices=_choices(group, name, kind, options, read),
        seed=type_ == INT and bool(options.get("control_after_generate")),
        multiline=bool(options.get("multiline")),
        dynamic_prompts=type_ == STRING and bool(options.get("dynamicPrompts")),
        lazy=bool(options.get("lazy")),
        raw_link=bool(options.get("rawLink")),
        socket_only=bool(options.get("forceInput")),
        tooltip=_text(options.get("tooltip")),
        display=_text(options.get("display")),
        own_type=members(type_).isdisjoint({ANY, *WIDGETS, *_LINKED_ONLY}),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _range(type_: SocketType, options: Mapping[str, Any]) -> Range | None:
    if type_ not in (INT, FLOAT):
        return None
    low, high = _number(options.get("min")), _number(options.get("max"))
    if low is None and high is None:
        return None
    step, rounding = _number(options.get("step")), _number(options.get("round"))
    return Range(-_WIDEST if low is None else low, _WIDEST if high is None else high, step, rounding)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _choices(
    group: str, name: str, kind: Any, options: Mapping[str, Any], read: InputTypes
) -> Callable[[], Sequence[str]] | None:
    """What can be chosen, read anew each time; None where only the editor knows (a list it fetches, several at once)."""
    if socket_type(kind) != COMBO or _options_in(kind, options) is None or options.get("multiselect"):
        return None
    if options.get("multi_select") or options.get("remote"):
        return None

    def now() -> Sequence[str]:
        return _options_in(*_split(read()[group][name])) or ()

    return now


def _options_in(kind: Any, options: Mapping[str, Any]) -> Sequence[str] | None:
    if isinstance(kind, list | tuple):
        return list(kind)
    listed = options.get("options")
    return list(listed) if isinstance(listed, list | tuple) else None
