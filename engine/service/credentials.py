"""Who may come in: the service's token, the cookie that stands for it, one-time codes, and a limit on guessing."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from engine.errors import UsageError
from engine.run.atomic import TEMPORARY, remove, take_name
from engine.service.settings import ServiceSettings

COOKIE: Final = "mezzotint_session"
TOKEN_HEADER: Final = b"x-mezzotint-token"
SHORTEST_TOKEN: Final = 16

_COOKIE: Final = re.compile(r"v1\.([0-9a-f]{32})\.([0-9a-f]{64})", re.ASCII)
_TOKEN: Final = re.compile(rb"[!-~]+")
_CODE_SECONDS: Final = 15 * 60.0
_MOST_SESSIONS: Final = 4
"""That one request may show: a browser holds one, or two where another path of the host has its own."""
_MOST_CODES: Final = 1000
_MOST_ADDRESSES: Final = 4096

Clock = Callable[[], float]
Headers = Iterable[tuple[bytes, bytes]]


# the token


def read_token(settings: ServiceSettings) -> bytes | None:
    """The token that clients must show: of ``token_file``, else, off loopback, of ``state/token``, made if it is not there. None: no token.

    Raises ``UsageError`` for a token that is too short, cannot be sent in a header, or cannot be read or kept.
    """
    if settings.token_file is not None:
        return _token_of(settings.token_file)
    if settings.is_loopback:
        return None
    path = settings.places.state / "token"
    try:
        if not path.exists():
            _make_token(path)
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise UsageError(
                f"expected {path} to be readable by its owner alone, found others can: delete it, a new one is made"
            )
    except OSError as error:
        raise UsageError(
            f"expected to keep a token in {path}, could not: {error.strerror}; name one by --token-file"
        ) from error
    return _token_of(path)


def _token_of(path: Path) -> bytes:
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise UsageError(f"expected a token in {path}, could not read it: {error.strerror}") from error
    if len(token) < SHORTEST_TOKEN or _TOKEN.fullmatch(token) is None:
        wanted = f"one token of at least {SHORTEST_TOKEN} visible ASCII characters, no spaces"
        raise UsageError(f"expected {wanted}, in {path}; found {len(token)} bytes that are not that")
    return token


def _make_token(path: Path) -> None:
    # written whole under another name first: of two services that start at once both use the one that got the name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    try:
        take_name(temporary, path)
    finally:
        remove(temporary)


def same_secret(token: bytes, candidate: bytes) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(token, candidate)


# the cookie


def new_session(token: bytes) -> str:
    """The value of a cookie that holds for as long as the token is the service's."""
    random = secrets.token_hex(16)
    return f"v1.{random}.{_signed(token, random)}"


def is_session(token: bytes, value: str) -> bool:
    """Whether a cookie's value was made by ``new_session`` of this token."""
    found = _COOKIE.fullmatch(value)
    return found is not None and same_secret(_signed(token, found[1]).encode(), found[2].encode())


def _signed(token: bytes, random: str) -> str:
    return hmac.new(token, random.encode(), hashlib.sha256).hexdigest()


def session_cookie(value: str, *, secure: bool) -> str:
    """The ``Set-Cookie`` header of a session."""
    return f"{COOKIE}={value}; HttpOnly; SameSite=Strict; Path=/" + ("; Secure" if secure else "")


# what a request shows


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request shows to be let in; any one that is right is enough."""

    tokens: tuple[bytes, ...] = field(default=(), repr=False)
    sessions: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, headers: Headers) -> Credentials:
        """Those of a request's headers, whose names are in lower case. A cookie may come several times: other ports of a host share it."""
        tokens: list[bytes] = []
        sessions: list[str] = []
        for name, value in headers:
            if name == b"authorization":
                scheme, _, rest = value.strip().partition(b" ")
                tokens += [rest.strip()] if scheme.lower() == b"bearer" else []
            elif name == TOKEN_HEADER:
                tokens.append(value.strip())
            elif name == b"cookie":
                pairs = (pair.strip().partition("=") for pair in value.decode("latin-1").split(";"))
                sessions += [text for key, _, text in pairs if key == COOKIE]
        return cls(tuple(tokens), tuple(sessions[:_MOST_SESSIONS]))

    def fit(self, token: bytes) -> bool:
        """Whether one of them is right."""
        shown = any(same_secret(token, candidate) for candidate in self.tokens)
        return shown or any(is_session(token, session) for session in self.sessions)


# one-time codes and the limit on guessing


@dataclass(slots=True)
class Codes:
    """One-time codes, for links that let a browser in without the token in its history. In memory: a restart forgets them."""

    clock: Clock = time.monotonic
    _until: OrderedDict[bytes, float] = field(default_factory=OrderedDict, repr=False)

    def issue(self) -> str:
        """A code that can be redeemed once within 15 minutes."""
        now = self.clock()
        for key in [key for key, until in self._until.items() if until <= now]:
            self._until.pop(key, None)
        while len(self._until) >= _MOST_CODES:
            self._until.popitem(last=False)
        code = secrets.token_urlsafe(32)
        self._until[_digest(code)] = now + _CODE_SECONDS
        return code

    def redeem(self, code: str) -> bool:
        """Whether the code is good; it is not any more afterwards."""
        until = self._until.pop(_digest(code), None)
        return until is not None and self.clock() < until


def _digest(code: str) -> bytes:
    # looked up by digest, so that the time a look-up takes says nothing about the codes there are
    return hashlib.sha256(code.encode("utf-8", "surrogatepass")).digest()


@dataclass(slots=True)
class Attempts:
    """Wrong tokens of late, by the address they came from; an IPv6 network of 64 bits counts as one.

    An IPv4 address counts as itself, also where a socket for both families names it as ``::ffff:203.0.113.9``.
    """

    most: int = 10
    seconds: float = 60.0
    clock: Clock = time.monotonic
    _wrong: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)

    def is_spent(self, address: str) -> bool:
        """Whether no more tokens are to be compared for this address now."""
        times = self._wrong.get(network_of(address))
        if times is None:
            return False
        while times and times[0] <= self.clock() - self.seconds:
            times.popleft()
        return len(times) >= self.most

    def count(self, address: str) -> None:
        """A wrong token came from ``address``."""
        key = network_of(address)
        self._wrong.setdefault(key, deque(maxlen=self.most)).append(self.clock())
        self._wrong.move_to_end(key)
        while len(self._wrong) > _MOST_ADDRESSES:
            self._wrong.popitem(last=False)


def network_of(address: str) -> str:
    """What counts as one address: an IPv6 network of 64 bits, any other address as itself."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, 64), strict=False))
