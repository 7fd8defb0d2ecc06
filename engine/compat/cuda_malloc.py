"""``cuda_malloc``: how torch allocates is left as it is; packs ask whether it could be changed."""

from __future__ import annotations

from engine.compat.missing import module_getattr


def cuda_malloc_supported() -> bool:
    return False


__getattr__ = module_getattr(__name__)
