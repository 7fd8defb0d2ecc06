"""JSON that the service keeps: no deeper than it can be told again, and without numbers that JSON has no word for. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from engine.errors import UsageError

DEEPEST: Final = 200
"""Objects and lists within each other that a request may have. Python and msgpack give up somewhat later."""

UNREADABLE: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What telling of something that was stored raises where it is not as it should be; not what a failing disk raises."""

_CONTAINERS: Final = (dict, list, tuple)


class TooDeep(UsageError):
    """Objects and lists within each other that could be kept but not told."""


def read_json(text: bytes) -> Any:
    """The value; NaN and infinities, which no browser reads, are null. Raises ``TooDeep``, or ``ValueError`` for what is no JSON."""
    try:
        value = json.loads(text, parse_constant=lambda name: None, parse_float=_finite_float)
    except RecursionError:
        raise _too_deep() from None
    return checked(value)


def storable(value: Any) -> Any:
    """``value`` as ``read_json`` would give it. Raises ``TooDeep``."""
    return finite(checked(value))


def checked(value: Any) -> Any:
    """``value``. Raises ``TooDeep`` where it is."""
    if is_too_deep(value):
        raise _too_deep()
    return value


def _too_deep() -> TooDeep:
    return TooDeep(f"expected at most {DEEPEST} objects and lists within each other, found more; send it flatter")


def is_too_deep(value: Any) -> bool:
    """Whether there are more than ``DEEPEST`` objects and lists within each other."""
    level = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(DEEPEST):
        if not level:
            return False
        level = [item for outer in level for item in _within(outer) if isinstance(item, _CONTAINERS)]
    return bool(level)


def finite(value: Any) -> Any:
    """``value`` with null in place of NaN and infinities."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _finite_float(text: str) -> float | None:
    number = float(text)
    return number if number - number == 0 else None


def _within(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
