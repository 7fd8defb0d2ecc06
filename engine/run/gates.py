"""How many calls of one async node may be under way at once: a service with a limit of its own stands behind many of them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextlib import AbstractAsyncContextManager
from weakref import WeakKeyDictionary

from engine.spec import NodeSpec


class Gates:
    """One gate for each limited node type of a process, shared by all its runs on one event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Semaphore]] = WeakKeyDictionary()

    def of(self, spec: NodeSpec) -> AbstractAsyncContextManager[None]:
        """To be entered around each call of ``spec``; waits while its limit is reached."""
        if spec.concurrency is None:
            return contextlib.nullcontext()
        with self._lock:
            gates = self._gates.setdefault(asyncio.get_running_loop(), {})
            return gates.setdefault(spec.type, asyncio.Semaphore(spec.concurrency))
