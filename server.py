"""The front door of the service. Node packs look here for ``PromptServer``, which is served to them alone."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name not in ("PromptServer", "BinaryEventTypes"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    from engine.compat import prompt_server

    return getattr(prompt_server, name)
