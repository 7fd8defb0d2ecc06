"""``comfy_api``: the typed way to write node packs."""

from engine.compat.missing import module_getattr

__getattr__ = module_getattr(__name__)
