"""What a service is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from engine.places import Places
from engine.run.settings import DeviceSettings

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What a client may ask for at most."""

    body: int = 100 * 2**20
    """Bytes of a request, and of an uploaded file."""
    pixels: int = 16384 * 16384
    """Of an uploaded picture."""
    nodes: int = 100_000
    """Of a workflow."""
    queue: int = 20_000
    """Jobs of one client that wait; ten times as many may of all clients together."""
    sockets: int = 2_000
    """Websockets open at once."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a worker may take, in seconds."""

    node: float = 3600.0
    """Without a sign of life of the run, while a pack's node is at work."""
    grace: float = 10.0
    """To stop when a job is cancelled; then its process is ended."""
    lease: float = 60.0
    """Without a sign of life of the process."""
    shutdown: float = 20.0
    """To put the running jobs back into the queue when the service is told to end."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long jobs that have ended are remembered."""

    count: int = 10_000
    days: float = 30.0


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Everything a service is told at its start."""

    host: str = "127.0.0.1"
    port: int = 8188
    places: Places = field(default_factory=Places)
    device: DeviceSettings = field(default_factory=DeviceSettings)
    devices: tuple[str, ...] = ()
    """Devices beyond ``device``, a worker for each."""
    token_file: Path | None = None
    allow_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed."""
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    patience: Patience = field(default_factory=Patience)
    retention: Retention = field(default_factory=Retention)
    log_format: str = "text"
    """``"text"`` or ``"json"``."""
    log_level: str = "info"

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine can connect."""
        return self.host in LOOPBACK

    @property
    def user_folder(self) -> Path:
        """Where an editor's settings and saved workflows are."""
        return self.places.state / "user"
