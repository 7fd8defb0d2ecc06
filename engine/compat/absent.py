"""Modules of ComfyUI's that packs import for one use among many: they can be imported here, so that the rest of a pack works.

There is nothing in them but classes to name in an annotation or to ask ``isinstance`` about, to which no value here belongs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ABSENT: Final[Mapping[str, frozenset[str]]] = {
    "comfy.clip_vision": frozenset({"ClipVisionModel", "Output"}),
    "comfy.conds": frozenset(),
    "comfy.controlnet": frozenset({"ControlBase", "ControlLora", "ControlNet", "T2IAdapter"}),
    "comfy.diffusers_convert": frozenset(),
    "comfy.diffusers_load": frozenset(),
    "comfy.gligen": frozenset(),
    "comfy.hooks": frozenset({"Hook", "HookGroup", "HookKeyframeGroup"}),
    "comfy.latent_formats": frozenset({"LatentFormat"}),
    "comfy.lora": frozenset(),
    "comfy.model_base": frozenset({"BaseModel", "Flux", "SD3", "SDXL", "SDXLRefiner"}),
    "comfy.model_detection": frozenset(),
    "comfy.model_patcher": frozenset({"ModelPatcher"}),
    "comfy.model_sampling": frozenset(),
    "comfy.ops": frozenset(),
    "comfy.patcher_extension": frozenset(),
    "comfy.sampler_helpers": frozenset(),
    "comfy.sd": frozenset({"CLIP", "VAE"}),
    "comfy.sd1_clip": frozenset(
        {"ClipTokenWeightEncoder", "SD1ClipModel", "SD1Tokenizer", "SDClipModel", "SDTokenizer"}
    ),
    "comfy.sdxl_clip": frozenset({"SDXLClipG", "SDXLClipModel", "SDXLRefinerClipModel", "SDXLTokenizer"}),
    "comfy.supported_models": frozenset(),
    "comfy_extras.chainner_models": frozenset(),
    "comfy_extras.nodes_custom_sampler": frozenset({"Noise_EmptyNoise", "Noise_RandomNoise"}),
    "comfy_extras.nodes_upscale_model": frozenset({"ImageUpscaleWithModel", "UpscaleModelLoader"}),
    "execution": frozenset({"PromptExecutor", "PromptQueue"}),
}
"""The classes of each. Core node types are found in those of ``comfy_extras`` too."""
