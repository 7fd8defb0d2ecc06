"""What travels on the sockets that carry tensors, as far as it can be told at a glance: ``engine.types.SOCKETS`` in code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from engine.models import Recipe

if TYPE_CHECKING:
    from engine.types import ValueCheck


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of a tensor or array, None for anything else."""
    shape = getattr(value, "shape", None)
    return tuple(shape) if shape is not None and hasattr(value, "dtype") else None


def _found(value: Any) -> str:
    shape = _shape(value)
    if shape is None:
        return f"found a {type(value).__name__}"
    return f"found {str(value.dtype).removeprefix('torch.')} of shape {list(shape)}"


def _is_tensor(value: Any, *dims: int) -> bool:
    shape = _shape(value)
    return shape is not None and len(shape) in dims


def _image(value: Any) -> str | None:
    if _is_tensor(value, 4) and "float" in str(value.dtype):
        return None
    return f"float32 [B,H,W,C] in 0..1, {_found(value)}"


def _mask(value: Any) -> str | None:
    return None if _is_tensor(value, 2, 3, 4) else f"float32 [B,H,W] in 0..1, {_found(value)}"


def _latent(value: Any) -> str | None:
    if isinstance(value, Mapping) and _shape(value.get("samples")) is not None:
        return None
    return f"a dict with a tensor named samples, {_found(value)}"


def _conditioning(value: Any) -> str | None:
    pairs = isinstance(value, list | tuple) and all(isinstance(item, list | tuple) and len(item) == 2 for item in value)
    return None if pairs else f"a list of [tensor, dict], {_found(value)}"


def _vision(value: Any) -> str | None:
    if isinstance(value, Mapping) and _shape(value.get("image_embeds")) is not None:
        return None
    return f"a dict with a tensor named image_embeds, {_found(value)}"


def _recipe(kind: str) -> ValueCheck:
    def check(value: Any) -> str | None:
        if isinstance(value, Recipe) and value.kind == kind:
            return None
        return f"a recipe of a {kind.replace('_', ' ')}, {_found(value)}"

    return check


def _sigmas(value: Any) -> str | None:
    return None if _is_tensor(value, 1) else f"float32 [steps+1], {_found(value)}"


def _range(value: Any) -> str | None:
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(item, int | float) for item in value)
    return None if pair else f"a pair of numbers, {_found(value)}"


CHECKS: Final[Mapping[str, ValueCheck]] = {
    "IMAGE": _image,
    "MASK": _mask,
    "LATENT": _latent,
    "CONDITIONING": _conditioning,
    "SIGMAS": _sigmas,
    "CLIP_VISION_OUTPUT": _vision,
    "SAMPLER": _recipe("sampler"),
    "NOISE": _recipe("noise"),
    "GUIDER": _recipe("guider"),
    "LATENT_OPERATION": _recipe("latent_operation"),
    "HOOKS": _recipe("hooks"),
    "HOOK_KEYFRAMES": _recipe("hook_keyframes"),
    "TIMESTEPS_RANGE": _range,
    "IPADAPTER": _recipe("ip_adapter"),
}
