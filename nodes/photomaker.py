"""People put into pictures."""

from __future__ import annotations

from typing import Annotated, Any

from engine.fileref import FileRef
from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.spec import Estimate, FileChoice, Output, node
from nodes import diffusion
from nodes.loaders import file_size, opened, part_of
from nodes.sockets import Clip, Image, PhotoMaker
from nodes.text import Text, encode, files_of_text

CATEGORY = "_for_testing/photomaker"


def _photomaker_estimate(photomaker_model_name: FileRef | None) -> Estimate:
    return Estimate(model_bytes=file_size(photomaker_model_name.path) if photomaker_model_name else 0)


@node(
    "PhotoMakerLoader",
    category=CATEGORY,
    outputs=[Output("PHOTOMAKER")],
    estimate=_photomaker_estimate,
    experimental=True,
)
def photo_maker_loader(photomaker_model_name: Annotated[FileRef, FileChoice("photomaker")]) -> ModelRef:
    """PhotoMaker, which makes a word of a person's looks."""
    opened(photomaker_model_name, "photomaker")
    return part_of(photomaker_model_name, "photomaker")


@node(
    "PhotoMakerEncode",
    category=CATEGORY,
    outputs=[Output("CONDITIONING")],
    reads=files_of_text,
    experimental=True,
    version=2,
)
def photo_maker_encode(
    ctx: NodeContext, *, photomaker: PhotoMaker, image: Image, clip: Clip, text: Text = "photograph of photomaker"
) -> list[Any]:
    """A prompt in which the word before photomaker means the person in the first picture."""
    plain, place = diffusion.photomaker.split(text)
    entries = encode(ctx, plain, clip)
    if place is None:
        ctx.warn("the text does not have the word photomaker; the picture is left out of account")
        return entries
    if len(image) > 1:
        ctx.warn(f"PhotoMaker looks at one picture, found {len(image)}; the first one is used")
    with ctx.models.lease(photomaker) as loaded:
        return [diffusion.photomaker.told(entry, place, image, loaded) for entry in entries]
