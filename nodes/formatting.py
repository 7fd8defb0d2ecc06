"""Values written into texts by Python's format language, as much of it as is safe in the hands of a stranger.

There are names, widths, precisions and kinds; there are no attributes, positions, conversions or fields inside fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from typing import Any, Final

from engine.errors import InputError

_SPEC: Final = re.compile(
    r"(?:.?[<>=^])?[-+ ]?z?#?0?(?P<width>\d{0,10})[,_]?(?:\.(?P<precision>\d{1,10}))?[a-zA-Z%]?", re.DOTALL
)
_WIDEST: Final = 1000
_WHOLE_KINDS: Final = frozenset("bcdoxX")


def format_text(template: str, values: Mapping[str, Any], *, input: str) -> str:
    """``template`` with each ``{name}`` or ``{name:spec}`` replaced; ``{{`` and ``}}`` are braces.

    ``input`` is named by the ``InputError`` for a template that is none, or that names what is not in ``values``.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(
            f"expected a template, found {_shown(template)} ({error}); write {{{{ and }}}} for braces", input=input
        ) from error
    return "".join(literal + _field(name, spec, conversion, values, input) for literal, name, spec, conversion in parts)


def _field(name: str | None, spec: str | None, conversion: str | None, values: Mapping[str, Any], input: str) -> str:
    if name is None:
        return ""
    if conversion or "{" in (spec or "") or name not in values:
        known = ", ".join(f"{{{known}}}" for known in values) or "none: no value is given"
        whole = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
        raise InputError(f"expected one of the fields {known}, found {{{whole}}}; write {{{{ for a brace", input=input)
    return format_value(values[name], spec or "", input=input, name=name)


def format_value(value: Any, spec: str, *, input: str, name: str = "value") -> str:
    """A number, text or truth value as ``spec`` says, such as ``05d``, ``.2f`` or ``>12``."""
    if not isinstance(value, str | int | float):
        raise InputError(f"expected a text, a number or a truth value, found a {type(value).__name__}", input=name)
    found = _SPEC.fullmatch(spec)
    if found is None or max(int(found["width"] or 0), int(found["precision"] or 0)) > _WIDEST:
        raise InputError(
            f"expected a format such as 05d, .2f or >12, at most {_WIDEST} wide, found {_shown(spec)}", input=input
        )
    try:
        return format(_fitting(value, spec), spec)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"expected a format for {_shown(str(value))}, found {_shown(spec)} ({error})", input=input
        ) from error


def _fitting(value: Any, spec: str) -> Any:
    """A truth value as its word; a FLOAT that is a whole number as one, where the format asks for one."""
    if isinstance(value, bool):
        return str(value)
    is_whole = isinstance(value, float) and value.is_integer() and spec[-1:] in _WHOLE_KINDS
    return int(value) if is_whole else value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
