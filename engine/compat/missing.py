"""What packs ask for and this engine has not: one way to say so, and one place that users are sent to."""

from __future__ import annotations

import importlib
import importlib.util
import opcode
import sys
from collections.abc import Callable
from functools import cache
from types import FrameType
from typing import Any, Final, NoReturn

from engine.compat.absent import ABSENT
from engine.errors import MezzotintError

PREFIX: Final = "engine.compat."
_IMPORT_FROM: Final = opcode.opmap["IMPORT_FROM"]


class NotProvidedError(MezzotintError, NotImplementedError):
    """A pack used something that looks like ComfyUI's here but cannot do that."""


def public_name(module: str) -> str:
    """The name under which packs know a module of this package."""
    return module.removeprefix(PREFIX)


def message(what: str) -> str:
    return f"Mezzotint does not provide {what}; docs/packs.md says what node packs find here and what to use instead"


def refuse(module: str, name: str, caller: FrameType | None) -> NoReturn:
    """Raise what a module's ``__getattr__`` must for an unknown ``name``.

    That is AttributeError, so that ``hasattr`` and ``getattr`` with a default work; but ImportError where the caller is at a
    ``from module import name``, for there Python would put a text of its own in the place of ours.
    """
    text = message(f"{name} of {public_name(module)}")
    if caller is not None and caller.f_code.co_code[caller.f_lasti] == _IMPORT_FROM:
        raise ImportError(text, name=public_name(module))
    raise AttributeError(text, name=name)


def module_getattr(module: str, **computed: Callable[[], Any]) -> Callable[[str], Any]:
    """A ``__getattr__`` for ``module``: ``computed`` names have a value made anew each time, a package finds its submodules, and
    for all others it is said that they are missing."""

    def lookup(name: str) -> Any:
        if name in computed:
            return computed[name]()
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}", name=name)
        if hasattr(sys.modules[module], "__path__") and importlib.util.find_spec(f"{module}.{name}") is not None:
            return importlib.import_module(f"{module}.{name}")
        if f"{public_name(module)}.{name}" in ABSENT:
            return importlib.import_module(f"{public_name(module)}.{name}")
        return refuse(module, name, sys._getframe(1))

    return lookup


@cache
def absent_class(module: str, name: str) -> type:
    """A class to name and to ask about; to make one is an error."""

    def init(self: Any, *_: Any, **__: Any) -> None:
        raise NotProvidedError(message(f"{name} of {module}"))

    return type(name, (), {"__module__": module, "__init__": init})


def absent_getattr(module: str) -> Callable[[str], Any]:
    """A ``__getattr__`` for a module there is nothing in."""

    def lookup(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}", name=name)
        if module.startswith("comfy_extras."):
            from engine.compat.core_nodes import NODE_CLASS_MAPPINGS

            if name in NODE_CLASS_MAPPINGS:
                return NODE_CLASS_MAPPINGS[name]
        if name in ABSENT[module]:
            return absent_class(module, name)
        return refuse(module, name, sys._getframe(1))

    return lookup
