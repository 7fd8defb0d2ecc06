"""IP-Adapters: pictures as prompts. Loaders, and the nodes that give a model a picture to follow."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from engine.errors import InputError
from engine.fileref import FileRef
from engine.models import ModelRef, Recipe
from engine.run.context import NodeContext
from engine.spec import Estimate, FileChoice, Multiline, Output, Socket, node
from nodes import diffusion
from nodes.ip_adapter_inputs import AtOnce, Joining, Scaling, StrongWeight, Weight, WeightType
from nodes.loaders import file_size, part_of
from nodes.sockets import ClipVision, Image, IpAdapter, Mask, Model, Tensor
from nodes.widgets import Percent

if TYPE_CHECKING:
    from nodes.diffusion.ip_apply import Seen, Viewer
    from nodes.diffusion.ip_weights import Weighing

CATEGORY = "ipadapter"


def viewer_of(ctx: NodeContext, ipadapter: Recipe, clip_vision: ModelRef | None) -> Viewer:
    """The adapter with what sees for it: ``clip_vision``, or what its loader found with it."""
    file: FileRef = ipadapter.parts["file"]
    return diffusion.ip_apply.Viewer(
        adapter=diffusion.ip_adapter.open_adapter(str(file.path)),
        vision=clip_vision or ipadapter.parts["vision"],
        store=ctx.models,
        device=diffusion.devices.device_policy(ctx.settings.device).device,
    )


def weighing(weight: Any, **more: Any) -> Weighing:
    """What a node is told of weights; ``weight`` may be a list of one for each sample."""
    values = weight.tolist() if hasattr(weight, "tolist") else weight
    several = values if isinstance(values, list | tuple) else [values]
    if not several:
        raise InputError("expected at least one weight, found none", input="weight")
    return diffusion.ip_weights.Weighing(tuple(map(float, several)), **more)


def prompted(
    model: ModelRef, ipadapter: Recipe, viewer: Viewer, seen: Seen, weights: Weighing, **manner: Any
) -> ModelRef:
    """``model`` with what was seen for a prompt."""
    told = diffusion.ip_apply.Manner(weights, **manner)
    return diffusion.ip_apply.prompted(model, ipadapter.parts["file"], viewer, seen, told)


def with_picture(
    ctx: NodeContext,
    model: ModelRef,
    ipadapter: Recipe,
    image: Tensor,
    weights: Weighing,
    *,
    image_negative: Tensor | None = None,
    composition: Tensor | None = None,
    clip_vision: ModelRef | None = None,
    at_once: int = 0,
    **manner: Any,
) -> ModelRef:
    """``model`` with a picture for a prompt, and perhaps another for the composition."""
    viewer = viewer_of(ctx, ipadapter, clip_vision)
    diffusion.ip_adapter.check_model(viewer.adapter, model)
    picture = viewer.see(image, at_once=at_once)
    others = {"image_negative": image_negative, "image_composition": composition}
    told, composed = (None if it is None else viewer.see(it, at_once=at_once, name=name) for name, it in others.items())
    nothing = viewer.see_nothing(picture) if told is None else told
    seen = diffusion.ip_apply.Seen(picture, nothing, composed)
    return prompted(model, ipadapter, viewer, seen, weights, **manner)


def _adapter_estimate(ipadapter_file: FileRef | None) -> Estimate:
    return Estimate(model_bytes=file_size(ipadapter_file.path) if ipadapter_file else 0)


@node(
    "IPAdapterModelLoader",
    title="IPAdapter Model Loader",
    category="ipadapter/loaders",
    outputs=[Output("IPADAPTER")],
    estimate=_adapter_estimate,
)
def ip_adapter_model_loader(ipadapter_file: Annotated[FileRef, FileChoice("ipadapter")]) -> Recipe:
    """An IP-Adapter. What it is for is read off its file; it needs the CLIP vision model that it was trained with."""
    diffusion.ip_adapter.open_adapter(str(ipadapter_file.path))
    return Recipe("ip_adapter", {"file": ipadapter_file, "vision": None})


def _files_of_preset(preset: str | None, **others: object) -> Iterable[tuple[str, str | re.Pattern[str] | None]]:
    if preset is None:
        return [("ipadapter", None), ("clip_vision", None)]
    return diffusion.ip_files.files_of(preset)


def _unified(ctx: NodeContext, model: ModelRef, preset: str) -> tuple[ModelRef, Recipe]:
    """The adapter of a preset and its CLIP vision model, out of the model folders."""
    family = diffusion.sources.open_source(model.location).facts.family
    wanted = diffusion.ip_files.wanted(preset, family.name, family.title)

    def found(folder: str, name: str) -> FileRef:
        file = ctx.find_file(folder, name)
        assert file is not None  # it was listed just now
        return file

    file = found("ipadapter", diffusion.ip_files.adapter_of(wanted, ctx.list_files("ipadapter")))
    vision = part_of(
        found("clip_vision", diffusion.ip_files.vision_of(wanted, ctx.list_files("clip_vision"))), "clip_vision"
    )
    adapter = diffusion.ip_adapter.open_adapter(str(file.path))
    diffusion.ip_adapter.check_model(adapter, model)
    diffusion.ip_adapter.check_vision(adapter, vision)
    return model, Recipe("ip_adapter", {"file": file, "vision": vision})


_UNIFIED = [Output("MODEL", "model"), Output("IPADAPTER", "ipadapter")]


@node(
    "IPAdapterUnifiedLoader",
    title="IPAdapter Unified Loader",
    category=CATEGORY,
    outputs=_UNIFIED,
    reads=_files_of_preset,
    version=2,
)
def ip_adapter_unified_loader(
    ctx: NodeContext,
    model: Model,
    preset: Literal[
        "LIGHT - SD1.5 only (low strength)", "STANDARD (medium strength)", "VIT-G (medium strength)", "PLUS (high strength)",
        "PLUS FACE (portraits)", "FULL FACE - SD1.5 only (portraits stronger)",
    ],
    ipadapter: IpAdapter | None = None,
) -> tuple[ModelRef, Recipe]:  # fmt: skip
    """The adapter of a preset for this model, and the CLIP vision model that goes with it, found in the model folders by their usual names.

    What other loaders have loaded is not loaded again, whether they are linked to ipadapter or not.
    """
    return _unified(ctx, model, preset)


@node(
    "IPAdapterUnifiedLoaderCommunity",
    title="IPAdapter Unified Loader Community",
    category="ipadapter/loaders",
    outputs=_UNIFIED,
    reads=_files_of_preset,
    version=2,
)
def ip_adapter_unified_loader_community(
    ctx: NodeContext, model: Model, preset: Literal["Composition", "Kolors"], ipadapter: IpAdapter | None = None
) -> tuple[ModelRef, Recipe]:
    """The same for adapters that others made: one that follows a picture's composition alone."""
    return _unified(ctx, model, preset)


