"""Faces: found in pictures, cut out, restored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final, Literal

from engine.errors import InputError, MissingFile
from engine.fileref import FileRef
from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.spec import Estimate, FileChoice, Output, Range, Socket, node
from nodes import diffusion
from nodes.annotating import recipe_of
from nodes.diffusion.faces.files import FINDERS, FOLDER, missing
from nodes.loaders import file_size, part_of
from nodes.sockets import Image, Tensor

if TYPE_CHECKING:
    from nodes.diffusion.faces.restoring import Ways

FACES: Final = "facerestore_cf"

Finder = Literal["retinaface_resnet50", "retinaface_mobile0.25", "YOLOv5l", "YOLOv5n"]
FaceRestoreModel = Annotated[ModelRef, Socket("FACERESTORE_MODEL")]


def _check_finder(facedetection: str | None = None, **others: object) -> str | None:
    if facedetection is None or facedetection in FINDERS:
        return None
    return f"input facedetection: expected {' or '.join(FINDERS)}, found {facedetection}, which is not built in; choose one of the two"


def _read_by(facedetection: str | None = None, **others: object) -> Iterator[tuple[str, str | None]]:
    chosen = FINDERS.values() if facedetection is None else [FINDERS[facedetection]] if facedetection in FINDERS else []
    yield from ((FOLDER, name) for known in chosen for name in known.names())


def _restorer_estimate(model_name: FileRef | None) -> Estimate:
    return Estimate(model_bytes=file_size(model_name.path) if model_name else 0)


def _finder(ctx: NodeContext, name: str) -> ModelRef:
    if problem := _check_finder(name):
        raise InputError(problem.partition(": ")[2], input="facedetection")
    for place in FINDERS[name].names():
        if (file := ctx.find_file(FOLDER, place)) is not None:
            return recipe_of(file, name)
    raise MissingFile(missing(name), input="facedetection")


def _found(ctx: NodeContext, image: Tensor, name: str) -> Ways:
    tools = diffusion.faces
    room = tools.finding.working_bytes(*image.shape[1:3]) if image.numel() else 0
    with ctx.models.lease(_finder(ctx, name), working_bytes=room) as loaded:
        return tools.restoring.found(loaded.module, image, ctx.progress, ctx.warn)


@node("FaceRestoreModelLoader", category=FACES, outputs=[Output("FACERESTORE_MODEL")], estimate=_restorer_estimate)
def face_restore_model_loader(model_name: Annotated[FileRef, FileChoice("facerestore_models")]) -> ModelRef:
    """A restorer of faces: GFPGAN, RestoreFormer, CodeFormer with the extra faces; or an upscaler that was trained on faces."""
    return diffusion.upscalers.recipe(part_of(model_name, "upscaler"), "restorer of faces")


@node("FaceRestoreCFWithModel", category=FACES, outputs=[Output("IMAGE")], check=_check_finder, reads=_read_by)
def face_restore_with_model(
    ctx: NodeContext,
    facerestore_model: FaceRestoreModel,
    image: Image,
    facedetection: Finder,
    codeformer_fidelity: Annotated[float, Range(0.0, 1.0, step=0.05)] = 0.5,
) -> Tensor:
    """Pictures with the faces in them restored; all else stays as it is. A picture without a face comes back, and the run says so.

    CodeFormer keeps more of what it is shown the higher its fidelity; other models leave it out of account.
    """
    ways = _found(ctx, image, facedetection)
    if not any(ways):
        return image
    tools = diffusion.faces.restoring
    with ctx.models.lease(facerestore_model, working_bytes=tools.WORKING) as loaded:
        return tools.restored(image, ways, tools.by(loaded, codeformer_fidelity), ctx.progress)


@node("CropFace", category=FACES, outputs=[Output("IMAGE")], check=_check_finder, reads=_read_by)
def crop_face(ctx: NodeContext, image: Image, facedetection: Finder) -> Tensor:
    """The faces in pictures, upright, at 512 x 512 pixels, picture by picture; a black one for a picture without any."""
    return diffusion.faces.restoring.cropped(image, _found(ctx, image, facedetection))
