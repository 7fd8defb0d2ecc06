"""An app on a port of this machine, by the server it has in life."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import uvicorn
from starlette.types import ASGIApp

from engine.service.serve import server_config
from engine.service.settings import ServiceSettings


@contextmanager
def served(
    app: ASGIApp,
    *,
    root_path: str = "",
    settings: ServiceSettings | None = None,
    connections: int | None = None,
    ping: float | None = None,
) -> Iterator[str]:
    """The address of ``app``, for as long as the block lasts. ``ping``: seconds between signs of life, and for each to come."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = server_config(app, settings or ServiceSettings(), root_path)
    config.lifespan = "off"
    config.limit_concurrency = connections
    if ping is not None:
        config.ws_ping_interval = config.ws_ping_timeout = ping
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


def raw_get(address: str, path: str) -> tuple[int, str]:
    """Status and text of a GET whose path is sent letter by letter, which tidier clients do not do."""
    with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
