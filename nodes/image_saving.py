"""Pictures saved in the format of one's choice, and drawings."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.run.context import NodeContext
from engine.run.results import OutputFile, Outputs
from engine.spec import Range, node
from nodes import diffusion
from nodes.sockets import Image, Svg

_HIDDEN = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}


@node("SaveImageAs", title="Save Image As", category="image/save", output_node=True, hidden=_HIDDEN)
def save_image_as(
    ctx: NodeContext,
    *,
    images: Image,
    filename_prefix: str = "ComfyUI",
    format: Literal["png", "png (16 bit)", "webp", "jpeg", "avif"] = "webp",
    quality: Annotated[int, Range(1, 100, step=1)] = 90,
    lossless: bool = False,
    embed_workflow: bool = True,
) -> Outputs:
    """Write each picture into the output folder in this format, the workflow inside it unless that is not wished.

    Quality is for webp, jpeg and avif. Lossless is for webp; png always is. A jpeg has room for 64 KiB of workflow and no alpha. The
    prefix may hold folders and %width%, %height%, %year%, %month%, %day%, %hour%, %minute%, %second%, %batch_num%.
    """
    files = []
    for index, picture in enumerate(images):
        ctx.progress(index, len(images))
        files.append(
            OutputFile(
                data=diffusion.picture_files.encode(picture, format, quality=quality, lossless=lossless),
                prefix=filename_prefix,
                extension=diffusion.picture_files.EXTENSIONS[format],
                width=picture.shape[1],
                height=picture.shape[0],
                batch_index=index,
                bare=not embed_workflow,
            )
        )
    return Outputs(files=tuple(files))


@node("SaveSVGNode", category="image/save", output_node=True, hidden=_HIDDEN)
def save_svg(svg: Svg, filename_prefix: str = "svg/ComfyUI") -> Outputs:
    """Write SVG drawings into the output folder, the workflow inside them. They are saved as they are, with the scripts they may have."""
    files = (
        OutputFile(data=document, prefix=filename_prefix, extension="svg", batch_index=index)
        for index, document in enumerate(diffusion.svg_files.documents(svg))
    )
    return Outputs(files=tuple(files))
