"""The whole service in a process of its own, over empty folders: as those meet it who want to harm it."""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import websockets.sync.client

ROOT = Path(__file__).parents[2]
_PATIENCE = 60.0
_LISTENS = re.compile(r"open (http://127\.0\.0\.1:(\d+))/ in a browser")


@dataclass(frozen=True, slots=True)
class Running:
    """A service that runs, and the folder its folders are in."""

    url: str
    port: int
    pid: int
    place: Path

    @property
    def own(self) -> str:
        """The Host that it is asked by."""
        return f"127.0.0.1:{self.port}"

    def folder(self, name: str) -> Path:
        return self.place / name

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def socket(self, path: str, **more: Any) -> websockets.sync.client.ClientConnection:
        opened: websockets.sync.client.ClientConnection = websockets.sync.client.connect(
            f"ws://{self.own}{path}", compression=None, proxy=None, open_timeout=30, **more
        )
        return opened

    def memory(self) -> int:
        """Bytes the process holds that are its own."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^RssAnon:\s+(\d+) kB", text, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def log(self) -> str:
        return self.folder("log").read_text()

    def is_well(self) -> bool:
        """Whether it says that it can take jobs, and takes one."""
        with self.client() as client:
            if client.get("/healthz").json() != {"status": "ok"}:
                return False
            queued = client.post("/prompt", json={"prompt": harmless()})
            job = queued.json()["prompt_id"]
            client.post(f"/api/jobs/{job}/cancel")
            return queued.status_code == 200

    def ended(self, client: httpx.Client, job: str) -> dict[str, Any]:
        """The job, when it has ended."""
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            found: dict[str, Any] = client.get(f"/v1/jobs/{job}").json()
            if found["state"] in ("succeeded", "failed", "cancelled"):
                return found
            time.sleep(0.05)
        raise AssertionError(f"the job {job} did not end: {self.log()[-2000:]}")


def harmless() -> dict[str, Any]:
    """A prompt that needs no model and no file; each a new one."""
    return saving(f"calm-{secrets.token_hex(4)}")


def saving(prefix: Any) -> dict[str, Any]:
    """A prompt that makes a small picture and saves it as ``prefix``."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


@contextmanager
def running(place: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    """``python server.py`` on a port of its choice over folders below ``place``, for as long as the block lasts."""
    for name in ("models/checkpoints", "input", "output", "temp", "state"):
        (place / name).mkdir(parents=True, exist_ok=True)
    folders = [f"--{name}={place / name}" for name in ("models", "input", "output", "temp", "state")]
    command = [sys.executable, str(ROOT / "server.py"), "--port=0", *folders, *options]
    surroundings = {**os.environ, **(environment or {})}
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=place, env=surroundings, stdout=log, stderr=log)
    try:
        url, port = _listens(process, place / "log")
        yield Running(url, port, process.pid, place)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(process: subprocess.Popen[bytes], log: Path) -> tuple[str, int]:
    until = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < until:
        found = _LISTENS.search(log.read_text())
        if found is not None and _answers(found[1]):
            return found[1], int(found[2])
        time.sleep(0.02)
    raise AssertionError(log.read_text())


def _answers(url: str) -> bool:
    try:
        return bool(json.loads(httpx.get(f"{url}/healthz", trust_env=False).content) == {"status": "ok"})
    except (httpx.HTTPError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def raw(
    service: Running, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Answer:
    """One request whose path and headers are sent letter by letter, which tidier clients do not do."""
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)) as connection:
        connection.request(method, path, body or None, dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def upload(client: httpx.Client, name: str, data: bytes, **fields: str) -> httpx.Response:
    """A picture sent as an editor sends it."""
    return client.post("/upload/image", files={"image": (name, data, "image/png")}, data=fields)
