"""Lines and edges for ControlNets: white on black, with the shorter side at the resolution asked for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, Literal

from engine.run.context import NodeContext
from engine.spec import Optional, Output, Range, node
from nodes import diffusion
from nodes.annotating import IMAGE, ROOT, Byte, Off, On, Reads, Resolution, annotated, plain, reads
from nodes.sockets import Image, Tensor

if TYPE_CHECKING:
    from nodes.diffusion.annotators.edges import Style

LINES: Final = f"{ROOT}/Line Extractors"

Part = Annotated[float, Range(0, 1, step=0.01), Optional()]
Count = Annotated[int, Range(1, 16384, step=1), Optional()]


@node("CannyEdgePreprocessor", title="Canny Edge", category=LINES, outputs=IMAGE)
def canny_edge(
    ctx: NodeContext, image: Image, low_threshold: Byte = 100, high_threshold: Byte = 200, resolution: Resolution = 512
) -> Tensor:
    """Canny's edges. One begins where the levels change by more than the high threshold, and goes on down to the low one."""
    find = diffusion.annotators.lines.canny
    return plain(ctx, image, resolution, partial(find, low=low_threshold, high=high_threshold))


@node("PyraCannyPreprocessor", title="PyraCanny", category=LINES, outputs=IMAGE)
def pyra_canny(
    ctx: NodeContext, image: Image, low_threshold: Byte = 64, high_threshold: Byte = 128, resolution: Resolution = 512
) -> Tensor:
    """Canny's edges of each colour at nine sizes, together: what is an edge at many of them is bright."""
    find = diffusion.annotators.lines.pyramid_canny
    return plain(ctx, image, resolution, partial(find, low=low_threshold, high=high_threshold))


@node("BinaryPreprocessor", title="Binary Lines", category=LINES, outputs=IMAGE)
def binary(ctx: NodeContext, image: Image, bin_threshold: Byte = 100, resolution: Resolution = 512) -> Tensor:
    """White where it is brighter than the threshold, black elsewhere. With 0 or 255 the threshold that parts the picture best."""
    return plain(ctx, image, resolution, partial(diffusion.annotators.lines.binary, threshold=bin_threshold))


@node("LineartStandardPreprocessor", title="Standard Lineart", category=LINES, outputs=IMAGE)
def lineart_standard(
    ctx: NodeContext,
    image: Image,
    guassian_sigma: Annotated[float, Range(0, 100.0, step=0.01), Optional()] = 6.0,
    intensity_threshold: Annotated[int, Range(0, 16, step=1), Optional()] = 8,
    resolution: Resolution = 512,
) -> Tensor:
    """What is darker than its surroundings, blurred over sigma: the strokes of a drawing."""
    find = diffusion.annotators.lines.standard
    return plain(ctx, image, resolution, partial(find, sigma=guassian_sigma, threshold=intensity_threshold))


@node("ScribblePreprocessor", title="Scribble Lines", category=LINES, outputs=IMAGE)
def scribble(ctx: NodeContext, image: Image, resolution: Resolution = 512) -> Tensor:
    """A drawing in two tones: black where it is dark, white elsewhere."""
    return plain(ctx, image, resolution, diffusion.annotators.lines.scribble)


@node("Scribble_XDoG_Preprocessor", title="Scribble XDoG Lines", category=LINES, outputs=IMAGE)
def scribble_xdog(
    ctx: NodeContext,
    image: Image,
    threshold: Annotated[int, Range(1, 64, step=1), Optional()] = 32,
    resolution: Resolution = 512,
) -> Tensor:
    """Where a picture slightly blurred is darker than one blurred more: lines as if drawn with a broad pen."""
    return plain(ctx, image, resolution, partial(diffusion.annotators.lines.xdog, threshold=threshold))


@node("HEDPreprocessor", title="HED Soft-Edge Lines", category=LINES, outputs=IMAGE, reads=reads("hed"))
def hed(ctx: NodeContext, image: Image, safe: On = "enable", resolution: Resolution = 512) -> Tensor:
    """Soft edges by HED. Safe ones come in three levels, so that nothing of the picture is left between them."""
    style: Style = "safe" if safe == "enable" else "soft"
    return annotated(ctx, image, resolution, "hed", partial(diffusion.annotators.edges.hed, style=style))


@node(
    "FakeScribblePreprocessor",
    title="Fake Scribble Lines (aka scribble_hed)",
    category=LINES,
    outputs=IMAGE,
    reads=reads("hed"),
)
def fake_scribble(ctx: NodeContext, image: Image, safe: On = "enable", resolution: Resolution = 512) -> Tensor:
    """HED's edges as lines that could be drawn by hand. Whether they are safe makes no difference to them."""
    return annotated(ctx, image, resolution, "hed", partial(diffusion.annotators.edges.hed, style="scribble"))


@node("PiDiNetPreprocessor", title="PiDiNet Soft-Edge Lines", category=LINES, outputs=IMAGE, reads=reads("pidinet"))
def pidinet(ctx: NodeContext, image: Image, safe: On = "enable", resolution: Resolution = 512) -> Tensor:
    """Soft edges by PiDiNet, finer than HED's. Safe ones come in three levels."""
    style: Style = "safe" if safe == "enable" else "soft"
    return annotated(ctx, image, resolution, "pidinet", partial(diffusion.annotators.edges.pidinet, style=style))


