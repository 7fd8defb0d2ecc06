"""Pictures whose style is told beside the prompt."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from engine.fileref import FileRef
from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.spec import Estimate, FileChoice, Output, Range, node
from nodes import diffusion
from nodes.loaders import file_size, opened, part_of
from nodes.sockets import ClipVisionOutput, Conditioning, StyleModel


def _style_estimate(style_model_name: FileRef | None) -> Estimate:
    return Estimate(model_bytes=file_size(style_model_name.path) if style_model_name else 0)


@node(
    "StyleModelLoader",
    title="Load Style Model",
    category="loaders",
    outputs=[Output("STYLE_MODEL")],
    estimate=_style_estimate,
)
def style_model_loader(style_model_name: Annotated[FileRef, FileChoice("style_models")]) -> ModelRef:
    """T2I-Adapter's style adapter."""
    opened(style_model_name, "style_model")
    return part_of(style_model_name, "style_model")


@node(
    "StyleModelApply", title="Apply Style Model", category="conditioning/style_model", outputs=[Output("CONDITIONING")]
)
def style_model_apply(
    ctx: NodeContext,
    *,
    conditioning: Conditioning,
    style_model: StyleModel,
    clip_vision_output: ClipVisionOutput,
    strength: Annotated[float, Range(0.0, 10.0, step=0.001)] = 1.0,
    strength_type: Literal["multiply", "attn_bias"],
) -> list[Any]:
    """The style of a picture behind the words of a prompt: its tokens times the strength, or looked at so much more."""
    with ctx.models.lease(style_model) as loaded:
        tokens = diffusion.style_model.tokens_of(clip_vision_output, loaded)
    return diffusion.style_model.applied(conditioning, tokens, strength, strength_type)