_SIMPLE = {"standard": "linear", "prompt is more important": "ease out", "style transfer": "style transfer"}


@node("IPAdapter", category=CATEGORY, outputs=[Output("MODEL")], version=2)
def ip_adapter(
    ctx: NodeContext,
    *,
    model: Model,
    ipadapter: IpAdapter,
    image: Image,
    weight: Weight = 1.0,
    start_at: Percent = 0.0,
    end_at: Percent = 1.0,
    weight_type: Literal["standard", "prompt is more important", "style transfer"],
    attn_mask: Mask | None = None,
) -> ModelRef:
    """The model with a picture to follow beside the prompt. It sees the middle square of the picture.

    The adapter must come from a unified loader, which brings the CLIP vision model along. Several of these in a row add up.
    """
    weights = weighing(weight, type=_SIMPLE[weight_type])
    return with_picture(ctx, model, ipadapter, image, weights, start=start_at, end=end_at, mask=attn_mask)


@node("IPAdapterAdvanced", title="IPAdapter Advanced", category=CATEGORY, outputs=[Output("MODEL")], version=2)
def ip_adapter_advanced(
    ctx: NodeContext,
    *,
    model: Model,
    ipadapter: IpAdapter,
    image: Image,
    weight: StrongWeight = 1.0,
    weight_type: WeightType,
    combine_embeds: Joining,
    start_at: Percent = 0.0,
    end_at: Percent = 1.0,
    embeds_scaling: Scaling,
    image_negative: Image | None = None,
    attn_mask: Mask | None = None,
    clip_vision: ClipVision | None = None,
) -> ModelRef:
    """The model with pictures to follow beside the prompt, all of them for every sample of a batch.

    The weight type says which parts of the UNet look how much: style transfer takes the style alone, composition what is where. Style and
    composition together gives the composition a weight of 1. The mask says where in the picture that is made.
    """
    return with_picture(
        ctx, model, ipadapter, image, weighing(weight, type=weight_type), joining=combine_embeds, start=start_at, end=end_at,
        scaling=embeds_scaling, image_negative=image_negative, mask=attn_mask, clip_vision=clip_vision,
    )  # fmt: skip


