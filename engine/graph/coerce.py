"""Literals made into what an input takes, by ComfyUI's rules: ``int()``, ``float()``, ``str()``, ``bool()``."""

from __future__ import annotations

import math
from typing import Final

from engine.graph.graph import Value
from engine.graph.text import listed
from engine.spec import InputSpec
from engine.types import ANY, BOOLEAN, COMBO, FLOAT, INT, STRING, members


class NotCoercibleError(Exception):
    """A literal that cannot become a value of the input's type."""


_WORDS: Final = {INT: "a whole number", FLOAT: "a number", STRING: "a text", BOOLEAN: "true or false"}


def coerce(spec: InputSpec, value: Value) -> Value:
    """``value`` as the input's type; choices and ranges are not looked at. Raises ``NotCoercibleError``.

    As in ComfyUI ``"20"`` is the INT 20, 7.9 is the INT 7, null is the STRING ``"None"`` and ``"false"`` is a true
    BOOLEAN. Unlike there a FLOAT has to be finite. A choice that equals one of the choices becomes it, so 1.0 is the
    choice 1.
    """
    try:
        return _convert(spec, value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise NotCoercibleError from None


def _convert(spec: InputSpec, value: Value) -> Value:
    if spec.type == INT:
        return int(value)
    if spec.type == FLOAT:
        number = float(value)
        if not math.isfinite(number):
            raise NotCoercibleError
        return number
    if spec.type == STRING:
        return str(value)
    if spec.type == BOOLEAN:
        return bool(value)
    if (choices := spec.options) is not None:
        return next((choice for choice in choices if choice == value), value)
    if spec.files is not None and not isinstance(value, str):
        raise NotCoercibleError
    if spec.type == COMBO or takes_any_literal(spec):
        return value
    raise NotCoercibleError


def takes_any_literal(spec: InputSpec) -> bool:
    """Whether a literal of any type is as good as a link: for wildcards, for unions with a type that can be typed in,
    and for types that only a pack knows."""
    return spec.own_type or not members(spec.type).isdisjoint({ANY, INT, FLOAT, STRING, BOOLEAN, COMBO})


def expectation(spec: InputSpec) -> str:
    """What an input takes, in words."""
    if spec.files is not None:
        if spec.files.tree:
            return f'a folder below the folder "{spec.files.folder}"'
        if spec.files.entries:
            return f'an entry of the files of the folder "{spec.files.folder}"'
        return f'a file of the folder "{spec.files.folder}"'
    if (choices := spec.options) is not None:
        return f"one of {listed(str(choice) for choice in choices)}"
    word = _WORDS.get(spec.type)
    if word is None:
        return "a value or a link" if takes_any_literal(spec) else f"a link to {article(spec.type)} output"
    if spec.range is None:
        return word
    return f"{word} from {bound(spec, spec.range.min)} to {bound(spec, spec.range.max)}"


def article(noun: str) -> str:
    """The noun with "a" or "an" before it, by its first letter."""
    return f"an {noun}" if noun[:1] in "AEIOUaeiou" else f"a {noun}"


def bound(spec: InputSpec, limit: float) -> str:
    """One end of an input's range, without a fraction where it has none."""
    return str(int(limit)) if spec.type == INT or float(limit).is_integer() else repr(limit)
