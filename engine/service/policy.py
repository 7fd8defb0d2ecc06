"""Who is let in: the decision, without the wire. ``engine.service.security`` asks and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from engine.graph.text import shown
from engine.service.credentials import Attempts, Codes, Credentials, read_token, same_secret
from engine.service.origins import Origin, checked_origin, read_host, read_origin
from engine.service.settings import ServiceLimits, ServiceSettings

LOGIN: Final = "/login"
OPEN_PATHS: Final = frozenset({"/healthz", LOGIN})
"""What needs no token."""
STREAM: Final = "/v1/stream"
"""The websocket that may show its token in its first message instead."""

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LIMITS: Final = ServiceLimits()


@dataclass(frozen=True, slots=True)
class Policy:
    """What the service asks of its clients. ``codes`` and ``attempts`` remember; the rest is fixed at the start."""

    is_loopback: bool = True
    allow_origins: frozenset[Origin] = frozenset()
    frame_ancestors: tuple[str, ...] = ()
    """The allowed origins as they were configured."""
    token: bytes | None = field(default=None, repr=False)
    """None where none is needed."""
    body: int = _LIMITS.body
    sockets: int = _LIMITS.sockets
    codes: Codes = field(default_factory=Codes)
    attempts: Attempts = field(default_factory=Attempts)

    @classmethod
    def of(cls, settings: ServiceSettings) -> Policy:
        """The policy of a service; reads its token, or makes one. Raises ``UsageError`` for a bad token or origin."""
        return cls(
            is_loopback=settings.is_loopback,
            allow_origins=frozenset(map(checked_origin, settings.allow_origins)),
            frame_ancestors=settings.allow_origins,
            token=read_token(settings),
            body=settings.limits.body,
            sockets=settings.limits.sockets,
        )

    def is_token(self, candidate: str, address: str = "") -> bool:
        """Whether this is the token, where one is needed. A wrong one counts against ``address``, and after too many nothing is right."""
        if self.token is None:
            return True
        if self.attempts.is_spent(address):
            return False
        if same_secret(self.token, candidate.encode("utf-8", "surrogatepass")):
            return True
        self.attempts.count(address)
        return False


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request or a websocket's handshake says of itself."""

    kind: Literal["http", "websocket"] = "http"
    method: str = "GET"
    path: str = "/"
    """Below where the service is mounted."""
    scheme: str = "http"
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    """``Sec-Fetch-Site``."""
    lengths: tuple[str, ...] = ()
    """``Content-Length``."""
    credentials: Credentials = field(default_factory=Credentials)

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> Asked:
        """That of an ASGI scope of kind http or websocket."""
        headers = [(bytes(name).lower(), bytes(value)) for name, value in scope["headers"]]

        def all_of(wanted: bytes) -> tuple[str, ...]:
            return tuple(value.decode("latin-1").strip(" \t") for name, value in headers if name == wanted)

        is_http = scope["type"] == "http"
        return cls(
            kind="http" if is_http else "websocket",
            method=scope["method"] if is_http else "GET",
            path=path_below(scope["path"], scope.get("root_path", "")),
            scheme=scope.get("scheme", "http"),
            hosts=all_of(b"host"),
            origins=all_of(b"origin"),
            sites=all_of(b"sec-fetch-site"),
            lengths=all_of(b"content-length"),
            credentials=Credentials.of(headers),
        )

    @property
    def may_change(self) -> bool:
        """Whether it can do more than read."""
        return self.kind == "websocket" or self.method not in _SAFE_METHODS


def path_below(path: str, root: str) -> str:
    """``path`` without the path the service is mounted at, as its routes see it."""
    return path[len(root) :] if root and (path == root or path.startswith(root + "/")) else path


@dataclass(frozen=True, slots=True)
class Allow:
    """Let it in. ``authenticated`` is False for what is open to all, and for the stream that has still to show its token."""

    authenticated: bool


