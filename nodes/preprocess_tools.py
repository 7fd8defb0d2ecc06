"""One node for all preprocessors, sizes that fit them, and hints at other sizes."""

from __future__ import annotations

import importlib.util
from typing import Annotated, Any, Final, Literal

from engine.graph.graph import Call, Graph, Link, NodeId
from engine.run.context import NodeContext
from engine.run.results import Expand
from engine.spec import MISSING, Choices, NodeSpec, Optional, Output, Range, RawLink, Socket, node
from nodes import diffusion, preprocess_lines, preprocess_maps, preprocess_poses
from nodes.annotating import IMAGE, ROOT, Reads, Resolution, is_there
from nodes.sockets import Image, Latent, Tensor

PREPROCESSORS: Final = (
    "AnimalPosePreprocessor", "AnyLineArtPreprocessor_aux", "BinaryPreprocessor", "CannyEdgePreprocessor", "ColorPreprocessor",
    "DepthAnythingPreprocessor", "DepthAnythingV2Preprocessor", "DWPreprocessor", "HEDPreprocessor", "FakeScribblePreprocessor",
    "LeReS-DepthMapPreprocessor", "LineArtPreprocessor", "AnimeLineArtPreprocessor", "LineartStandardPreprocessor",
    "Manga2Anime_LineArt_Preprocessor", "MiDaS-NormalMapPreprocessor", "MiDaS-DepthMapPreprocessor", "M-LSDPreprocessor",
    "BAE-NormalMapPreprocessor", "OneFormer-COCO-SemSegPreprocessor", "OneFormer-ADE20K-SemSegPreprocessor", "OpenposePreprocessor",
    "PiDiNetPreprocessor", "PyraCannyPreprocessor", "ImageLuminanceDetector", "ImageIntensityDetector", "ScribblePreprocessor",
    "Scribble_XDoG_Preprocessor", "Scribble_PiDiNet_Preprocessor", "SAMPreprocessor", "ShufflePreprocessor", "TEEDPreprocessor",
    "TilePreprocessor", "TTPlanet_TileGF_Preprocessor", "TTPlanet_TileSimple_Preprocessor", "UniFormer-SemSegPreprocessor",
    "SemSegPreprocessor", "Zoe-DepthMapPreprocessor",
)  # fmt: skip
"""Those that need nothing but a picture, in the order in which they are offered."""

_OF_ONNX: Final = frozenset({"AnimalPosePreprocessor", "DWPreprocessor"})

Chosen = Annotated[str, Choices(("none", *PREPROCESSORS))]
Side = Annotated[int, Range(64, 8192, step=8)]
ResizeMode = Literal["Just Resize", "Crop and Resize", "Resize and Fill"]
Linked = Annotated[Any, Socket("IMAGE"), RawLink()]

_SPECS: Final = {
    spec.type: spec
    for module in (preprocess_lines, preprocess_maps, preprocess_poses)
    for spec in vars(module).values()
    if isinstance(spec, NodeSpec)
}


def _call(preprocessor: str, image: Link, resolution: int) -> Call:
    """A preprocessor with all that it takes as it usually is."""
    sized = {"resolution": resolution} if _SPECS[preprocessor].input("resolution") is not None else {}
    return Call(preprocessor, {"image": image, **sized})


@node("AIO_Preprocessor", title="AIO Aux Preprocessor", category=ROOT, outputs=IMAGE, expands=True)
def all_in_one(
    image: Linked,
    preprocessor: Annotated[str, Choices(("none", *PREPROCESSORS)), Optional()] = "none",
    resolution: Resolution = 512,
) -> Expand:
    """Any preprocessor, with all but the resolution as it usually is; with none the picture as it is."""
    if preprocessor == "none":
        return Expand(Graph({}), (image,))
    graph = Graph({NodeId("map"): _call(preprocessor, image, resolution)})
    return Expand(graph, (Link(NodeId("map"), 0),))


@node(
    "ControlNetPreprocessorSelector",
    title="Preprocessor Selector",
    category=ROOT,
    outputs=[Output("COMBO", "preprocessor")],
)
def selector(preprocessor: Chosen) -> str:
    """The name of a preprocessor, for other nodes to run."""
    return preprocessor


