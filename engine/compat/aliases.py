"""ComfyUI's module names, leading to the modules of this package.

A pack says ``import comfy.utils`` and gets ``engine.compat.comfy.utils``: the one module object, under both names. ``nodes`` and
``server`` need no alias, they are top-level modules of ours.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

from engine.compat.absent import ABSENT
from engine.compat.missing import PREFIX, absent_getattr, message

ROOTS: Final = frozenset(
    {
        "comfy",
        "comfy_api",
        "comfy_api_nodes",
        "comfy_config",
        "comfy_execution",
        "comfy_extras",
        "comfyui_version",
        "cuda_malloc",
        "execution",
        "folder_paths",
        "latent_preview",
        "node_helpers",
    }
)
"""Top-level names that are ComfyUI's: nothing else on the path is found under them."""


class _AliasLoader(Loader):
    """Gives the module that is behind a name, and leaves it as it is."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._target)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module ran under its own name; the machinery has since given it the alias's spec, which is taken back."""
        module.__spec__ = self._spec


class _AbsentLoader(Loader):
    """Makes a module with nothing in it, that says so."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__doc__ = message(f"the content of {module.__name__}")
        module.__getattr__ = absent_getattr(module.__name__)  # type: ignore[method-assign]


class AliasFinder(MetaPathFinder):
    """Finds what is below ``ROOTS`` in this package and nowhere else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raises ModuleNotFoundError for a module of ComfyUI's that is not provided."""
        if fullname.partition(".")[0] not in ROOTS:
            return None
        if fullname in ABSENT:
            return ModuleSpec(fullname, _AbsentLoader())
        real = importlib.util.find_spec(PREFIX + fullname)
        if real is None:
            raise ModuleNotFoundError(message(f"the module {fullname}"), name=fullname)
        return ModuleSpec(fullname, _AliasLoader(PREFIX + fullname), origin=real.origin)


def place_modules(base: str) -> None:
    """Let the modules lie in ``base`` for packs that look for the installation beside them and put files of their own there."""
    for name in ("folder_paths", "prompt_server"):
        importlib.import_module(PREFIX + name).__file__ = os.path.join(base, f"{name}.py")


def install_aliases() -> None:
    """Let packs of this process import by ComfyUI's names. More than one call makes no difference."""
    if not any(isinstance(finder, AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, AliasFinder())  # before the finder of files, which would run a submodule a second time
