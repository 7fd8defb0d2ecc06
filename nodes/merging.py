"""Models made of two: mixed, added, subtracted, and mixed block by block."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final

from engine.models import ModelRef, Patch, Setting
from engine.run.context import NodeContext
from engine.spec import InputSpec, NodeSpec, Output, Range, node
from engine.types import FLOAT, SocketType
from nodes import diffusion
from nodes.sockets import Clip, Model

Ratio = Annotated[float, Range(0.0, 1.0, step=0.01)]
Multiplier = Annotated[float, Range(-10.0, 10.0, step=0.01)]

_CATEGORY: Final = "advanced/model_merging"


def _with(
    ctx: NodeContext,
    one: ModelRef,
    other: ModelRef,
    kind: str,
    strength: float,
    options: tuple[tuple[str, Setting], ...] = (),
) -> ModelRef:
    """``one`` with a patch that brings in ``other``, whose settings do not matter for its weights."""
    for warning in diffusion.patches.check_merge(one, other):
        ctx.warn(warning)
    bare = replace(other, settings=())
    return one.with_patches(Patch(kind, other.source, strength, other.location, options, bare))


@node("ModelMergeSimple", category=_CATEGORY, outputs=[Output("MODEL")])
def model_merge_simple(ctx: NodeContext, model1: Model, model2: Model, ratio: Ratio = 1.0) -> ModelRef:
    """A mixture: ratio of the first model, the rest of the second."""
    return _with(ctx, model1, model2, "merge", ratio)


@node("ModelMergeAdd", category=_CATEGORY, outputs=[Output("MODEL")])
def model_merge_add(ctx: NodeContext, model1: Model, model2: Model) -> ModelRef:
    """The sum of two models' weights; one of them is a difference, most often."""
    return _with(ctx, model1, model2, "combine", 1.0, (("keep", 1.0),))


@node("ModelMergeSubtract", category=_CATEGORY, outputs=[Output("MODEL")])
def model_merge_subtract(ctx: NodeContext, model1: Model, model2: Model, multiplier: Multiplier = 1.0) -> ModelRef:
    """The difference of two models' weights, times the multiplier: what the first has learned beyond the second."""
    return _with(ctx, model1, model2, "combine", -multiplier, (("keep", multiplier),))


@node("CLIPMergeSimple", category=_CATEGORY, outputs=[Output("CLIP")])
def clip_merge_simple(ctx: NodeContext, clip1: Clip, clip2: Clip, ratio: Ratio = 1.0) -> ModelRef:
    """A mixture of text encoders: ratio of the first, the rest of the second."""
    return _with(ctx, clip1, clip2, "merge", ratio)


@node("CLIPMergeAdd", category=_CATEGORY, outputs=[Output("CLIP")])
def clip_merge_add(ctx: NodeContext, clip1: Clip, clip2: Clip) -> ModelRef:
    """The sum of two text encoders' weights."""
    return _with(ctx, clip1, clip2, "combine", 1.0, (("keep", 1.0),))


@node("CLIPMergeSubtract", category=_CATEGORY, outputs=[Output("CLIP")])
def clip_merge_subtract(ctx: NodeContext, clip1: Clip, clip2: Clip, multiplier: Multiplier = 1.0) -> ModelRef:
    """The difference of two text encoders' weights, times the multiplier."""
    return _with(ctx, clip1, clip2, "combine", -multiplier, (("keep", multiplier),))


@node("ModelMergeBlocks", category=_CATEGORY, outputs=[Output("MODEL")])
def model_merge_blocks(
    ctx: NodeContext, model1: Model, model2: Model, input: Ratio = 1.0, middle: Ratio = 1.0, out: Ratio = 1.0
) -> ModelRef:
    """A mixture with a ratio of the first model for each third of the UNet; the embedding of time goes with the input."""
    return _with(ctx, model1, model2, "merge", input, (("input", input), ("middle", middle), ("out", out)))


def _merge_by_name(ctx: NodeContext, model1: Model, model2: Model, **ratios: float) -> ModelRef:
    """A mixture with a ratio of the first model for each block, by the blocks' names in the original layout."""
    return _with(ctx, model1, model2, "merge", next(iter(ratios.values())), tuple(ratios.items()))


def _by_name(type_: str, *blocks: str) -> NodeSpec:
    """A merge with a ratio for each of ``blocks``, starts of names in the original layout that no parameter could have."""
    models = (InputSpec(name, SocketType("MODEL"), required=True) for name in ("model1", "model2"))
    bounds = Range(0.0, 1.0, step=0.01)
    ratios = (InputSpec(block, FLOAT, required=True, default=1.0, range=bounds) for block in blocks)
    return NodeSpec(
        type=type_,
        fn=_merge_by_name,
        inputs=(*models, *ratios),
        outputs=(Output("MODEL"),),
        title=type_,
        category=f"{_CATEGORY}/model_specific",
        description=(_merge_by_name.__doc__ or ""),
        takes_context=True,
    )


def _unet(blocks: int, end: str) -> tuple[str, ...]:
    numbered = {"input_blocks": blocks, "middle_block": 3, "output_blocks": blocks}
    inner = (f"{name}.{number}{end}" for name, count in numbered.items() for number in range(count))
    return ("time_embed.", "label_emb.", *inner, "out.")


def _transformer(blocks: int) -> tuple[str, ...]:
    embedders = ("pos_embed.", "x_embedder.", "context_embedder.", "y_embedder.", "t_embedder.")
    return (*embedders, *(f"joint_blocks.{number}." for number in range(blocks)), "final_layer.")


model_merge_sd1 = _by_name("ModelMergeSD1", *_unet(12, "."))
model_merge_sd2 = _by_name("ModelMergeSD2", *_unet(12, "."))
model_merge_sdxl = _by_name("ModelMergeSDXL", *_unet(9, ""))
model_merge_sd3_2b = _by_name("ModelMergeSD3_2B", *_transformer(24))
model_merge_sd35_large = _by_name("ModelMergeSD35_Large", *_transformer(38))
