"""Socket types: the names that decide which output may feed which input.

A type is a name (``"MODEL"``, ``"LATENT"``, ``"INT"``); a comma list is a union (``"IMAGE,MASK"``); ``"*"`` is anything. Names are
ComfyUI's. What travels on a link of a type is said in ``SOCKETS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NewType

SocketType = NewType("SocketType", str)

ANY: Final = SocketType("*")
INT: Final = SocketType("INT")
FLOAT: Final = SocketType("FLOAT")
STRING: Final = SocketType("STRING")
BOOLEAN: Final = SocketType("BOOLEAN")
COMBO: Final = SocketType("COMBO")

WIDGETS: Final = frozenset({INT, FLOAT, STRING, BOOLEAN, COMBO})
"""Types whose value a person can type in; all other types only ever come over a link."""

SOCKETS: Final[dict[str, str]] = {
    "IMAGE": "float32 [B,H,W,C], 0..1",
    "MASK": "float32 [B,H,W], 1 = masked",
    "LATENT": "dict: samples [B,C,h,w] in unscaled VAE space; noise_mask [B,1,H,W]?; batch_index list?",
    "CONDITIONING": "list of [tensor [B,T,D], dict]",
    "MODEL": "ModelRef, part unet",
    "CLIP": "ModelRef, part clip",
    "VAE": "ModelRef, part vae",
    "CLIP_VISION": "ModelRef, part clip_vision",
    "UPSCALE_MODEL": "ModelRef, part upscaler",
    "FACERESTORE_MODEL": "ModelRef, part upscaler",
    "CLIP_VISION_OUTPUT": "dict of float32: image_embeds [B,P], last_hidden_state [B,T,D], penultimate_hidden_states [B,T,D]",
    "CONTROL_NET": "ModelRef, part control",
    "STITCHER": "dict: crops of pictures and where they belong, as nodes.diffusion.stitching packs them",
    "STITCH": "as STITCHER, of InpaintCrop",
    "GLIGEN": "ModelRef, part gligen",
    "STYLE_MODEL": "ModelRef, part style_model",
    "PHOTOMAKER": "ModelRef, part photomaker",
    "SIGMAS": "float32 [n+1], mostly falling to 0",
    "SAMPLER": "Recipe, kind sampler",
    "NOISE": "Recipe, kind noise",
    "GUIDER": "Recipe, kind guider",
    "LATENT_OPERATION": "Recipe, kind latent_operation",
    "HOOKS": "Recipe, kind hooks",
    "HOOK_KEYFRAMES": "Recipe, kind hook_keyframes",
    "TIMESTEPS_RANGE": "(start, end), shares 0..1 of the sampling",
    "FLOATS": "float, or list of float",
    "IPADAPTER": "Recipe, kind ip_adapter: a file, and a CLIP vision model or None",
    "SVG": "text or bytes of an SVG document, or a list of these",
    "EMBEDS": "float32 [n,D] or [n,T,D]: what CLIP sees in pictures, as an IP-Adapter reads it",
}


@lru_cache(maxsize=4096)
def members(type_: str) -> frozenset[str]:
    """The single names of a type: ``"IMAGE,MASK"`` has two."""
    return frozenset(part.strip() for part in type_.split(","))


def accepts(wanted: str, offered: str) -> bool:
    """Whether an output of type ``offered`` may feed an input of type ``wanted``."""
    if ANY in (wanted, offered) or wanted == offered:
        return True
    return not members(wanted).isdisjoint(members(offered))


ValueCheck = Callable[[Any], str | None]
"""Says of a value that a socket of some type brings what was expected and found, or None where it will do."""


def _number(word: str, method: str) -> ValueCheck:
    return lambda value: None if hasattr(type(value), method) else f"{word}, found a {type(value).__name__}"


VALUE_CHECKS: Final[Mapping[str, ValueCheck]] = {
    INT: _number("a whole number", "__int__"),
    FLOAT: _number("a number", "__float__"),
    BOOLEAN: lambda value: "true or false, found None" if value is None else None,
    STRING: lambda value: None if isinstance(value, str) else f"a text, found a {type(value).__name__}",
}
"""Checks of the types that can be typed in. They ask for what a consumer can use, as Python does, and no more."""
