"""Other ways for a UNet to compute: for better pictures, larger ones, or the same ones sooner."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from engine.models import ModelRef
from engine.spec import Output, Range, node
from nodes import diffusion
from nodes.sockets import Model
from nodes.widgets import Percent

CATEGORY = "model_patches/unet"

Scale = Annotated[float, Range(0.0, 10.0, step=0.01)]
ResizeMethod = Literal["bicubic", "nearest-exact", "bilinear", "area", "bislerp"]


def _altered(model: ModelRef, name: str, **values: Any) -> ModelRef:
    return diffusion.listed.with_option(model, diffusion.options.ALTERATIONS, name, **values)


@node("FreeU", category=CATEGORY, outputs=[Output("MODEL")])
def free_u(model: Model, b1: Scale = 1.1, b2: Scale = 1.2, s1: Scale = 0.9, s2: Scale = 0.2) -> ModelRef:
    """A UNet that trusts its way up more (b) and the details handed over to it less (s); 1 changes nothing."""
    return _altered(model, "FreeU", b1=b1, b2=b2, s1=s1, s2=s2, adaptive=False)


@node("FreeU_V2", category=CATEGORY, outputs=[Output("MODEL")])
def free_u_v2(model: Model, b1: Scale = 1.3, b2: Scale = 1.4, s1: Scale = 0.9, s2: Scale = 0.2) -> ModelRef:
    """FreeU that strengthens the way up where it has most to say."""
    return _altered(model, "FreeU", b1=b1, b2=b2, s1=s1, s2=s2, adaptive=True)


@node("HyperTile", category=CATEGORY, outputs=[Output("MODEL")])
def hyper_tile(
    *,
    model: Model,
    tile_size: Annotated[int, Range(1, 2048)] = 256,
    swap_size: Annotated[int, Range(1, 128)] = 2,
    max_depth: Annotated[int, Range(0, 10)] = 0,
    scale_depth: bool = False,
) -> ModelRef:
    """Self attention within tiles of at least as many pixels: large pictures are made sooner.

    From a swap_size of 3 on the tiling changes from layer to layer and step to step, so that no seams remain.
    """
    return _altered(
        model, "HyperTile", tile_size=tile_size, swap_size=swap_size, max_depth=max_depth, scale_depth=scale_depth
    )


@node("TomePatchModel", category=CATEGORY, outputs=[Output("MODEL")])
def tome_patch_model(model: Model, ratio: Annotated[float, Range(0.0, 1.0, step=0.01)] = 0.3) -> ModelRef:
    """Self attention that asks once for what is alike: the part ratio of the tokens is merged into others."""
    return _altered(model, "token merging", ratio=ratio)


@node(
    "PatchModelAddDownscale",
    title="PatchModelAddDownscale (Kohya Deep Shrink)",
    category=CATEGORY,
    outputs=[Output("MODEL")],
    version=2,
)
def patch_model_add_downscale(
    *,
    model: Model,
    block_number: Annotated[int, Range(1, 32, step=1)] = 3,
    downscale_factor: Annotated[float, Range(0.1, 9.0, step=0.001)] = 2.0,
    start_percent: Percent = 0.0,
    end_percent: Percent = 0.35,
    downscale_after_skip: bool = True,
    downscale_method: ResizeMethod,
    upscale_method: ResizeMethod,
) -> ModelRef:
    """A UNet that works on a smaller picture behind this block, in the first steps: large pictures do not show things twice."""
    return _altered(
        model,
        "deep shrink",
        block=block_number,
        factor=downscale_factor,
        start=start_percent,
        end=end_percent,
        after_skip=downscale_after_skip,
        down=downscale_method,
        up=upscale_method,
    )


@node("TorchCompileModel", category="_for_testing", outputs=[Output("MODEL")], experimental=True)
def torch_compile_model(model: Model, backend: Literal["inductor", "cudagraphs"]) -> ModelRef:
    """The model compiled: the first step of the first sampling takes minutes, those after it less time than usual.

    Calls that another option changes, FreeU or perturbed attention say, are computed as usual.
    """
    return model.with_settings(**{diffusion.compiled.SETTING: backend})
