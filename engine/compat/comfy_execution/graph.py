"""``comfy_execution.graph``."""

from __future__ import annotations

from engine.compat.comfy_execution.graph_utils import ExecutionBlocker as ExecutionBlocker
from engine.compat.comfy_execution.graph_utils import is_link as is_link
from engine.compat.missing import module_getattr

__getattr__ = module_getattr(__name__)
