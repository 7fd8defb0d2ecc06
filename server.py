"""The front door of the service: ``python server.py`` is ``mezzotint serve``.

Node packs look here for ``PromptServer``, which is served to them alone.
"""

from __future__ import annotations

import sys
from typing import Any


def __getattr__(name: str) -> Any:
    if name not in ("PromptServer", "BinaryEventTypes"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    from engine.compat import prompt_server

    return getattr(prompt_server, name)


if __name__ == "__main__":
    from engine.cli import main

    sys.argv[1:1] = ["serve"]
    main()
