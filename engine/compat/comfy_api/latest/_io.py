"""``comfy_api.latest.io``: what a node class with a schema is made of."""

from __future__ import annotations

from engine.compat.comfy_api.latest._node import ComfyNode as ComfyNode
from engine.compat.comfy_api.latest._node import HiddenHolder as HiddenHolder
from engine.compat.comfy_api.latest._node import NodeOutput as NodeOutput
from engine.compat.comfy_api.latest._schema import Hidden as Hidden
from engine.compat.comfy_api.latest._schema import Schema as Schema
from engine.compat.comfy_api.latest._types import PLAIN_TYPES
from engine.compat.comfy_api.latest._types import Autogrow as Autogrow
from engine.compat.comfy_api.latest._types import Boolean as Boolean
from engine.compat.comfy_api.latest._types import Combo as Combo
from engine.compat.comfy_api.latest._types import ComfyTypeIO as ComfyTypeIO
from engine.compat.comfy_api.latest._types import ControlAfterGenerate as ControlAfterGenerate
from engine.compat.comfy_api.latest._types import Custom as Custom
from engine.compat.comfy_api.latest._types import DynamicCombo as DynamicCombo
from engine.compat.comfy_api.latest._types import DynamicSlot as DynamicSlot
from engine.compat.comfy_api.latest._types import Float as Float
from engine.compat.comfy_api.latest._types import FolderType as FolderType
from engine.compat.comfy_api.latest._types import Input as Input
from engine.compat.comfy_api.latest._types import Int as Int
from engine.compat.comfy_api.latest._types import MatchType as MatchType
from engine.compat.comfy_api.latest._types import MultiCombo as MultiCombo
from engine.compat.comfy_api.latest._types import MultiType as MultiType
from engine.compat.comfy_api.latest._types import NumberDisplay as NumberDisplay
from engine.compat.comfy_api.latest._types import Output as Output
from engine.compat.comfy_api.latest._types import RemoteOptions as RemoteOptions
from engine.compat.comfy_api.latest._types import String as String
from engine.compat.comfy_api.latest._types import UploadType as UploadType
from engine.compat.comfy_api.latest._types import WidgetInput as WidgetInput
from engine.compat.comfy_api.latest._types import comfytype as comfytype
from engine.compat.missing import module_getattr

globals().update(PLAIN_TYPES)
__getattr__ = module_getattr(__name__)
