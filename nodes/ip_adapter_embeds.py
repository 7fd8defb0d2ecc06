"""What CLIP sees in pictures, as IP-Adapters read it: encoded, joined, kept in files, and followed."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.errors import InputError
from engine.fileref import FileRef
from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.run.results import OutputFile, Outputs
from engine.spec import FileChoice, Output, Range, node
from nodes import diffusion
from nodes.ip_adapter import prompted, viewer_of, weighing
from nodes.ip_adapter_inputs import Scaling, Weight, WeightType
from nodes.sockets import ClipVision, Embeds, Image, IpAdapter, Mask, Model, Tensor
from nodes.widgets import Percent

CATEGORY = "ipadapter/embeds"


@node(
    "IPAdapterEncoder",
    title="IPAdapter Encoder",
    category=CATEGORY,
    outputs=[Output("EMBEDS", "pos_embed"), Output("EMBEDS", "neg_embed")],
)
def ip_adapter_encoder(
    ctx: NodeContext,
    *,
    ipadapter: IpAdapter,
    image: Image,
    weight: Annotated[float, Range(-1.0, 3.0, step=0.01)] = 1.0,
    mask: Mask | None = None,
    clip_vision: ClipVision | None = None,
) -> tuple[Tensor, Tensor]:
    """What CLIP sees in pictures, times the weight, and what the negative side is told. Where the mask is 0 it sees nothing."""
    viewer = viewer_of(ctx, ipadapter, clip_vision)
    covered = None if mask is None else diffusion.ip_apply.masks(mask)
    if covered is not None and len(covered) not in (1, len(image)):
        raise InputError(
            f"expected one mask, or as many as there are pictures ({len(image)}), found {len(covered)}", input="mask"
        )
    seen = viewer.see(image, mask=covered)
    return seen * weight, viewer.see_nothing(seen)


@node(
    "IPAdapterCombineEmbeds", title="IPAdapter Combine Embeds", category=CATEGORY, outputs=[Output("EMBEDS", "EMBEDS")]
)
def ip_adapter_combine_embeds(
    *,
    embed1: Embeds,
    method: Literal["concat", "add", "subtract", "average", "norm average", "max", "min"],
    embed2: Embeds | None = None,
    embed3: Embeds | None = None,
    embed4: Embeds | None = None,
    embed5: Embeds | None = None,
) -> Tensor:
    """Embeddings as one: side by side, or of all pictures together the sum, the mean, the largest or the least numbers."""
    given = [it for it in (embed1, embed2, embed3, embed4, embed5) if it is not None]
    return diffusion.ip_apply.together(given, method)


def _followed(
    ctx: NodeContext,
    *,
    model: ModelRef,
    ipadapter: IpAdapter,
    pos_embed: Tensor,
    neg_embed: Tensor | None,
    clip_vision: ModelRef | None,
    weight: float,
    weight_type: str,
    start_at: float,
    end_at: float,
    embeds_scaling: str,
    attn_mask: Tensor | None,
    apart: bool,
) -> ModelRef:
    viewer = viewer_of(ctx, ipadapter, clip_vision)
    diffusion.ip_adapter.check_model(viewer.adapter, model)
    viewer.adapter.check_seen(pos_embed)
    nothing = viewer.see_nothing(pos_embed) if neg_embed is None else neg_embed
    seen = diffusion.ip_apply.Seen(pos_embed, nothing)
    manner = {"start": start_at, "end": end_at, "scaling": embeds_scaling, "mask": attn_mask, "apart": apart}
    return prompted(model, ipadapter, viewer, seen, weighing(weight, type=weight_type), **manner)


@node("IPAdapterEmbeds", title="IPAdapter Embeds", category=CATEGORY, outputs=[Output("MODEL")], version=2)
def ip_adapter_embeds(
    ctx: NodeContext,
    *,
    model: Model,
    ipadapter: IpAdapter,
    pos_embed: Embeds,
    weight: Weight = 1.0,
    weight_type: WeightType,
    start_at: Percent = 0.0,
    end_at: Percent = 1.0,
    embeds_scaling: Scaling,
    neg_embed: Embeds | None = None,
    attn_mask: Mask | None = None,
    clip_vision: ClipVision | None = None,
) -> ModelRef:
    """The model with pictures to follow that are encoded already. Without neg_embed some adapters need the CLIP vision model."""
    return _followed(
        ctx, model=model, ipadapter=ipadapter, pos_embed=pos_embed, neg_embed=neg_embed, clip_vision=clip_vision, weight=weight,
        weight_type=weight_type, start_at=start_at, end_at=end_at, embeds_scaling=embeds_scaling, attn_mask=attn_mask, apart=False,
    )  # fmt: skip


@node("IPAdapterEmbedsBatch", title="IPAdapter Embeds Batch", category=CATEGORY, outputs=[Output("MODEL")], version=2)
def ip_adapter_embeds_batch(
    ctx: NodeContext,
    *,
    model: Model,
    ipadapter: IpAdapter,
    pos_embed: Embeds,
    weight: Weight = 1.0,
    weight_type: WeightType,
    start_at: Percent = 0.0,
    end_at: Percent = 1.0,
    embeds_scaling: Scaling,
    neg_embed: Embeds | None = None,
    attn_mask: Mask | None = None,
    clip_vision: ClipVision | None = None,
) -> ModelRef:
    """The same with a picture of its own for every sample of a batch."""
    return _followed(
        ctx, model=model, ipadapter=ipadapter, pos_embed=pos_embed, neg_embed=neg_embed, clip_vision=clip_vision, weight=weight,
        weight_type=weight_type, start_at=start_at, end_at=end_at, embeds_scaling=embeds_scaling, attn_mask=attn_mask, apart=True,
    )  # fmt: skip


@node("IPAdapterSaveEmbeds", title="IPAdapter Save Embeds", category=CATEGORY, output_node=True)
def ip_adapter_save_embeds(embeds: Embeds, filename_prefix: str = "IP_embeds") -> Outputs:
    """Write embeddings as an ``.ipadpt`` file (safetensors) into the output folder; IPAdapterLoadEmbeds reads it from the input folder."""
    data = diffusion.ip_embeds.to_file(embeds)
    return Outputs(files=(OutputFile(data=data, prefix=filename_prefix, extension="ipadpt", ui="embeds"),))


@node("IPAdapterLoadEmbeds", title="IPAdapter Load Embeds", category=CATEGORY, outputs=[Output("EMBEDS")])
def ip_adapter_load_embeds(embeds: Annotated[FileRef, FileChoice("input", suffixes=(".ipadpt",))]) -> Tensor:
    """Read an ``.ipadpt`` file of the input folder. Those that other programs wrote are pickles, and are refused."""
    return diffusion.ip_embeds.from_file(embeds.path)
