"""Depth, normals, segments and colours for ControlNets, with the shorter side at the resolution asked for."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from engine.run.context import NodeContext
from engine.spec import Optional, Range, Seed, node
from nodes import diffusion
from nodes.annotating import IMAGE, ROOT, Off, Reads, Resolution, annotated, leased, plain, reads, recipe
from nodes.sockets import Image, Mask, Tensor

DEPTH: Final = f"{ROOT}/Normal and Depth Estimators"
SEGMENTS: Final = f"{ROOT}/Semantic Segmentation"
T2I: Final = f"{ROOT}/T2IAdapter-only"
TILE: Final = f"{ROOT}/tile"
RECOLOR: Final = f"{ROOT}/Recolor"
OTHERS: Final = f"{ROOT}/others"

Angle = Annotated[float, Range(0.0, 15.707963267948966, step=0.01), Optional()]
Background = Annotated[float, Range(0, 1, step=0.01), Optional()]
Percent = Annotated[float, Range(0, 100.0, step=0.01), Optional()]
Gamma = Annotated[float, Range(0.1, 2.0, step=0.01), Optional()]
Blur = Annotated[float, Range(1.0, 10.0, step=0.01), Optional()]
Scale = Annotated[float, Range(1.0, 8.0, step=0.01), Optional()]


def _by_folder(ctx: NodeContext, image: Tensor, resolution: int, network: str, detect: Any) -> Tensor:
    """As ``annotated``, for networks whose folder says how pictures are prepared: ``detect`` is told it too."""
    folder = Path(recipe(ctx, network).location)
    return annotated(ctx, image, resolution, network, lambda module, pixels: detect(module, pixels, folder))


@node("MiDaS-DepthMapPreprocessor", title="MiDaS Depth Map", category=DEPTH, outputs=IMAGE, reads=reads("midas"))
def midas_depth(
    ctx: NodeContext,
    image: Image,
    a: Angle = 6.283185307179586,
    bg_threshold: Background = 0.1,
    resolution: Resolution = 512,
) -> Tensor:
    """Depth by MiDaS, near bright. What a and the threshold say counts for its normal map alone."""
    tools = diffusion.annotators.depth
    return _by_folder(ctx, image, resolution, "midas", lambda *given: tools.relief(tools.midas(*given)))


@node("MiDaS-NormalMapPreprocessor", title="MiDaS Normal Map", category=DEPTH, outputs=IMAGE, reads=reads("midas"))
def midas_normal(
    ctx: NodeContext,
    image: Image,
    a: Angle = 6.283185307179586,
    bg_threshold: Background = 0.1,
    resolution: Resolution = 512,
) -> Tensor:
    """Normals of MiDaS' depth, the flatter the larger a is. What is farther than the threshold of all depth is flat."""
    tools = diffusion.annotators.depth
    find = lambda *given: tools.normals(tools.midas(*given), a, bg_threshold)  # noqa: E731
    return _by_folder(ctx, image, resolution, "midas", find)


@node("Zoe-DepthMapPreprocessor", title="Zoe Depth Map", category=DEPTH, outputs=IMAGE, reads=reads("zoe"))
def zoe_depth(ctx: NodeContext, image: Image, resolution: Resolution = 512) -> Tensor:
    """Depth by ZoeDepth, near bright, between the nearest and the farthest parts of the picture."""
    return _by_folder(ctx, image, resolution, "zoe", diffusion.annotators.depth.zoe)


def _size_of(network: str, file: str) -> str:
    """The network that a file of Depth Anything holds, after its name: ``depth_anything_vitl14.pth``."""
    return f"{network}_{file.rpartition('_')[2][:4]}"


def _depth_networks(network: str, usual: str, ckpt_name: object = None, **others: object) -> tuple[str, ...]:
    return (_size_of(network, ckpt_name if isinstance(ckpt_name, str) else usual),)


def _depth_anything(ctx: NodeContext, image: Tensor, resolution: int, network: str) -> Tensor:
    tools = diffusion.annotators.depth
    return _by_folder(ctx, image, resolution, network, lambda *given: tools.relief(tools.seen(*given)))


@node(
    "DepthAnythingPreprocessor",
    title="Depth Anything",
    category=DEPTH,
    outputs=IMAGE,
    reads=Reads(partial(_depth_networks, "depth_anything", "vitl")),
)
def depth_anything(
    ctx: NodeContext,
    image: Image,
    ckpt_name: Annotated[
        Literal["depth_anything_vitl14.pth", "depth_anything_vitb14.pth", "depth_anything_vits14.pth"], Optional()
    ] = "depth_anything_vitl14.pth",
    resolution: Resolution = 512,
) -> Tensor:
    """Depth by Depth Anything, near bright, by a model of this size: transformers' folder of it, or the file."""
    return _depth_anything(ctx, image, resolution, _size_of("depth_anything", ckpt_name))


