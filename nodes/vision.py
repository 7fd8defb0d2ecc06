"""CLIP's view of pictures, and what is done with it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from engine.fileref import FileRef
from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.spec import Estimate, FileChoice, Output, Range, node
from nodes import diffusion
from nodes.loaders import file_size, opened, part_of
from nodes.sockets import ClipVision, ClipVisionOutput, Conditioning, Image


def _vision_estimate(clip_name: FileRef | None) -> Estimate:
    return Estimate(model_bytes=file_size(clip_name.path) if clip_name else 0)


@node(
    "CLIPVisionLoader",
    title="Load CLIP Vision",
    category="loaders",
    outputs=[Output("CLIP_VISION")],
    estimate=_vision_estimate,
)
def clip_vision_loader(clip_name: Annotated[FileRef, FileChoice("clip_vision")]) -> ModelRef:
    """CLIP's image encoder, of a file of its own or beside the text encoder."""
    opened(clip_name, "clip_vision")
    return part_of(clip_name, "clip_vision")


@node("CLIPVisionEncode", title="CLIP Vision Encode", category="conditioning", outputs=[Output("CLIP_VISION_OUTPUT")])
def clip_vision_encode(
    ctx: NodeContext, clip_vision: ClipVision, image: Image, crop: Literal["center", "none"]
) -> dict[str, Any]:
    """What CLIP sees in pictures: in the middle square of each, or in all of it, squeezed into a square."""
    with ctx.models.lease(clip_vision) as loaded:
        return dict(diffusion.vision.encode(image, loaded, crop))


def _checkpoint_estimate(ckpt_name: FileRef | None) -> Estimate:
    return Estimate(model_bytes=file_size(ckpt_name.path) if ckpt_name else 0)


@node(
    "unCLIPCheckpointLoader",
    category="loaders",
    outputs=[Output("MODEL"), Output("CLIP"), Output("VAE"), Output("CLIP_VISION")],
    estimate=_checkpoint_estimate,
)
def unclip_checkpoint_loader(
    ckpt_name: Annotated[FileRef, FileChoice("checkpoints")],
) -> tuple[ModelRef, ModelRef, ModelRef, ModelRef]:
    """The parts of an unCLIP checkpoint. Where it lacks one, only who uses that is told."""
    opened(ckpt_name, "unet")
    return (
        part_of(ckpt_name, "unet"),
        part_of(ckpt_name, "clip"),
        part_of(ckpt_name, "vae"),
        part_of(ckpt_name, "clip_vision"),
    )


@node("unCLIPConditioning", category="conditioning", outputs=[Output("CONDITIONING")])
def unclip_conditioning(
    *,
    conditioning: Conditioning,
    clip_vision_output: ClipVisionOutput,
    strength: Annotated[float, Range(-10.0, 10.0, step=0.01)] = 1.0,
    noise_augmentation: Annotated[float, Range(0.0, 1.0, step=0.01)] = 0.0,
) -> list[Any]:
    """A picture beside the text, for unCLIP models. The more noise it is given, the less closely it is followed."""
    if strength == 0:
        return conditioning
    told = {
        "clip_vision_output": clip_vision_output,
        "strength": strength,
        "noise_augmentation": noise_augmentation,
    }
    return diffusion.entries.with_more(conditioning, diffusion.unclip.OPTION, told)
