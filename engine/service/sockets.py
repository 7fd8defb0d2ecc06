"""How many websockets may be open, and how few of those that have still to show their token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.types import Message, Scope, Send

from engine.service.credentials import network_of

STRANGERS: Final = 32
"""Websockets that have still to show their token, in all."""
ALIKE: Final = 8
"""Of these, from one address; an IPv6 network of 64 bits counts as one."""
FIRST_MESSAGE: Final = 4096
"""Bytes of what a websocket may say before it is let in."""
WIDEN: Final = "mezzotint.widen"
"""The extension of a websocket's scope that lets it send messages as long as any may be: ``call``, a function without arguments."""


@dataclass(slots=True)
class Sockets:
    """The places of the websockets that are open, at most ``most``."""

    most: int
    _open: int = 0
    _strangers: Counter[str] = field(default_factory=Counter)
    """By address."""

    def full(self, address: str, *, is_known: bool) -> str | None:
        """Why there is no place for one more; None where there is."""
        if self._open >= self.most:
            return f"expected at most {self.most} open websockets, found as many"
        if is_known:
            return None
        if self._strangers[network_of(address)] >= ALIKE or self._strangers.total() >= STRANGERS:
            return "expected fewer websockets that have still to show the token, found too many; show it in a header"
        return None

    def enter(self, address: str, *, is_known: bool) -> Place:
        """A place for one; it is to ``leave``."""
        place = Place(self, network_of(address))
        self._strangers[place.network] += 1
        if is_known:
            place.admit()
        return place

    def count(self, network: str, *, known: int = 0, strangers: int = 0) -> None:
        """So many more."""
        self._open += known
        self._strangers[network] += strangers
        if not self._strangers[network]:
            del self._strangers[network]


@dataclass(slots=True)
class Place:
    """That of one websocket: at first a stranger's."""

    sockets: Sockets
    network: str
    is_known: bool = False

    def admit(self) -> None:
        """It is none any more."""
        if not self.is_known:
            self.is_known = True
            self.sockets.count(self.network, known=1, strangers=-1)

    def leave(self) -> None:
        """It is closed."""
        self.sockets.count(self.network, known=-self.is_known, strangers=-(not self.is_known))


def admitting(place: Place, scope: Scope, send: Send) -> Send:
    """``send``, which takes an app's first message as the sign that it has let its client in: strangers are told nothing."""
    widen: Callable[[], None] = scope.get("extensions", {}).get(WIDEN, {}).get("call", lambda: None)
    if place.is_known:
        widen()
        return send

    async def told(message: Message) -> None:
        if message["type"] == "websocket.send" and not place.is_known:
            place.admit()
            widen()
        await send(message)

    return told