@node(
    "DepthAnythingV2Preprocessor",
    title="Depth Anything V2 - Relative",
    category=DEPTH,
    outputs=IMAGE,
    reads=Reads(partial(_depth_networks, "depth_anything_v2", "vitl")),
)
def depth_anything_v2(
    ctx: NodeContext,
    image: Image,
    ckpt_name: Annotated[
        Literal[
            "depth_anything_v2_vitg.pth",
            "depth_anything_v2_vitl.pth",
            "depth_anything_v2_vitb.pth",
            "depth_anything_v2_vits.pth",
        ],
        Optional(),
    ] = "depth_anything_v2_vitl.pth",
    resolution: Resolution = 512,
) -> Tensor:
    """Depth by the second Depth Anything, near bright, by a model of this size: transformers' folder of it, or the file."""
    return _depth_anything(ctx, image, resolution, _size_of("depth_anything_v2", ckpt_name))


def _leres_networks(boost: object = None, **others: object) -> tuple[str, ...]:
    return ("leres",) if boost == "disable" else ("leres", "leres_boost")


@node(
    "LeReS-DepthMapPreprocessor",
    title="LeReS Depth Map (enable boost for leres++)",
    category=DEPTH,
    outputs=IMAGE,
    reads=Reads(_leres_networks),
)
def leres_depth(
    ctx: NodeContext,
    image: Image,
    rm_nearest: Percent = 0,
    rm_background: Percent = 0,
    boost: Off = "disable",
    resolution: Resolution = 512,
) -> Tensor:
    """Depth by LeReS, near bright. Percents of what is nearest and farthest can be made black; boosting finds finer detail."""
    with ExitStack() as stack:
        networks = _leres_networks(boost)
        first, *more = [stack.enter_context(leased(ctx, name, image, resolution)).module for name in networks]
        booster = more[0] if more else None
        find = partial(
            diffusion.annotators.depth.leres, first, near=rm_nearest, background=rm_background, boost=booster
        )
        return plain(ctx, image, resolution, find)


@node("BAE-NormalMapPreprocessor", title="BAE Normal Map", category=DEPTH, outputs=IMAGE, reads=reads("normal_bae"))
def bae_normal(ctx: NodeContext, image: Image, resolution: Resolution = 512) -> Tensor:
    """Normals by BAE."""
    return annotated(ctx, image, resolution, "normal_bae", diffusion.annotators.edges.normal_bae)


def _oneformer(ctx: NodeContext, image: Tensor, resolution: int, kind: str) -> Tensor:
    find = partial(diffusion.annotators.segments.oneformer, kind=kind)
    return _by_folder(ctx, image, resolution, f"oneformer_{kind}", find)


@node(
    "OneFormer-COCO-SemSegPreprocessor",
    title="OneFormer COCO Segmentor",
    category=SEGMENTS,
    outputs=IMAGE,
    reads=reads("oneformer_coco"),
)
def oneformer_coco(ctx: NodeContext, image: Image, resolution: Resolution = 512) -> Tensor:
    """Segments in the colours of COCO's 133 kinds of things."""
    return _oneformer(ctx, image, resolution, "coco")


@node(
    "OneFormer-ADE20K-SemSegPreprocessor",
    title="OneFormer ADE20K Segmentor",
    category=SEGMENTS,
    outputs=IMAGE,
    reads=reads("oneformer_ade20k"),
)
def oneformer_ade20k(ctx: NodeContext, image: Image, resolution: Resolution = 512) -> Tensor:
    """Segments in the colours of ADE20K's 150 kinds of things, which ControlNets for segments know."""
    return _oneformer(ctx, image, resolution, "ade20k")


@node(
    "UniFormer-SemSegPreprocessor",
    title="UniFormer Segmentor",
    category=SEGMENTS,
    outputs=IMAGE,
    reads=reads("ade20k"),
)
def uniformer(ctx: NodeContext, image: Image, resolution: Resolution = 512) -> Tensor:
    """Segments in the colours of ADE20K, by UPerNet or SegFormer in UniFormer's place, which transformers does not have."""
    return _by_folder(ctx, image, resolution, "ade20k", diffusion.annotators.segments.semantic)


@node(
    "SemSegPreprocessor",
    title="Semantic Segmentor (legacy, alias for UniFormer)",
    category=SEGMENTS,
    outputs=IMAGE,
    reads=reads("ade20k"),
)
def sem_seg(ctx: NodeContext, image: Image, resolution: Resolution = 512) -> Tensor:
    """The same as the UniFormer Segmentor."""
    return _by_folder(ctx, image, resolution, "ade20k", diffusion.annotators.segments.semantic)


