"""What the package controlnet_aux brings: its networks, and the detectors around them.

Importing any part of it imports all of its detectors, which takes seconds and says much. So it happens inside a running preprocessor,
and what the package and those beneath it warn of then is left out. Its ``Processor`` is never used: it changes what the module knows.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Final

_TALKATIVE: Final = (r"controlnet_aux", r"timm\.", r"torch\.jit", r"geffnet")
"""Modules, by how their names begin, whose warnings say of the package what a user can do nothing about."""

_once = threading.Lock()


def package(name: str) -> ModuleType:
    """The module ``controlnet_aux.<name>``."""
    with _once, _undisturbed(), quiet():
        return importlib.import_module(f"controlnet_aux.{name}")


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """What importing the package does to the process is taken back.

    It sets a variable of OpenMP's, and it does not import at all beside a mediapipe that is newer than it knows, which nothing here uses.
    """
    variable, other = "KMP_DUPLICATE_LIB_OK", "mediapipe"
    before, there = os.environ.get(variable), sys.modules.get(other)
    if "controlnet_aux" not in sys.modules:
        sys.modules[other] = None  # type: ignore[assignment]  # that is how an import is made to fail
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(variable, None)
        if sys.modules.get(other, other) is None:
            del sys.modules[other]
        if there is not None:
            sys.modules[other] = there


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the package's warnings, and without what it prints."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        for module in _TALKATIVE:
            warnings.filterwarnings("ignore", module=module)
        yield
