"""``comfy_api.v0_0_2``: the same as ``latest``, which it is a state of."""

from __future__ import annotations

from engine.compat.comfy_api.latest import IO as IO
from engine.compat.comfy_api.latest import UI as UI
from engine.compat.comfy_api.latest import ComfyAPI as ComfyAPI
from engine.compat.comfy_api.latest import ComfyAPISync as ComfyAPISync
from engine.compat.comfy_api.latest import ComfyExtension as ComfyExtension
from engine.compat.comfy_api.latest import Input as Input
from engine.compat.comfy_api.latest import InputImpl as InputImpl
from engine.compat.comfy_api.latest import Types as Types
from engine.compat.comfy_api.latest import io as io
from engine.compat.comfy_api.latest import ui as ui
from engine.compat.missing import module_getattr

ComfyAPIAdapter_v0_0_2 = ComfyAPI

__getattr__ = module_getattr(__name__)
