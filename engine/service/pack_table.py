"""Which requests packs answer: the paths they noted, read as aiohttp reads them. Decides, and does nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from engine.packs.report import NotedRoute

_PART: Final = re.compile(r"(\{[_a-zA-Z][^{}]*(?:\{[^{}]*\}[^{}]*)*\})")
_NAMED: Final = re.compile(r"\{([_a-zA-Z][_a-zA-Z0-9]*)(?::(.+))?\}")
_KEPT: Final = re.compile(r"(%2[fF5])")
"""What aiohttp leaves encoded when it compares: a slash and a percent sign."""


@dataclass(frozen=True, slots=True)
class _Place:
    pattern: re.Pattern[str]
    route: NotedRoute


class RouteTable:
    """Routes, to be looked up by path."""

    def __init__(self, routes: Iterable[NotedRoute]) -> None:
        """A route whose path cannot be read is left out; its worker has said so."""
        self._exact: dict[str, list[NotedRoute]] = {}
        self._places: list[_Place] = []
        for route in routes:
            if route.method != "STATIC" and "{" not in route.path:
                self._exact.setdefault(route.path, []).append(route)
            elif (pattern := _pattern(route)) is not None:
                self._places.append(_Place(pattern, route))

    def at(self, path: str) -> list[NotedRoute]:
        """All routes at ``path``, whatever their method; ``path`` is as ``comparable`` returns it."""
        return [
            *self._exact.get(path, ()),
            *(place.route for place in self._places if place.pattern.fullmatch(path)),
        ]


def answers(route: NotedRoute, method: str) -> bool:
    """Whether ``route`` is for requests of ``method``; a GET answers HEAD too."""
    if route.method == "STATIC":
        return method in ("GET", "HEAD")
    return route.method in ("*", method) or (method == "HEAD" and route.method == "GET")


def comparable(raw: str) -> str:
    """A path as it came, encoded, as aiohttp compares it: decoded but for ``%2F`` and ``%25``."""
    return "".join(part if _KEPT.fullmatch(part) else unquote(part) for part in _KEPT.split(raw))


def _pattern(route: NotedRoute) -> re.Pattern[str] | None:
    if route.method == "STATIC":
        return re.compile(re.escape(route.path.rstrip("/")) + "/.*", re.DOTALL)
    try:
        return re.compile("".join(_piece(part) for part in _PART.split(route.path)))
    except re.error:
        return None


def _piece(part: str) -> str:
    named = _NAMED.fullmatch(part)
    if named is None:
        return re.escape(part)
    return f"(?P<{named[1]}>{named[2] or '[^{}/]+'})"
