"""A service in a process of its own, over folders of its own: started, asked, held, and looked at from outside."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

ROOT: Final = Path(__file__).parents[1]
_PATIENCE: Final = 120.0
"""Seconds in which anything has to come to an end."""


class Served:
    """``python server.py``; ended with the ``with`` block."""

    def __init__(self, place: Path) -> None:
        (place / "models").mkdir(parents=True, exist_ok=True)
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port: int = found.getsockname()[1]
        self._log = (place / "log").open("ab")
        options = ["--models", "models", "--port", str(self.port), "--lease", "600"]  # a held worker says nothing
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "server.py"), *options],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=self._log,
            stderr=self._log,
        )
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def first_answer(self, path: str) -> bytes:
        """What it answers first, asked until it does."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return self.ask("GET", path)
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the service did not start") from None
                time.sleep(0.005)

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of an answer. Raises ``SystemExit`` for any status but 200, ``OSError`` where nobody listens."""
        try:
            self._connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = self._connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise OSError(str(error)) from error
        if answer.status != 200:
            raise SystemExit(f"expected 200 from {method} {path}, found {answer.status}: {data[:300]!r}")
        return data

    def submit(self, prompt: dict[str, Any], client: str | None = None) -> str:
        """The id of the job."""
        return self.post(body_of(prompt, client))

    def post(self, body: bytes) -> str:
        job: str = json.loads(self.ask("POST", "/prompt", body))["prompt_id"]
        return job

    def await_history(self, job: str) -> dict[str, Any]:
        """The job's entry, once it has ended well; asked for every millisecond."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            found = json.loads(self.ask("GET", f"/history/{job}"))
            if job in found:
                entry: dict[str, Any] = found[job]
                if entry["status"]["status_str"] != "success":
                    raise SystemExit(f"job {job} failed: {entry['status']}")
                return entry
            time.sleep(0.001)
        raise SystemExit(f"job {job} did not end")

    def await_idle(self) -> None:
        """Until nothing waits or runs."""
        deadline = time.monotonic() + _PATIENCE
        while json.loads(self.ask("GET", "/prompt"))["exec_info"]["queue_remaining"]:
            if time.monotonic() > deadline:
                raise SystemExit("the queue does not empty")
            time.sleep(0.005)

    # from outside

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def worker(self) -> int:
        """The process of its one worker."""
        children = [
            int(child)
            for thread in Path(f"/proc/{self.pid}/task").iterdir()
            for child in (thread / "children").read_text().split()
        ]
        if len(children) != 1:
            raise SystemExit(f"expected one worker, found processes {children}")
        return children[0]

    @contextmanager
    def held(self) -> Iterator[None]:
        """The worker stands still meanwhile: what it was given last does not end, and all else waits."""
        worker = self.worker
        os.kill(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(worker, signal.SIGCONT)


def body_of(prompt: dict[str, Any], client: str | None = None) -> bytes:
    """What is posted to ``/prompt``."""
    return json.dumps({"prompt": prompt, **({"client_id": client} if client else {})}).encode()


def resident_mb(pid: int) -> float:
    """Memory of a process, in MB of 2**20 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"process {pid} is gone")


def chain(length: int, *, first: int = 0, last: int = 0) -> dict[str, Any]:
    """API JSON of ``length`` nodes in a row: a number, kept within bounds again and again, and shown.

    ``first`` is an input of the first node, ``last`` of the one before the output.
    """
    prompt: dict[str, Any] = {"0": {"class_type": "PrimitiveInt", "inputs": {"value": first}}}
    for index in range(1, length - 1):
        minimum = last if index == length - 2 else 0
        inputs = {"value": [str(index - 1), 0], "minimum": minimum, "maximum": 2**53}
        prompt[str(index)] = {"class_type": "Clamp", "inputs": inputs}
    prompt[str(length - 1)] = {"class_type": "PreviewAny", "inputs": {"source": [str(length - 2), 0]}}
    return prompt


def unused() -> int:
    """A number that no chain began with before."""
    return uuid.uuid4().int >> 80
