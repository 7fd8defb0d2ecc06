"""IP-Adapters for parts of the picture: tile by tile, or region by region, each with a picture of its own."""

from __future__ import annotations

from typing import Annotated, Any

from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.run.results import Blocked
from engine.spec import Output, Range, Socket, node
from nodes import diffusion
from nodes.ip_adapter import weighing, with_picture
from nodes.ip_adapter_inputs import AtOnce, Joining, Scaling, Weight, WeightType
from nodes.sockets import ClipVision, Conditioning, Image, IpAdapter, Mask, Model, Tensor
from nodes.widgets import Percent

Params = Annotated[dict[str, list[Any]], Socket("IPADAPTER_PARAMS")]
Sharpening = Annotated[float, Range(0.0, 1.0, step=0.05)]

_TILED = [Output("MODEL"), Output("IMAGE", "tiles"), Output("MASK", "masks")]


def _tiled(
    ctx: NodeContext, model: ModelRef, image: Tensor, attn_mask: Tensor | None, sharpening: float, **manner: Any
) -> tuple[ModelRef, Tensor, Tensor]:
    mask = None if attn_mask is None else diffusion.ip_apply.masks(attn_mask)
    tiles, masks = diffusion.ip_pictures.tiles(image, mask, sharpening)
    for index, (tile, place) in enumerate(zip(tiles, masks, strict=True)):
        ctx.progress(index, len(tiles))
        model = with_picture(ctx, model, image=tile, mask=place, **manner)
    return model, diffusion.ip_pictures.batch(tiles), diffusion.ip_pictures.batch(masks)


@node("IPAdapterTiled", title="IPAdapter Tiled", category="ipadapter/tiled", outputs=_TILED, version=3)
def ip_adapter_tiled(
    ctx: NodeContext,
    *,
    model: Model,
    ipadapter: IpAdapter,
    image: Image,
    weight: Weight = 1.0,
    weight_type: WeightType,
    combine_embeds: Joining,
    start_at: Percent = 0.0,
    end_at: Percent = 1.0,
    sharpening: Sharpening = 0.0,
    embeds_scaling: Scaling,
    image_negative: Image | None = None,
    attn_mask: Mask | None = None,
    clip_vision: ClipVision | None = None,
) -> tuple[ModelRef, Tensor, Tensor]:
    """The model with all of a picture to follow, tile by tile, each where it is: more detail, and nothing is cut off at the sides."""
    return _tiled(
        ctx, model, image, attn_mask, sharpening, ipadapter=ipadapter, weights=weighing(weight, type=weight_type),
        joining=combine_embeds, start=start_at, end=end_at, scaling=embeds_scaling, image_negative=image_negative,
        clip_vision=clip_vision,
    )  # fmt: skip


@node("IPAdapterTiledBatch", title="IPAdapter Tiled Batch", category="ipadapter/tiled", outputs=_TILED, version=3)
def ip_adapter_tiled_batch(
    ctx: NodeContext,
    *,
    model: Model,
    ipadapter: IpAdapter,
    image: Image,
    weight: Weight = 1.0,
    weight_type: WeightType,
    start_at: Percent = 0.0,
    end_at: Percent = 1.0,
    sharpening: Sharpening = 0.0,
    embeds_scaling: Scaling,
    encode_batch_size: AtOnce = 0,
    image_negative: Image | None = None,
    attn_mask: Mask | None = None,
    clip_vision: ClipVision | None = None,
) -> tuple[ModelRef, Tensor, Tensor]:
    """The same with a picture of its own for every sample of a batch."""
    return _tiled(
        ctx, model, image, attn_mask, sharpening, ipadapter=ipadapter, weights=weighing(weight, type=weight_type), start=start_at,
        end=end_at, scaling=embeds_scaling, image_negative=image_negative, clip_vision=clip_vision, at_once=encode_batch_size,
        apart=True,
    )  # fmt: skip


@node(
    "IPAdapterRegionalConditioning",
    title="IPAdapter Regional Conditioning",
    category="ipadapter/params",
    outputs=[Output("IPADAPTER_PARAMS"), Output("CONDITIONING", "POSITIVE"), Output("CONDITIONING", "NEGATIVE")],
)
def ip_adapter_regional_conditioning(
    *,
    image: Image,
    image_weight: Annotated[float, Range(-1.0, 3.0, step=0.05)] = 1.0,
    prompt_weight: Annotated[float, Range(0.0, 10.0, step=0.05)] = 1.0,
    weight_type: WeightType,
    start_at: Percent = 0.0,
    end_at: Percent = 1.0,
    mask: Mask | None = None,
    positive: Conditioning | None = None,
    negative: Conditioning | None = None,
) -> tuple[dict[str, list[Any]], Any, Any]:
    """A region: a picture to follow in it, and prompts that hold there."""
    params: dict[str, list[Any]] = {
        "image": [image], "attn_mask": [mask], "weight": [image_weight], "weight_type": [weight_type],
        "start_at": [start_at], "end_at": [end_at],
    }  # fmt: skip
    there = {"mask": mask, "set_area_to_bounds": False, "mask_strength": prompt_weight}

    def held(side: list[Any] | None, name: str) -> Any:
        if side is None:
            return Blocked(f"IPAdapterRegionalConditioning was given no {name} prompt")
        return side if mask is None else diffusion.entries.with_options(side, there)

    return params, held(positive, "positive"), held(negative, "negative")


@node(
    "IPAdapterCombineParams",
    title="IPAdapter Combine Params",
    category="ipadapter/params",
    outputs=[Output("IPADAPTER_PARAMS")],
)
def ip_adapter_combine_params(
    params_1: Params,
    params_2: Params,
    params_3: Params | None = None,
    params_4: Params | None = None,
    params_5: Params | None = None,
) -> dict[str, list[Any]]:
    """Several regions."""
    given = [it for it in (params_1, params_2, params_3, params_4, params_5) if it is not None]
    return {name: [value for params in given for value in params[name]] for name in given[0]}


@node(
    "IPAdapterFromParams",
    title="IPAdapter from Params",
    category="ipadapter/params",
    outputs=[Output("MODEL")],
    version=2,
)
def ip_adapter_from_params(
    ctx: NodeContext,
    *,
    model: Model,
    ipadapter: IpAdapter,
    ipadapter_params: Params,
    combine_embeds: Joining,
    embeds_scaling: Scaling,
    image_negative: Image | None = None,
    clip_vision: ClipVision | None = None,
) -> ModelRef:
    """The model with regions that have pictures of their own to follow."""
    regions = [
        dict(zip(ipadapter_params, values, strict=True)) for values in zip(*ipadapter_params.values(), strict=True)
    ]
    for index, region in enumerate(regions):
        ctx.progress(index, len(regions))
        model = with_picture(
            ctx, model, ipadapter, region["image"], weighing(region["weight"], type=region["weight_type"]),
            mask=region["attn_mask"], start=region["start_at"], end=region["end_at"], joining=combine_embeds,
            scaling=embeds_scaling, image_negative=image_negative, clip_vision=clip_vision,
        )  # fmt: skip
    return model
