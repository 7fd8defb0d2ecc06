"""Things put into boxes."""

from __future__ import annotations

from typing import Annotated, Any

from engine.fileref import FileRef
from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.spec import Estimate, FileChoice, Output, Range, node
from nodes import diffusion
from nodes.loaders import file_size, opened, part_of
from nodes.sockets import Clip, Conditioning, Gligen
from nodes.text import Text, encode, files_of_text

Side = Annotated[int, Range(8, 16384, step=8)]
Position = Annotated[int, Range(0, 16384, step=8)]


def _gligen_estimate(gligen_name: FileRef | None) -> Estimate:
    return Estimate(model_bytes=file_size(gligen_name.path) if gligen_name else 0)


@node("GLIGENLoader", category="loaders", outputs=[Output("GLIGEN")], estimate=_gligen_estimate)
def gligen_loader(gligen_name: Annotated[FileRef, FileChoice("gligen")]) -> ModelRef:
    """Layers that make a UNet put things into boxes."""
    opened(gligen_name, "gligen")
    return part_of(gligen_name, "gligen")


@node(
    "GLIGENTextBoxApply",
    category="conditioning/gligen",
    outputs=[Output("CONDITIONING")],
    reads=files_of_text,
    version=2,
)
def gligen_text_box_apply(
    ctx: NodeContext,
    *,
    conditioning_to: Conditioning,
    clip: Clip,
    gligen_textbox_model: Gligen,
    text: Text,
    width: Side = 64,
    height: Side = 64,
    x: Position = 0,
    y: Position = 0,
) -> list[Any]:
    """What the text says goes into this box, in pixels; several boxes are told one after the other."""
    words = encode(ctx, text, clip, projects=False)[0][1]["pooled_output"]
    config = diffusion.sources.open_source(gligen_textbox_model.location).part("gligen").config
    diffusion.gligen.check_words(words, config)
    box = (words, height // 8, width // 8, y // 8, x // 8)
    return [[it, diffusion.gligen.with_box(known, gligen_textbox_model, box)] for it, known in conditioning_to]
