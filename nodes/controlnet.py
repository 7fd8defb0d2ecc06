"""ControlNets and T2I-Adapters: pictures that a model follows."""

from __future__ import annotations

from typing import Annotated, Any, Final

from engine.fileref import FileRef
from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.spec import Choices, Estimate, FileChoice, Output, Range, node
from nodes import diffusion
from nodes.loaders import file_size, opened, part_of
from nodes.sockets import Conditioning, ControlNet, Image, Mask, Model, Vae
from nodes.widgets import Percent

CATEGORY = "conditioning/controlnet"
Strength = Annotated[float, Range(0.0, 10.0, step=0.01)]
NetFile = Annotated[FileRef, FileChoice("controlnet")]
Sides = tuple[list[Any], list[Any]]

_TYPES: Final = (
    "auto", "openpose", "depth", "hed/pidi/scribble/ted", "canny/lineart/anime_lineart/mlsd", "normal", "segment", "tile",
    "repaint",
)  # fmt: skip

_NET = [Output("CONTROL_NET")]
_SIDES = [Output("CONDITIONING", "positive"), Output("CONDITIONING", "negative")]


def _estimate(control_net_name: FileRef | None) -> Estimate:
    return Estimate(model_bytes=file_size(control_net_name.path) if control_net_name else 0)


@node("ControlNetLoader", title="Load ControlNet Model", category="loaders", outputs=_NET, estimate=_estimate)
def control_net_loader(control_net_name: NetFile) -> ModelRef:
    """A ControlNet, a control-LoRA or a T2I-Adapter."""
    return diffusion.control.net(opened(control_net_name, "control"), part_of(control_net_name, "control"))


@node(
    "DiffControlNetLoader", title="Load ControlNet Model (diff)", category="loaders", outputs=_NET, estimate=_estimate
)
def diff_control_net_loader(model: Model, control_net_name: NetFile) -> ModelRef:
    """A ControlNet that is told as a difference to a model, added to this one. Whole ones are loaded as they are."""
    return diffusion.control.net(opened(control_net_name, "control"), part_of(control_net_name, "control"), model)


@node("SetUnionControlNetType", category=CATEGORY, outputs=_NET)
def set_union_control_net_type(
    ctx: NodeContext,
    *,
    control_net: ControlNet,
    type: Annotated[str, Choices(_TYPES)],
) -> ModelRef:
    """Which kind of picture a union ControlNet is given. On auto it is not told."""
    if not diffusion.control.is_union(control_net):
        ctx.warn("this ControlNet is made for one kind of picture alone; its type is left out of account")
        return control_net
    return diffusion.control.with_type(control_net, type)


@node(
    "ControlNetApply",
    title="Apply ControlNet (OLD)",
    category=CATEGORY,
    outputs=[Output("CONDITIONING")],
    deprecated=True,
)
def control_net_apply(
    *, conditioning: Conditioning, control_net: ControlNet, image: Image, strength: Strength = 1.0
) -> list[Any]:
    """The prompt follows the picture; so does the other side of guidance, unless it has a ControlNet of its own."""
    if strength == 0:
        return conditioning
    control = diffusion.control.recipe(control_net, image, strength)
    return diffusion.control.with_control(conditioning, control, shared=True)


def _both(positive: Conditioning, negative: Conditioning, control: Any) -> Sides:
    with_control = diffusion.control.with_control
    return with_control(positive, control, shared=False), with_control(negative, control, shared=False)


@node("ControlNetApplyAdvanced", title="Apply ControlNet", category=CATEGORY, outputs=_SIDES)
def control_net_apply_advanced(
    *,
    positive: Conditioning,
    negative: Conditioning,
    control_net: ControlNet,
    image: Image,
    strength: Strength = 1.0,
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
    vae: Vae | None = None,
) -> Sides:
    """Both prompts follow the picture, from this part of the sampling to that one. Nets for Stable Diffusion 3 need the model's VAE."""
    if strength == 0:
        return positive, negative
    control = diffusion.control.recipe(control_net, image, strength, start_percent, end_percent, vae)
    return _both(positive, negative, control)


@node("ControlNetApplySD3", title="Apply Controlnet with VAE", category=CATEGORY, outputs=_SIDES, deprecated=True)
def control_net_apply_sd3(
    *,
    positive: Conditioning,
    negative: Conditioning,
    control_net: ControlNet,
    vae: Vae,
    image: Image,
    strength: Strength = 1.0,
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
) -> Sides:
    """As ControlNetApplyAdvanced with a VAE."""
    if strength == 0:
        return positive, negative
    control = diffusion.control.recipe(control_net, image, strength, start_percent, end_percent, vae)
    return _both(positive, negative, control)


@node("ControlNetInpaintingAliMamaApply", category=CATEGORY, outputs=_SIDES)
def control_net_inpainting_ali_mama_apply(
    *,
    positive: Conditioning,
    negative: Conditioning,
    control_net: ControlNet,
    vae: Vae,
    image: Image,
    mask: Mask,
    strength: Strength = 1.0,
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
) -> Sides:
    """For ControlNets that paint under a mask: they are shown the picture without it, and the mask. Others are shown the picture."""
    if strength == 0:
        return positive, negative
    seen, kept = diffusion.control.masked(control_net, image, diffusion.masks.checked(mask))
    control = diffusion.control.recipe(control_net, seen, strength, start_percent, end_percent, vae, kept)
    return _both(positive, negative, control)
