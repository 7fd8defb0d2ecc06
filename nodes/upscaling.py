"""Upscalers: models that make a picture larger."""

from __future__ import annotations

from typing import Annotated

from engine.fileref import FileRef
from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.spec import Estimate, FileChoice, Output, node
from nodes import diffusion
from nodes.loaders import file_size, part_of
from nodes.sockets import Image, Tensor, UpscaleModel


def _upscaler_estimate(model_name: FileRef | None) -> Estimate:
    return Estimate(model_bytes=file_size(model_name.path) if model_name else 0)


@node(
    "UpscaleModelLoader",
    title="Load Upscale Model",
    category="loaders",
    outputs=[Output("UPSCALE_MODEL")],
    estimate=_upscaler_estimate,
)
def upscale_model_loader(model_name: Annotated[FileRef, FileChoice("upscale_models")]) -> ModelRef:
    """An upscaler: ESRGAN, Real-ESRGAN, SwinIR, HAT, DAT, SPAN and what else spandrel knows."""
    return diffusion.upscalers.recipe(part_of(model_name, "upscaler"))


@node(
    "ImageUpscaleWithModel",
    title="Upscale Image (using Model)",
    category="image/upscaling",
    outputs=[Output("IMAGE")],
)
def image_upscale_with_model(ctx: NodeContext, upscale_model: UpscaleModel, image: Image) -> Tensor:
    """Pictures as many times larger as the model makes them, worked out in tiles."""
    room = diffusion.upscale.working_bytes(image.shape, diffusion.upscalers.scale_of(upscale_model))
    with ctx.models.lease(upscale_model, working_bytes=room) as loaded:
        return diffusion.upscale.upscaled(image, loaded, ctx.progress, ctx.warn)
