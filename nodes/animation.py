"""Batches of pictures as films."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from engine.run.results import OutputFile, Outputs
from engine.spec import Range, node
from nodes import diffusion
from nodes.sockets import Image

Fps = Annotated[float, Range(0.01, 1000.0, step=0.01)]

_HIDDEN: Final = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
_EFFORT: Final = {"default": 4, "fastest": 0, "slowest": 6}


def _film(images: Image, prefix: str, extension: Literal["webp", "png"], fps: float, **options: Any) -> Outputs:
    data = diffusion.pictures.film(images, extension, fps, **options)
    height, width = images.shape[1:3]
    file = OutputFile(data=data, prefix=prefix, extension=extension, width=width, height=height)
    return Outputs(files=(file,), ui={"animated": [True]})


@node("SaveAnimatedWEBP", category="image/animation", output_node=True, hidden=_HIDDEN)
def save_animated_webp(
    *,
    images: Image,
    filename_prefix: str = "ComfyUI",
    fps: Fps = 6.0,
    lossless: bool = True,
    quality: Annotated[int, Range(0, 100)] = 80,
    method: Literal["default", "fastest", "slowest"],
) -> Outputs:
    """Write the batch as one animated WebP into the output folder, the workflow inside it.

    Method is how long to look for a smaller file; quality of a lossless one is the same.
    """
    effort = _EFFORT[method]
    return _film(images, filename_prefix, "webp", fps, lossless=lossless, quality=quality, method=effort)


@node("SaveAnimatedPNG", category="image/animation", output_node=True, hidden=_HIDDEN)
def save_animated_png(
    images: Image,
    filename_prefix: str = "ComfyUI",
    fps: Fps = 6.0,
    compress_level: Annotated[int, Range(0, 9)] = 4,
) -> Outputs:
    """Write the batch as one animated PNG into the output folder, the workflow inside it."""
    return _film(images, filename_prefix, "png", fps, compress_level=compress_level)
