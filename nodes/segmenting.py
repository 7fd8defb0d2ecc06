"""Segment Anything: from points and boxes to masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from engine.errors import InputError
from engine.fileref import FileRef
from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.spec import Estimate, FileChoice, Multiline, Optional, Output, Socket, SocketOnly, node
from nodes import diffusion
from nodes.annotating import recipe_of
from nodes.loaders import file_size
from nodes.sockets import Image, Tensor

SamModel = Annotated[ModelRef, Socket("SAM_MODEL,SAM2MODEL")]
Sam2Model = Annotated[ModelRef, Socket("SAM2MODEL")]
Boxes = Annotated[Any | None, Socket("BBOX")]
Json = Annotated[str | None, SocketOnly()]

_CPU: Final = "Segment Anything runs where all models do; the device cpu is left out of account"


def _sam_estimate(model_name: FileRef | None = None, model: FileRef | None = None, **others: object) -> Estimate:
    file = model_name or model
    return Estimate(model_bytes=file_size(file.path) if file else 0)


def _sam(ctx: NodeContext, file: FileRef, device: str) -> ModelRef:
    if device.lower() == "cpu":
        ctx.warn(_CPU)
    return recipe_of(file, "sam")


@node(
    "SAMLoader",
    title="SAMLoader (Impact)",
    category="ImpactPack",
    outputs=[Output("SAM_MODEL")],
    estimate=_sam_estimate,
)
def sam_loader(
    ctx: NodeContext,
    model_name: Annotated[FileRef, FileChoice("sams")],
    device_mode: Annotated[Literal["AUTO", "Prefer GPU", "CPU"], Optional()] = "AUTO",
) -> ModelRef:
    """Segment Anything, the first or the second version, of a file in the layout it was released in or of transformers' folder."""
    return _sam(ctx, model_name, device_mode)


@node(
    "DownloadAndLoadSAM2Model",
    title="(Down)Load SAM2Model",
    category="SAM2",
    outputs=[Output("SAM2MODEL", "sam2_model")],
    estimate=_sam_estimate,
)
def sam2_loader(
    ctx: NodeContext,
    model: Annotated[FileRef, FileChoice("sam2")],
    segmentor: Literal["single_image"],
    device: Literal["cuda", "cpu", "mps"],
    precision: Literal["fp16", "bf16", "fp32"] = "fp16",
) -> ModelRef:
    """Segment Anything 2, of a file in models/sam2. Nothing is downloaded, and it computes as all such models do here, in fp32."""
    return _sam(ctx, model, device)


def _segmented(
    ctx: NodeContext, model: ModelRef, image: Tensor, find: Callable[[Any, Any, int], list[Tensor]]
) -> list[list[Tensor]]:
    """Masks of the objects of each picture. ``find`` is called with the network, what it saw, and the picture's number."""
    tools = diffusion.annotators
    tools.frames.check(image)
    found = []
    with ctx.models.lease(model, working_bytes=tools.sam.WORKING) as loaded:
        for index, picture in enumerate(image):
            ctx.progress(index, len(image))
            found.append(find(loaded.module, tools.sam.look(loaded.module, tools.frames.levels(picture)), index))
    ctx.progress(len(image), len(image))
    return found


@node(
    "SegmentAnything",
    title="Segment Anything (Points and Boxes)",
    category="mask/segment",
    outputs=[Output("MASK", "mask"), Output("MASK", "objects")],
)
def segment_anything(
    ctx: NodeContext,
    *,
    model: SamModel,
    image: Image,
    points: Annotated[str, Multiline()] = "[]",
    boxes: Annotated[str, Multiline()] = "[]",
    each_apart: bool = False,
    choice: Literal["best", "1", "2", "3", "single"] = "best",
    bboxes: Boxes = None,
) -> tuple[Tensor, Tensor]:
    """The mask of what points and boxes mean, in each picture, and the masks of all its objects apart.

    Points are JSON in pixels: [[x, y], ...], or [x, y, 0] for one beside the object. Boxes are [[left, top, right, bottom], ...]. All
    points are on one object, unless each is to be apart; several boxes are several objects.

    A point may mean a part or the whole: of the three masks it stands for, best is what the model rates highest, 1 to 3 are each of
    them, and single is the one mask it has for what is clear.
    """
    sam = diffusion.annotators.sam
    given = [*sam.read_boxes(boxes, "boxes"), *(sam.read_boxes(bboxes, "bboxes") if bboxes is not None else ())]
    objects = sam.prompts(sam.read_points(points, 1, "points"), given, apart=each_apart)
    _require(objects, image)
    found = _segmented(
        ctx, model, image, lambda net, seen, _: [sam.chosen(net, seen, each, choice) for each in objects]
    )
    return sam.united(found), sam.stacked(found)


def _require(objects: list[Any], image: Tensor) -> None:
    if not objects:
        raise InputError("expected at least one point or box, found none; say where the object is", input="points")
    diffusion.annotators.sam.check_inside(objects, *image.shape[1:3])


@node("Sam2Segmentation", category="SAM2", outputs=[Output("MASK", "mask")])
def sam2_segmentation(
    ctx: NodeContext,
    sam2_model: Sam2Model,
    image: Image,
    keep_model_loaded: bool = False,
    coordinates_positive: Json = None,
    coordinates_negative: Json = None,
    bboxes: Boxes = None,
    individual_objects: Annotated[bool, Optional()] = False,
    mask: Annotated[Tensor | None, Socket("MASK")] = None,
) -> Tensor:
    """The mask of what points and boxes mean, in each picture by itself.

    Points are on one object, unless they are individual objects; several boxes are several. A mask says where the object was before.
    Models stay loaded as long as there is room, whatever is asked for.
    """
    sam = diffusion.annotators.sam
    points = [
        *sam.read_points(coordinates_positive or "[]", 1, "coordinates_positive"),
        *sam.read_points(coordinates_negative or "[]", 0, "coordinates_negative"),
    ]
    boxes = [] if bboxes is None else sam.read_boxes(bboxes, "bboxes")
    objects = sam.prompts(points, boxes, apart=individual_objects)
    _require(objects, image)
    choice: Any = "single" if individual_objects else "best"

    def find(network: Any, seen: Any, index: int) -> list[Tensor]:
        before = None if mask is None else mask[min(index, len(mask) - 1)]
        return [sam.chosen(network, seen, each, choice, before) for each in objects]

    return sam.united(_segmented(ctx, sam2_model, image, find))
