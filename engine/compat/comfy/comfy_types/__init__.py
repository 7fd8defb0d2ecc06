"""``comfy.comfy_types``: types for node classes and the functions around models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypedDict

from engine.compat.comfy.comfy_types.node_typing import IO as IO
from engine.compat.comfy.comfy_types.node_typing import CheckLazyMixin as CheckLazyMixin
from engine.compat.comfy.comfy_types.node_typing import ComfyNodeABC as ComfyNodeABC
from engine.compat.comfy.comfy_types.node_typing import FileLocator as FileLocator
from engine.compat.comfy.comfy_types.node_typing import InputTypeDict as InputTypeDict
from engine.compat.comfy.comfy_types.node_typing import InputTypeOptions as InputTypeOptions
from engine.compat.missing import module_getattr


class UnetApplyFunction(Protocol):
    """Evaluates a model."""

    def __call__(self, x: Any, t: Any, **kwargs: Any) -> Any: ...


class UnetParams(TypedDict):
    """What a wrapper of a model's evaluation is given."""

    input: Any
    timestep: Any
    c: dict[str, Any]
    cond_or_uncond: list[int]


UnetWrapperFunction = Callable[[UnetApplyFunction, UnetParams], Any]

__getattr__ = module_getattr(__name__)