@node("SAMPreprocessor", title="SAM Segmentor", category=OTHERS, outputs=IMAGE, reads=reads("sam_picture"))
def sam_segments(ctx: NodeContext, image: Image, resolution: Resolution = 512) -> Tensor:
    """All that Segment Anything finds, each in a colour of its own; colours say nothing of what it is."""
    tools = diffusion.annotators.sam

    def find(module: Any, pixels: Any) -> Any:
        found = tools.everything(module, pixels, ctx.check_cancelled)
        return tools.painted(found, *pixels.shape[:2])

    return annotated(ctx, image, resolution, "sam_picture", find)


@node("ShufflePreprocessor", title="Content Shuffle", category=T2I, outputs=IMAGE)
def shuffle(
    ctx: NodeContext,
    image: Image,
    resolution: Resolution = 512,
    seed: Annotated[int, Range(0, 2**64 - 1), Seed(), Optional()] = 0,
) -> Tensor:
    """The picture bent until nothing but its colours can be told. A seed always bends it in the same way."""
    return plain(ctx, image, resolution, partial(diffusion.annotators.colours.shuffled, seed=seed))


@node("ColorPreprocessor", title="Color Pallete", category=T2I, outputs=IMAGE)
def colour_palette(ctx: NodeContext, image: Image, resolution: Resolution = 512) -> Tensor:
    """The picture in squares of 64 pixels, each of one colour."""
    find = partial(diffusion.annotators.colours.palette, resolution=resolution)
    return diffusion.annotators.frames.each(image, find, ctx.progress)


@node("ImageLuminanceDetector", title="Image Luminance", category=RECOLOR, outputs=IMAGE)
def luminance(ctx: NodeContext, image: Image, gamma_correction: Gamma = 1.0, resolution: Resolution = 512) -> Tensor:
    """How light the picture is to the eye."""
    find = partial(diffusion.annotators.colours.brightness, kind="luminance", gamma=gamma_correction)
    return plain(ctx, image, resolution, find)


@node("ImageIntensityDetector", title="Image Intensity", category=RECOLOR, outputs=IMAGE)
def intensity(ctx: NodeContext, image: Image, gamma_correction: Gamma = 1.0, resolution: Resolution = 512) -> Tensor:
    """The brightest of the picture's three channels."""
    find = partial(diffusion.annotators.colours.brightness, kind="intensity", gamma=gamma_correction)
    return plain(ctx, image, resolution, find)


@node("TilePreprocessor", title="Tile", category=TILE, outputs=IMAGE)
def tile(
    ctx: NodeContext,
    image: Image,
    pyrUp_iters: Annotated[int, Range(1, 10, step=1), Optional()] = 3,
    resolution: Resolution = 512,
) -> Tensor:
    """The picture made smaller by a half so many times and larger again, at its own size in multiples of 64."""
    find = partial(diffusion.annotators.colours.tile, times=pyrUp_iters)
    return diffusion.annotators.frames.each(image, find, ctx.progress)


@node("TTPlanet_TileGF_Preprocessor", title="TTPlanet Tile GuidedFilter", category=TILE, outputs=IMAGE)
def tile_guided(
    ctx: NodeContext,
    image: Image,
    scale_factor: Scale = 1.0,
    blur_strength: Blur = 2.0,
    radius: Annotated[int, Range(1, 20, step=1), Optional()] = 7,
    eps: Annotated[float, Range(0.001, 0.1, step=0.001), Optional()] = 0.01,
    resolution: Resolution = 512,
) -> Tensor:
    """The picture at its own size with less detail, blurred within its edges."""
    tools = diffusion.annotators
    find = partial(tools.colours.tile_guided, scale=scale_factor, blur=blur_strength, radius=radius, eps=eps)
    return tools.frames.each(image, find, ctx.progress)


@node("TTPlanet_TileSimple_Preprocessor", title="TTPlanet Tile Simple", category=TILE, outputs=IMAGE)
def tile_simple(ctx: NodeContext, image: Image, scale_factor: Scale = 1.0, blur_strength: Blur = 2.0) -> Tensor:
    """The picture at its own size with less detail, then blurred."""
    find = partial(diffusion.annotators.colours.tile_simple, scale=scale_factor, blur=blur_strength)
    return diffusion.annotators.frames.each(image, find, ctx.progress)


@node("InpaintPreprocessor", title="Inpaint Preprocessor", category=OTHERS, outputs=IMAGE)
def inpaint(image: Image, mask: Mask, black_pixel_for_xinsir_cn: Annotated[bool, Optional()] = False) -> Tensor:
    """The picture with -1 where it is masked, which ControlNets for inpainting look for; some SDXL ones look for black."""
    return diffusion.annotators.colours.inpainted(image, mask, 0.0 if black_pixel_for_xinsir_cn else -1.0)