def _networks(preprocessor: str) -> tuple[str, ...]:
    """What it needs if all that it takes is as it usually is."""
    spec = _SPECS[preprocessor]
    usual = {entry.name: None if entry.default is MISSING else entry.default for entry in spec.inputs}
    return tuple(spec.reads.networks(**usual)) if isinstance(spec.reads, Reads) else ()


def _all_networks(**literals: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(network for name in PREPROCESSORS for network in _networks(name)))


def _lacking(ctx: NodeContext, preprocessor: str) -> bool:
    is_installed = preprocessor not in _OF_ONNX or importlib.util.find_spec("onnxruntime") is not None
    return not is_installed or not all(is_there(ctx, network) for network in _networks(preprocessor))


@node(
    "ExecuteAllControlNetPreprocessors",
    title="Execute All ControlNet Preprocessors",
    category=ROOT,
    outputs=IMAGE,
    expands=True,
    reads=Reads(_all_networks),
)
def execute_all(ctx: NodeContext, image: Linked, resolution: Resolution = 512) -> Expand:
    """What every preprocessor makes of the first picture, in one batch, each with its name on it. Those without weights are left out."""
    lacking = [name for name in PREPROCESSORS if _lacking(ctx, name)]
    if lacking:
        ctx.warn(f"left out, as their weights are not there: {', '.join(lacking)}")
    calls: dict[NodeId, Call] = {}
    batch: Link | None = None
    for number, name in enumerate(name for name in PREPROCESSORS if name not in lacking):
        made, named, joined = (NodeId(f"{kind}{number}") for kind in ("map", "named", "joined"))
        calls[made] = _call(name, image, resolution)
        calls[named] = Call("ControlNetAuxSimpleAddText", {"image": Link(made, 0), "text": name})
        if batch is not None:
            calls[joined] = Call("ImageBatch", {"image1": batch, "image2": Link(named, 0)})
        batch = Link(named if batch is None else joined, 0)
    return Expand(Graph(calls), (batch,))


@node("ControlNetAuxSimpleAddText", category=ROOT, outputs=IMAGE)
def add_text(image: Image, text: str = "") -> Tensor:
    """The first picture with a text in its upper left corner."""
    return diffusion.annotators.hints.captioned(image, text)


@node(
    "PixelPerfectResolution",
    title="Pixel Perfect Resolution",
    category=ROOT,
    outputs=[Output("INT", "RESOLUTION (INT)")],
)
def pixel_perfect(
    original_image: Image,
    image_gen_width: Side = 512,
    image_gen_height: Side = 512,
    resize_mode: ResizeMode = "Just Resize",
) -> int:
    """The resolution at which a preprocessor sees the picture as large as what is to be generated."""
    height, width = original_image.shape[1:3]
    return diffusion.annotators.hints.pixel_perfect(height, width, image_gen_height, image_gen_width, resize_mode)


_SIZE: Final = (Output("INT", "IMAGE_GEN_WIDTH (INT)"), Output("INT", "IMAGE_GEN_HEIGHT (INT)"))


@node("ImageGenResolutionFromImage", title="Generation Resolution From Image", category=ROOT, outputs=_SIZE)
def size_of_image(image: Image) -> tuple[int, int]:
    """Width and height of a picture."""
    return int(image.shape[2]), int(image.shape[1])


@node("ImageGenResolutionFromLatent", title="Generation Resolution From Latent", category=ROOT, outputs=_SIZE)
def size_of_latent(latent: Latent) -> tuple[int, int]:
    """Width and height of the picture that a latent becomes."""
    height, width = latent["samples"].shape[-2:]
    return 8 * int(width), 8 * int(height)


@node("HintImageEnchance", title="Enchance And Resize Hint Images", category=ROOT, outputs=IMAGE)
def resize_hint(
    ctx: NodeContext,
    hint_image: Image,
    image_gen_width: Side = 512,
    image_gen_height: Side = 512,
    resize_mode: ResizeMode = "Just Resize",
) -> Tensor:
    """A hint at another size: thin lines stay thin, black and white stay so, and segments keep their colours."""
    tools = diffusion.annotators

    def resized(pixels: Any) -> Any:
        return tools.hints.resized(pixels, image_gen_width, image_gen_height, resize_mode)

    return tools.frames.each(hint_image, resized, ctx.progress)
