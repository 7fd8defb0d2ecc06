"""Pictures: reading, saving, scaling, mixing."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.fileref import FileRef
from engine.run.results import OutputFile, Outputs
from engine.spec import FileChoice, Hint, Output, Range, node
from nodes import diffusion
from nodes.sockets import Image, Tensor

ImageMethod = Literal["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
Crop = Literal["disabled", "center"]
Side = Annotated[int, Range(0, 16384, step=1)]
Factor = Annotated[float, Range(0.01, 8.0, step=0.01)]
_SAVE_HIDDEN = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}


@node("LoadImage", title="Load Image", category="image", outputs=[Output("IMAGE"), Output("MASK")], version=3)
def load_image(image: Annotated[FileRef, FileChoice("input", upload=True)]) -> tuple[Tensor, Tensor]:
    """Read a picture of the input folder. MASK is 1 - alpha."""
    return diffusion.pictures.read(image.path)


@node(
    "LoadImageOutput",
    title="Load Image (from Outputs)",
    category="image",
    outputs=[Output("IMAGE"), Output("MASK")],
    experimental=True,
    version=3,
)
def load_image_output(
    image: Annotated[FileRef, FileChoice("output", upload=True, route="/internal/files/output")],
) -> tuple[Tensor, Tensor]:
    """Read a picture of the output folder. MASK is 1 - alpha."""
    return diffusion.pictures.read(image.path)


def _files(images: Tensor, prefix: str, *, temporary: bool) -> Outputs:
    level = 1 if temporary else 4
    return Outputs(
        files=tuple(
            OutputFile(
                data=diffusion.pictures.to_png(picture, level),
                prefix=prefix,
                extension="png",
                width=picture.shape[1],
                height=picture.shape[0],
                batch_index=index,
                kind="temp" if temporary else "output",
            )
            for index, picture in enumerate(images)
        )
    )


@node("SaveImage", title="Save Image", category="image", output_node=True, hidden=_SAVE_HIDDEN)
def save_image(images: Image, filename_prefix: str = "ComfyUI") -> Outputs:
    """Write each picture as PNG into the output folder, the workflow inside it.

    The prefix may hold folders and %width%, %height%, %year%, %month%, %day%, %hour%, %minute%, %second%, %batch_num%.
    """
    return _files(images, filename_prefix, temporary=False)


@node("PreviewImage", title="Preview Image", category="image", output_node=True, hidden=_SAVE_HIDDEN)
def preview_image(images: Image) -> Outputs:
    """Write each picture into the temp folder, which does not outlive the run that made it by much."""
    return _files(images, "ComfyUI_temp", temporary=True)


@node("EmptyImage", category="image", outputs=[Output("IMAGE")])
def empty_image(
    width: Annotated[int, Range(1, 16384, step=1)] = 512,
    height: Annotated[int, Range(1, 16384, step=1)] = 512,
    batch_size: Annotated[int, Range(1, 4096)] = 1,
    color: Annotated[int, Range(0, 0xFFFFFF, step=1), Hint(display="color")] = 0,
) -> Tensor:
    """A picture of one colour, 0xRRGGBB."""
    return diffusion.pictures.solid(width, height, batch_size, color)


@node("ImageScale", title="Upscale Image", category="image/upscaling", outputs=[Output("IMAGE")], version=2)
def image_scale(
    *, image: Image, upscale_method: ImageMethod, width: Side = 512, height: Side = 512, crop: Crop
) -> Tensor:
    """The picture at another size. A side of 0 follows from the other; both 0 leave it as it is."""
    if width == 0 and height == 0:
        return image
    width, height = diffusion.pictures.missing_side(width, height, image)
    return diffusion.pictures.scale(image, width, height, upscale_method, crop)


@node("ImageScaleBy", title="Upscale Image By", category="image/upscaling", outputs=[Output("IMAGE")], version=2)
def image_scale_by(image: Image, upscale_method: ImageMethod, scale_by: Factor = 1.0) -> Tensor:
    """The picture at ``scale_by`` times its size."""
    height, width = (max(1, round(side * scale_by)) for side in image.shape[1:3])
    return diffusion.pictures.scale(image, width, height, upscale_method)


@node("ImageInvert", title="Invert Image", category="image", outputs=[Output("IMAGE")])
def image_invert(image: Image) -> Tensor:
    """The negative."""
    return 1.0 - image


@node("ImageBlend", category="image/postprocessing", outputs=[Output("IMAGE")], version=2)
def image_blend(
    *,
    image1: Image,
    image2: Image,
    blend_factor: Annotated[float, Range(0.0, 1.0, step=0.01)] = 0.5,
    blend_mode: Literal["normal", "multiply", "screen", "overlay", "soft_light", "difference"],
) -> Tensor:
    """The first picture mixed with its blend with the second."""
    return diffusion.pictures.blend(image1, image2, blend_factor, blend_mode)


@node("ImageBatch", title="Batch Images", category="image", outputs=[Output("IMAGE")])
def image_batch(image1: Image, image2: Image) -> Tensor:
    """Both in one batch; the second takes the first's size."""
    return diffusion.pictures.join(image1, image2)
