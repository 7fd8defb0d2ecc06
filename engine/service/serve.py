"""Starts the service and keeps it until it is told to end."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import logging
import resource
import socket
import sys
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from engine.errors import UsageError
from engine.jobs.locks import seize
from engine.service.app import create_app
from engine.service.connections import HttpConnection, SocketConnection
from engine.service.logs import LogRing, setup_logging
from engine.service.policy import Policy
from engine.service.security import Guard
from engine.service.settings import ServiceSettings
from engine.service.wire import LARGEST

_FILES: Final = 65_536
"""Open files to ask the system for, connections among them."""
_OWN_FILES: Final = 256
"""Of these, for all but connections."""

_SWITCH: Final = 0.0005
"""Seconds after which a thread that computes lets another have its turn: the one that stores jobs waits for one after each statement."""

_log = logging.getLogger(__name__)


def serve(settings: ServiceSettings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises ``UsageError`` for settings that cannot be used, a port that is taken among them, ``ResourceError`` for a state folder
    that another service is at work in.
    """
    ring = LogRing()
    setup_logging(settings.log_format, settings.log_level, ring)
    state = settings.places.state
    held = seize(
        state / "service.lock",
        wait=2.0,
        otherwise=f"another service is at work in {state}; end it, or give this one a state folder of its own",
    )
    app = create_app(settings, ring)
    policy = Policy.of(settings)
    app.state.policy = policy
    listening = _listen(settings)
    host, port = listening.getsockname()[:2]
    _tell_where(settings, policy, host, port)
    sys.setswitchinterval(_SWITCH)
    gc.freeze()  # what is there now stays: it need not be looked through again and again
    config = server_config(Guard(app, policy), settings)
    config.limit_concurrency = _most_connections()
    server = uvicorn.Server(config)
    server.run(sockets=[listening])
    held.close()
    if not server.started:
        raise UsageError("the service did not start; the reason is above")


def server_config(app: ASGIApp, settings: ServiceSettings, root_path: str = "") -> uvicorn.Config:
    """How the service speaks HTTP. ``root_path`` is the path it is mounted at."""
    return uvicorn.Config(
        app,
        root_path=root_path,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=[form for text in settings.trusted_proxies for form in _forms(text)],
        http=HttpConnection,
        ws=SocketConnection,
        ws_max_size=LARGEST,
        ws_per_message_deflate=False,  # pictures do not get smaller, and every open socket would hold its own dictionary
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=75,
    )


def _most_connections() -> int:
    """As many as there may be open files, raised to what the system lets us have, less those that the service itself needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # some systems have a lower limit that they do not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return max(_FILES if soft == resource.RLIM_INFINITY else soft, 2 * _OWN_FILES) - _OWN_FILES


def _forms(text: str) -> tuple[str, ...]:
    """A network, and for one of IPv4 also how a socket for both families names it."""
    found = ipaddress.ip_network(text)
    if found.version == 6:
        return (text,)
    return text, f"::ffff:{found.network_address}/{96 + found.prefixlen}"


def _listen(settings: ServiceSettings) -> socket.socket:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise UsageError(
            f"cannot listen on {where} ({error.strerror or error}); choose another --host or --port"
        ) from error
    listening.set_inheritable(False)
    return listening


def _tell_where(settings: ServiceSettings, policy: Policy, host: str, port: int) -> None:
    name = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    if policy.token is None:
        _log.info("open http://%s:%s/ in a browser", name, port)
        return
    _log.info(
        "open http://%s:%s/?token=%s in a browser: the link lets in once, within 15 minutes",
        name,
        port,
        policy.codes.issue(),
    )
    if settings.token_file is None:
        _log.info("programs send the token in %s as Authorization: Bearer", settings.places.state / "token")