@node(
    "Scribble_PiDiNet_Preprocessor",
    title="Scribble PiDiNet Lines",
    category=LINES,
    outputs=IMAGE,
    reads=reads("pidinet"),
)
def scribble_pidinet(ctx: NodeContext, image: Image, safe: On = "enable", resolution: Resolution = 512) -> Tensor:
    """PiDiNet's edges as lines that could be drawn by hand."""
    draw = partial(diffusion.annotators.edges.pidinet, style="scribble", is_safe=safe == "enable")
    return annotated(ctx, image, resolution, "pidinet", draw)


@node("TEEDPreprocessor", category=LINES, outputs=IMAGE, reads=reads("teed"))
def teed(
    ctx: NodeContext,
    image: Image,
    safe_steps: Annotated[int, Range(0, 10, step=1), Optional()] = 2,
    resolution: Resolution = 512,
) -> Tensor:
    """Soft edges by TEED, in so many steps of brightness; with 0 in all."""
    return annotated(ctx, image, resolution, "teed", partial(diffusion.annotators.edges.teed, steps=safe_steps))


def _lineart_networks(coarse: object = None, **others: object) -> tuple[str, ...]:
    return {"disable": ("lineart",), "enable": ("lineart_coarse",)}.get(str(coarse), ("lineart", "lineart_coarse"))


@node("LineArtPreprocessor", title="Realistic Lineart", category=LINES, outputs=IMAGE, reads=Reads(_lineart_networks))
def lineart(ctx: NodeContext, image: Image, coarse: Off = "disable", resolution: Resolution = 512) -> Tensor:
    """A line drawing of a photograph, in detail or coarse."""
    (network,) = _lineart_networks(coarse)
    return annotated(ctx, image, resolution, network, diffusion.annotators.edges.lineart)


@node(
    "AnimeLineArtPreprocessor",
    title="Anime Lineart",
    category=LINES,
    outputs=IMAGE,
    reads=reads("lineart_anime"),
)
def lineart_anime(ctx: NodeContext, image: Image, resolution: Resolution = 512) -> Tensor:
    """The lines of an anime picture."""
    return annotated(ctx, image, resolution, "lineart_anime", diffusion.annotators.edges.lineart_anime)


@node(
    "Manga2Anime_LineArt_Preprocessor",
    title="Manga Lineart (aka lineart_anime_denoise)",
    category=LINES,
    outputs=IMAGE,
    reads=reads("manga_line"),
)
def manga_lineart(ctx: NodeContext, image: Image, resolution: Resolution = 512) -> Tensor:
    """The lines of a manga page without its screentones. The resolution is rounded up to a multiple of 256."""
    side = diffusion.annotators.edges.manga_resolution(resolution)
    return annotated(ctx, image, side, "manga_line", diffusion.annotators.edges.manga_lines)


@node("M-LSDPreprocessor", title="M-LSD Lines", category=LINES, outputs=IMAGE, reads=reads("mlsd"))
def mlsd(
    ctx: NodeContext,
    image: Image,
    score_threshold: Annotated[float, Range(0.01, 2.0, step=0.01), Optional()] = 0.1,
    dist_threshold: Annotated[float, Range(0.01, 20.0, step=0.01), Optional()] = 0.1,
    resolution: Resolution = 512,
) -> Tensor:
    """Straight lines alone, for rooms and buildings: those that are sure enough, and long enough."""
    find = partial(diffusion.annotators.edges.mlsd, score=score_threshold, distance=dist_threshold)
    return annotated(ctx, image, resolution, "mlsd", find)


_STROKES: Final = {
    "lineart_standard": None,
    "lineart_realisitic": "lineart",
    "lineart_anime": "lineart_anime",
    "manga_line": "manga_line",
}
"""What AnyLine merges, and by which network that is drawn."""


def _anyline_networks(merge_with_lineart: object = None, **others: object) -> tuple[str, ...]:
    strokes = _STROKES.get(str(merge_with_lineart))
    return ("mteed", strokes) if strokes else ("mteed",)


@node(
    "AnyLineArtPreprocessor_aux",
    title="AnyLine Lineart",
    category=LINES,
    outputs=[Output("IMAGE", "image")],
    reads=Reads(_anyline_networks),
)
def anyline(
    ctx: NodeContext,
    image: Image,
    merge_with_lineart: Annotated[
        Literal["lineart_standard", "lineart_realisitic", "lineart_anime", "manga_line"], Optional()
    ] = "lineart_standard",
    resolution: Annotated[int, Range(64, 16384, step=8), Optional()] = 1280,
    lineart_lower_bound: Part = 0,
    lineart_upper_bound: Part = 1,
    object_min_size: Count = 36,
    object_connectivity: Count = 1,
) -> Tensor:
    """Soft edges, and over them the strokes of a drawing that are neither too faint nor too small."""
    tools = diffusion.annotators
    soft = annotated(ctx, image, resolution, "mteed", partial(tools.edges.teed, steps=2))
    strokes = {
        "lineart_realisitic": tools.edges.lineart,
        "lineart_anime": tools.edges.lineart_anime,
        "manga_line": tools.edges.manga_lines,
    }.get(merge_with_lineart)
    network = _STROKES[merge_with_lineart]
    if strokes is None or network is None:
        drawn = plain(ctx, image, resolution, partial(tools.lines.standard, sigma=2.0, threshold=3))
    else:
        drawn = annotated(ctx, image, resolution, network, strokes)
    bounds = lineart_lower_bound, lineart_upper_bound
    return tools.lines.merged(soft, drawn, *bounds, object_min_size, object_connectivity)