@dataclass(frozen=True, slots=True)
class Preflight:
    """Answer a browser that asks whether a page of an allowed origin may ask."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with this status and one line that says why."""

    status: int
    reason: str
    lacks_token: bool = False
    """Whether a right token is all that is missing: nothing else is wrong with the request."""


Decision = Allow | Preflight | Refuse


def decide(policy: Policy, asked: Asked) -> Decision:
    """What is done with a request. Compares, and changes nothing."""
    refused = _host(policy, asked) or _origin(policy, asked) or _length(policy, asked) or _tokens(policy, asked)
    if refused is not None:
        return refused
    if asked.method == "OPTIONS" and asked.origins and is_foreign(policy, asked):
        return Preflight()
    if policy.token is None or asked.credentials.fit(policy.token):
        return Allow(True)
    if asked.kind == "websocket":
        if asked.path == STREAM:
            return Allow(False)
        return Refuse(403, "expected the service's token with the handshake, found none that is right", True)
    if asked.path in OPEN_PATHS:
        return Allow(False)
    return Refuse(401, "expected the service's token as Authorization: Bearer TOKEN, found none that is right", True)


def is_foreign(policy: Policy, asked: Asked) -> bool:
    """Whether a request comes from a page of one of the allowed origins."""
    return len(asked.origins) == 1 and read_origin(asked.origins[0]) in policy.allow_origins


def _host(policy: Policy, asked: Asked) -> Refuse | None:
    if len(asked.hosts) != 1:
        return Refuse(400, f"expected one Host header, found {len(asked.hosts)}")
    host = read_host(asked.hosts[0])
    if host is None:
        return Refuse(400, f"expected a host and a port in the Host header, found {shown(asked.hosts[0])}")
    if policy.is_loopback and not host.is_loopback and not any(map(host.is_where, policy.allow_origins)):
        # a page of that name may have had its name server point at this machine, and would then pass for one of ours
        return Refuse(403, f"expected a Host such as localhost or 127.0.0.1, found {shown(host.host)}")
    return None


def _origin(policy: Policy, asked: Asked) -> Refuse | None:
    if not asked.origins:
        strangers = [site for site in asked.sites if site not in {"same-origin", "none"}]
        if strangers and asked.may_change:
            return Refuse(
                403, f"expected a request of this service's own pages, found Sec-Fetch-Site {shown(strangers[0])}"
            )
        return None
    if is_foreign(policy, asked):
        return None
    origin = read_origin(asked.origins[0]) if len(asked.origins) == 1 else None
    host = read_host(asked.hosts[0])
    # a proxy's pages have an allowed origin: another of that name is somebody else's, by http or at another port
    is_named = host is not None and (host.is_loopback or not policy.is_loopback)
    if origin is None or host is None or not is_named or not origin.is_of(host, asked.scheme):
        found = shown(", ".join(asked.origins))
        return Refuse(
            403, f"expected a page of {shown(asked.hosts[0])}, found Origin {found}; allow it by --allow-origin"
        )
    return None


def _length(policy: Policy, asked: Asked) -> Refuse | None:
    if not asked.lengths:
        return None
    text = asked.lengths[0]
    if len(asked.lengths) != 1 or not (text.isascii() and text.isdigit()) or len(text) > 18:
        return Refuse(400, f"expected one Content-Length in bytes, found {shown(', '.join(asked.lengths))}")
    return Refuse(413, too_large(policy)) if int(text) > policy.body else None


def _tokens(policy: Policy, asked: Asked) -> Refuse | None:
    """One request is one guess."""
    found = len(set(asked.credentials.tokens))
    if policy.token is None or found <= 1:
        return None
    return Refuse(400, f"expected one token, found {found} different ones")


def too_large(policy: Policy) -> str:
    """Why a request's body is refused."""
    return f"expected at most {policy.body} bytes, found more; raise the limit or send less"
