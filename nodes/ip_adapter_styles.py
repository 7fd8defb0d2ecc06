"""IP-Adapters that take a picture's style, or its composition, and not the other."""

from __future__ import annotations

from typing import Annotated

from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.spec import Output, Range, node
from nodes import diffusion
from nodes.ip_adapter import CATEGORY, weighing, with_picture
from nodes.ip_adapter_inputs import Joining, Scaling, StrongWeight
from nodes.sockets import ClipVision, Image, IpAdapter, Mask, Model
from nodes.widgets import Percent

_MODEL = [Output("MODEL")]

Boost = Annotated[float, Range(-5, 5, step=0.05)]


@node(
    "IPAdapterStyleComposition",
    title="IPAdapter Style & Composition SDXL",
    category="ipadapter/style_composition",
    outputs=_MODEL,
    version=2,
)
def style_composition(
    ctx: NodeContext,
    *,
    model: Model,
    ipadapter: IpAdapter,
    image_style: Image,
    image_composition: Image,
    weight_style: StrongWeight = 1.0,
    weight_composition: StrongWeight = 1.0,
    expand_style: bool = False,
    combine_embeds: Joining = "average",
    start_at: Percent = 0.0,
    end_at: Percent = 1.0,
    embeds_scaling: Scaling,
    image_negative: Image | None = None,
    attn_mask: Mask | None = None,
    clip_vision: ClipVision | None = None,
) -> ModelRef:
    """An SDXL model that follows the style of one picture and the composition of another. Expanded, most of the UNet is told the style."""
    weights = diffusion.ip_apply.styled_and_composed([weight_style], weight_composition, strong=expand_style)
    return with_picture(
        ctx, model, ipadapter, image_style, weights, composition=image_composition, joining=combine_embeds, start=start_at,
        end=end_at, scaling=embeds_scaling, image_negative=image_negative, mask=attn_mask, clip_vision=clip_vision,
    )  # fmt: skip


@node(
    "IPAdapterStyleCompositionBatch",
    title="IPAdapter Style & Composition Batch SDXL",
    category="ipadapter/style_composition",
    outputs=_MODEL,
    version=2,
)
def style_composition_batch(
    ctx: NodeContext,
    *,
    model: Model,
    ipadapter: IpAdapter,
    image_style: Image,
    image_composition: Image,
    weight_style: StrongWeight = 1.0,
    weight_composition: StrongWeight = 1.0,
    expand_style: bool = False,
    start_at: Percent = 0.0,
    end_at: Percent = 1.0,
    embeds_scaling: Scaling,
    image_negative: Image | None = None,
    attn_mask: Mask | None = None,
    clip_vision: ClipVision | None = None,
) -> ModelRef:
    """The same with two pictures of its own for every sample of a batch."""
    styles = weighing(weight_style).weight
    weights = diffusion.ip_apply.styled_and_composed(styles, weight_composition, strong=expand_style)
    return with_picture(
        ctx, model, ipadapter, image_style, weights, composition=image_composition, start=start_at, end=end_at, apart=True,
        scaling=embeds_scaling, image_negative=image_negative, mask=attn_mask, clip_vision=clip_vision,
    )  # fmt: skip


@node(
    "IPAdapterPreciseStyleTransfer",
    title="IPAdapter Precise Style Transfer",
    category=CATEGORY,
    outputs=_MODEL,
    version=2,
)
def precise_style_transfer(
    ctx: NodeContext,
    *,
    model: Model,
    ipadapter: IpAdapter,
    image: Image,
    weight: StrongWeight = 1.0,
    style_boost: Boost = 1.0,
    combine_embeds: Joining,
    start_at: Percent = 0.0,
    end_at: Percent = 1.0,
    embeds_scaling: Scaling,
    image_negative: Image | None = None,
    attn_mask: Mask | None = None,
    clip_vision: ClipVision | None = None,
) -> ModelRef:
    """The model with a picture whose style it follows, and whose composition it is led away from: the more, the higher the boost."""
    weights = weighing(weight, type="style transfer precise", style_boost=style_boost)
    return with_picture(
        ctx, model, ipadapter, image, weights, joining=combine_embeds, start=start_at, end=end_at, scaling=embeds_scaling,
        image_negative=image_negative, mask=attn_mask, clip_vision=clip_vision,
    )  # fmt: skip


@node(
    "IPAdapterPreciseStyleTransferBatch",
    title="IPAdapter Precise Style Transfer Batch",
    category=CATEGORY,
    outputs=_MODEL,
    version=2,
)
def precise_style_transfer_batch(
    ctx: NodeContext,
    *,
    model: Model,
    ipadapter: IpAdapter,
    image: Image,
    weight: StrongWeight = 1.0,
    style_boost: Boost = 1.0,
    combine_embeds: Joining,
    start_at: Percent = 0.0,
    end_at: Percent = 1.0,
    embeds_scaling: Scaling,
    image_negative: Image | None = None,
    attn_mask: Mask | None = None,
    clip_vision: ClipVision | None = None,
) -> ModelRef:
    """The same with a picture of its own for every sample of a batch."""
    weights = weighing(weight, type="style transfer precise", style_boost=style_boost)
    return with_picture(
        ctx, model, ipadapter, image, weights, joining=combine_embeds, start=start_at, end=end_at, scaling=embeds_scaling,
        image_negative=image_negative, mask=attn_mask, clip_vision=clip_vision, apart=True,
    )  # fmt: skip


@node(
    "IPAdapterPreciseComposition", title="IPAdapter Precise Composition", category=CATEGORY, outputs=_MODEL, version=2
)
def precise_composition(
    ctx: NodeContext,
    *,
    model: Model,
    ipadapter: IpAdapter,
    image: Image,
    weight: StrongWeight = 1.0,
    composition_boost: Boost = 0.0,
    combine_embeds: Joining,
    start_at: Percent = 0.0,
    end_at: Percent = 1.0,
    embeds_scaling: Scaling,
    image_negative: Image | None = None,
    attn_mask: Mask | None = None,
    clip_vision: ClipVision | None = None,
) -> ModelRef:
    """The model with a picture whose composition it follows, and whose style it is led away from: the more, the higher the boost."""
    weights = weighing(weight, type="composition precise", composition_boost=composition_boost)
    return with_picture(
        ctx, model, ipadapter, image, weights, joining=combine_embeds, start=start_at, end=end_at, scaling=embeds_scaling,
        image_negative=image_negative, mask=attn_mask, clip_vision=clip_vision,
    )  # fmt: skip


@node(
    "IPAdapterPreciseCompositionBatch",
    title="IPAdapter Precise Composition Batch",
    category=CATEGORY,
    outputs=_MODEL,
    version=2,
)
def precise_composition_batch(
    ctx: NodeContext,
    *,
    model: Model,
    ipadapter: IpAdapter,
    image: Image,
    weight: StrongWeight = 1.0,
    composition_boost: Boost = 0.0,
    combine_embeds: Joining,
    start_at: Percent = 0.0,
    end_at: Percent = 1.0,
    embeds_scaling: Scaling,
    image_negative: Image | None = None,
    attn_mask: Mask | None = None,
    clip_vision: ClipVision | None = None,
) -> ModelRef:
    """The same with a picture of its own for every sample of a batch."""
    weights = weighing(weight, type="composition precise", composition_boost=composition_boost)
    return with_picture(
        ctx, model, ipadapter, image, weights, joining=combine_embeds, start=start_at, end=end_at, scaling=embeds_scaling,
        image_negative=image_negative, mask=attn_mask, clip_vision=clip_vision, apart=True,
    )  # fmt: skip
