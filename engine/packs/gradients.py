"""Packs run without gradients, and leave the setting as it was."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractContextManager, nullcontext
from typing import Any


def no_gradients() -> AbstractContextManager[Any]:
    """Packs count on it that torch, if it is there, computes none."""
    torch = sys.modules.get("torch")
    return nullcontext() if torch is None else torch.no_grad()


@types.coroutine
def without_gradients(coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Await ``coroutine`` with gradients off while it runs, and as they were while it waits: the setting is its thread's, and others
    run on that in the meantime."""
    step: Callable[[Any], Any] = coroutine.send
    argument: Any = None
    while True:
        try:
            with no_gradients():
                waited = step(argument)
        except StopIteration as done:
            return done.value
        try:
            argument, step = (yield waited), coroutine.send
        except BaseException as error:
            argument, step = error, coroutine.throw
