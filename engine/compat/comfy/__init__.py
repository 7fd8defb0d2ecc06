"""``comfy``: the modules packs use most, as far as this engine has what they are about."""

from engine.compat.missing import module_getattr

__getattr__ = module_getattr(__name__)
