"""A server on this machine in the place of the Hugging Face hub: repositories of bytes, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What it holds, how it misbehaves, and what it was asked."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    small: set[str] = field(default_factory=set)
    """Names of files that are in git itself, without a SHA-256."""
    gated: set[str] = field(default_factory=set)
    lies: dict[str, str] = field(default_factory=dict)
    """Digests that are stated for files, true or not."""
    cut: int | None = None
    """Bytes after which the next answer with a file ends; the one after it is refused."""
    log: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(method, path, range) of every request."""

    def ranges(self) -> list[str | None]:
        """What was asked of files, in order."""
        return [asked for method, path, asked in self.log if method == "GET" and "/resolve/" in path]

    def siblings(self, repo: str) -> list[dict[str, Any]]:
        return [self._sibling(name, content) for name, content in self.repositories[repo].items()]

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        plain = {"rfilename": name, "size": len(content)}
        if name in self.small:
            git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            return {**plain, "blobId": self.lies.get(name, git)}
        digest = self.lies.get(name, hashlib.sha256(content).hexdigest())
        return {**plain, "blobId": "0" * 40, "lfs": {"sha256": digest, "size": len(content), "pointerSize": 134}}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        self.hub.log.append((self.command, path, self.headers.get("Range")))
        if (api := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path)) is not None:
            self._listing(api[1])
        elif (found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)) is not None:
            self._file(found[1], found[2], body=body)
        else:
            self._refuse(404, "EntryNotFound")

    def _refuse(self, status: int, code: str) -> None:
        self._head(status, {"X-Error-Code": code, "Content-Length": "0"})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _listing(self, repo: str) -> None:
        if repo not in self.hub.repositories:
            self._refuse(404, "RepoNotFound")
            return
        answer = json.dumps({"id": repo, "sha": COMMIT, "siblings": self.hub.siblings(repo)}).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(answer))})
        self.wfile.write(answer)

    def _file(self, repo: str, name: str, *, body: bool) -> None:
        if repo in self.hub.gated:
            self._refuse(403, "GatedRepo")
            return
        content = self.hub.repositories[repo][name]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        if body and self.hub.cut == 0:
            self.hub.cut = None
            self._refuse(503, "")
            return
        headers = {"X-Repo-Commit": COMMIT, "ETag": '"e"', "Content-Length": str(len(content) - start)}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(206 if asked else 200, headers)
        if not body:
            return
        self.wfile.write(content[start : self.hub.cut])
        if self.hub.cut is not None:
            self.hub.cut = 0
            self.close_connection = True


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve an empty hub on a port of its own."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
