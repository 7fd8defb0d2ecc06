"""Hosts and origins as HTTP names them: what ``Host`` and ``Origin`` say, read strictly."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from engine.errors import UsageError
from engine.graph.text import shown

_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_SCHEME: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.ASCII)
_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}
SECURE: Final = frozenset({"https", "wss"})


@dataclass(frozen=True, slots=True)
class Authority:
    """A host in lower case, an IPv6 address without brackets and in its shortest form; ``port`` None where none is named."""

    host: str
    port: int | None

    @property
    def is_loopback(self) -> bool:
        """Whether the name means this machine to every browser: nobody's name server is asked for it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.IPv4Address(self.host).is_loopback
        except ValueError:
            return self.host == "::1"

    def is_where(self, origin: Origin) -> bool:
        """Whether pages of ``origin`` come from here, as far as a proxy tells: one that names no port is asked by the scheme's own."""
        return self.host == origin.host and self.port in (None, origin.port)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a page comes from. The port a scheme stands for is filled in; other schemes than the web's may have None."""

    scheme: str
    host: str
    port: int | None

    def is_of(self, host: Authority, scheme: str) -> bool:
        """Whether a request to ``host`` by ``scheme`` comes from the service's own pages.

        A proxy in front may have spoken https where http arrives here, so a plain request may come from an https page, but not the
        other way round: a page that came by http is not to be trusted by a service that has https.
        """
        if self.scheme not in {"http", "https"} or (scheme in SECURE and self.scheme != "https"):
            return False
        port = _PORTS[self.scheme] if host.port is None else host.port
        return (self.host, self.port) == (host.host, port)


def read_host(text: str) -> Authority | None:
    """What a ``Host`` header says; None if it is not well formed."""
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    host, port = found["host"].lower(), found["port"]
    if port is not None and int(port) > 65535:
        return None
    if host.startswith("["):
        try:
            host = str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            return None
    return Authority(host, None if port is None else int(port))


def read_origin(text: str) -> Origin | None:
    """What an ``Origin`` header says; None for ``null`` and for what is not well formed."""
    found = _SCHEME.fullmatch(text)
    host = read_host(found["rest"]) if found else None
    if found is None or host is None:
        return None
    scheme = found["scheme"].lower()
    return Origin(scheme, host.host, _PORTS.get(scheme) if host.port is None else host.port)


def checked_origin(text: str) -> Origin:
    """An origin that somebody configured. Raises ``UsageError`` for what is none, among it ``*`` and ``null``."""
    origin = read_origin(text)
    if origin is None:
        raise UsageError(
            f"expected an origin such as https://example.com or http://127.0.0.1:3000, found {shown(text)}"
        )
    return origin
