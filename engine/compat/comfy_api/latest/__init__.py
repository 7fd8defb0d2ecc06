"""``comfy_api.latest``."""

from __future__ import annotations

from engine.compat.comfy_api import input as Input  # noqa: N812  (packs know it by this name)
from engine.compat.comfy_api import input_impl as InputImpl  # noqa: N812
from engine.compat.comfy_api import util as Types  # noqa: N812
from engine.compat.comfy_api.latest import _io as IO  # noqa: N812
from engine.compat.comfy_api.latest import _io as io
from engine.compat.comfy_api.latest import _ui as UI  # noqa: N812
from engine.compat.comfy_api.latest import _ui as ui
from engine.compat.comfy_api.latest._api import ComfyAPI as ComfyAPI
from engine.compat.comfy_api.latest._api import ComfyAPISync as ComfyAPISync
from engine.compat.comfy_api.latest._api import ComfyExtension as ComfyExtension
from engine.compat.missing import module_getattr

__all__ = ["IO", "UI", "ComfyAPI", "ComfyAPISync", "ComfyExtension", "Input", "InputImpl", "Types", "io", "ui"]

__getattr__ = module_getattr(__name__)
