"""Where a worker answers the HTTP routes of its packs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

SECRET_HEADER: Final = "X-Mezzotint-Worker"


@dataclass(frozen=True, slots=True)
class WebAddress:
    """A Unix socket in a folder that only this user may enter; or, where there are none, a port of this machine and a secret."""

    socket: str | None = None
    """The path of the socket."""
    port: int = 0
    secret: str = ""
    """To be sent in ``SECRET_HEADER``: anybody on this machine can reach a port."""

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> WebAddress:
        return cls(**plain)

    def remove(self) -> None:
        """Remove the socket and its folder, if they are there: a process that was killed leaves them."""
        if self.socket is None:
            return
        with contextlib.suppress(OSError):
            Path(self.socket).unlink(missing_ok=True)
            Path(self.socket).parent.rmdir()
