"""What messages are made of: names and values from files, short enough for one line whatever the file holds."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Final

_LONGEST: Final = 60


def clip(text: str, longest: int = _LONGEST) -> str:
    """``text`` on one line, without control characters, cut in the middle where it is longer than ``longest``."""
    if len(text) > longest:
        half = (longest - 3) // 2
        text = f"{text[:half]}...{text[-half:]}"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in text)


def shown(value: object) -> str:
    """A value as a message shows it: text in quotes, long things cut, containers by their first items."""
    if isinstance(value, str):
        return f'"{clip(value)}"'
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if value.bit_length() < 128 else "a number of more than 38 digits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list | tuple):
        items = ", ".join(_item(item) for item in value[:4])
        return f"[{items}, ...]" if len(value) > 4 else f"[{items}]"
    return kind(value)


def _item(value: object) -> str:
    return kind(value) if isinstance(value, list | tuple | Mapping) else shown(value)


def kind(value: object) -> str:
    """What sort of JSON a value is, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return f"the text {shown(value)}"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, Mapping):
        return "an object"
    return f"a {clip(type(value).__name__)}"


def listed(names: Iterable[str], most: int = 6) -> str:
    """The first names of a list and how many there are."""
    known = [clip(name) for name in names]
    if not known:
        return "nothing"
    head = ", ".join(known[:most])
    return head if len(known) <= most else f"{head}, ... ({len(known)} in all)"


class Nearest:
    """Finds the known name most like a wrong one.

    Every answer is remembered, and after ``budget`` different questions there are no more: comparing names is slow,
    and nobody reads the thousandth suggestion.
    """

    def __init__(self, budget: int = 200) -> None:
        self._left = budget
        self._known: dict[tuple[str, str], str | None] = {}

    def __call__(self, kind: str, name: object, find: Callable[[str], str | None]) -> str | None:
        if not isinstance(name, str) or len(name) > 200:
            return None
        key = (kind, name)
        if key not in self._known:
            if self._left <= 0:
                return None
            self._left -= 1
            self._known[key] = find(name)
        return self._known[key]


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` most like ``name``, letters' case apart, if any is like it."""
    folded = {known.casefold(): known for known in names if len(known) <= 200}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[close[0]] if close else None
