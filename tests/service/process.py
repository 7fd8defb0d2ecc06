"""A service in a process of its own, to be killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class ServiceProcess:
    """``python server.py`` over the folders below ``place``."""

    def __init__(self, place: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.place = place
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._options: Sequence[str] = options
        self._environment = {**os.environ, "MEZZOTINT_CHECKPOINT_SECONDS": "0.3", **(environment or {})}
        self._log: IO[bytes] = (place / "log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        command = [sys.executable, str(ROOT / "server.py"), "--port", str(self.port), "--models", str(ROOT / "models")]
        self._process = subprocess.Popen(
            [*command, *self._options], cwd=self.place, env=self._environment, stdout=self._log, stderr=self._log
        )
        deadline = time.monotonic() + 60
        while wait:
            try:
                with urllib.request.urlopen(f"{self.url}/healthz", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.place / "log").read_text()) from None
                time.sleep(0.05)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """As by ``kill -9``."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """As by the system that ends: returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self._log.close()
