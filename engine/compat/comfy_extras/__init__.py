"""``comfy_extras``: there so that what is missing below it is said to be; its nodes are in ``nodes.NODE_CLASS_MAPPINGS``."""

from engine.compat.missing import module_getattr

__getattr__ = module_getattr(__name__)
