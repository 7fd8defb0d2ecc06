"""Models into files."""

from __future__ import annotations

from typing import Final

from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.run.results import OutputFile, Outputs
from engine.spec import node
from nodes import diffusion
from nodes.sockets import Clip, Model, Vae

_CATEGORY: Final = "advanced/model_merging"
_HIDDEN: Final = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}


def _saved(data: bytes, prefix: str) -> Outputs:
    return Outputs(files=(OutputFile(data, prefix, "safetensors", ui="models"),))


def _alone(ctx: NodeContext, ref: ModelRef) -> bytes:
    return diffusion.saving.checkpoint([ref], ctx.progress)


@node("CheckpointSave", title="Save Checkpoint", category=_CATEGORY, output_node=True, lasting=False, hidden=_HIDDEN)
def checkpoint_save(
    ctx: NodeContext, model: Model, clip: Clip, vae: Vae, filename_prefix: str = "checkpoints/ComfyUI"
) -> Outputs:
    """Write a model, its text encoder and its VAE into one file in the output folder, with whatever patches they have."""
    return _saved(diffusion.saving.checkpoint([model, clip, vae], ctx.progress), filename_prefix)


@node("ModelSave", category=_CATEGORY, output_node=True, lasting=False, hidden=_HIDDEN)
def model_save(ctx: NodeContext, model: Model, filename_prefix: str = "diffusion_models/ComfyUI") -> Outputs:
    """Write a model without text encoder and VAE into the output folder, for UNETLoader."""
    return _saved(_alone(ctx, model), filename_prefix)


@node("CLIPSave", category=_CATEGORY, output_node=True, lasting=False, hidden=_HIDDEN)
def clip_save(ctx: NodeContext, clip: Clip, filename_prefix: str = "clip/ComfyUI") -> Outputs:
    """Write text encoders into the output folder, a file each, for CLIPLoader and DualCLIPLoader; names end in _clip_l and the like."""
    files = diffusion.saving.text_encoders(clip, ctx.progress)
    return Outputs(
        files=tuple(
            OutputFile(data, f"{filename_prefix}_{name}", "safetensors", ui="models") for name, data in files.items()
        )
    )


@node("VAESave", category=_CATEGORY, output_node=True, lasting=False, hidden=_HIDDEN)
def vae_save(ctx: NodeContext, vae: Vae, filename_prefix: str = "vae/ComfyUI_vae") -> Outputs:
    """Write a VAE into the output folder, for VAELoader."""
    return _saved(_alone(ctx, vae), filename_prefix)