@node("IPAdapterBatch", title="IPAdapter Batch (Adv.)", category=CATEGORY, outputs=[Output("MODEL")], version=2)
def ip_adapter_batch(
    ctx: NodeContext,
    *,
    model: Model,
    ipadapter: IpAdapter,
    image: Image,
    weight: StrongWeight = 1.0,
    weight_type: WeightType,
    start_at: Percent = 0.0,
    end_at: Percent = 1.0,
    embeds_scaling: Scaling,
    encode_batch_size: AtOnce = 0,
    image_negative: Image | None = None,
    attn_mask: Mask | None = None,
    clip_vision: ClipVision | None = None,
) -> ModelRef:
    """Every sample of a batch with a picture of its own to follow; those beyond the last picture follow that. Weights and masks may be
    as many."""
    return with_picture(
        ctx, model, ipadapter, image, weighing(weight, type=weight_type), start=start_at, end=end_at, scaling=embeds_scaling,
        image_negative=image_negative, mask=attn_mask, clip_vision=clip_vision, at_once=encode_batch_size, apart=True,
    )  # fmt: skip


@node("IPAdapterMS", title="IPAdapter Mad Scientist", category="ipadapter/dev", outputs=[Output("MODEL")], version=2)
def ip_adapter_ms(
    ctx: NodeContext,
    *,
    model: Model,
    ipadapter: IpAdapter,
    image: Image,
    weight: StrongWeight = 1.0,
    weight_faceidv2: StrongWeight = 1.0,
    weight_type: WeightType,
    combine_embeds: Joining,
    start_at: Percent = 0.0,
    end_at: Percent = 1.0,
    embeds_scaling: Scaling,
    layer_weights: Annotated[str, Multiline()] = "",
    image_negative: Image | None = None,
    attn_mask: Mask | None = None,
    clip_vision: ClipVision | None = None,
    insightface: Annotated[Any, Socket("INSIGHTFACE")] | None = None,
) -> ModelRef:
    """The model with a picture to follow, transformer by transformer: 3:2.5, 6:1 weighs the ones numbered 3 and 6 and leaves the rest out.

    They are numbered in the order in which they compute: from 0 to 10 in SDXL, to 15 in Stable Diffusion 1. What is for faces is left out.
    """
    weights = weighing(weight, type=weight_type, layers=layer_weights)
    return with_picture(
        ctx, model, ipadapter, image, weights, joining=combine_embeds, start=start_at, end=end_at, scaling=embeds_scaling,
        image_negative=image_negative, mask=attn_mask, clip_vision=clip_vision,
    )  # fmt: skip
