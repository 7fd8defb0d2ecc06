"""``comfy_execution``: what packs build subgraphs with."""

from engine.compat.missing import module_getattr

__getattr__ = module_getattr(__name__)
