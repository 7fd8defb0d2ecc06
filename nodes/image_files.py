"""Many pictures at once: all of a folder, and files under names of one's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Annotated, Any, Final

from engine.errors import InputError
from engine.fileref import PICTURE_SUFFIXES, FileRef, tree_files
from engine.run.context import NodeContext
from engine.run.results import OutputFile, Outputs
from engine.spec import Choices, FileChoice, Output, Range, Socket, node
from nodes import diffusion
from nodes.formatting import format_text
from nodes.lists import only
from nodes.sockets import Image, Tensor

_MOST: Final = 1_000_000
_HIDDEN: Final = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
_FOLDER: Final = FileChoice("input", suffixes=PICTURE_SUFFIXES, tree=True)

OneText = Annotated[Any, Socket("STRING")]
Images = Annotated[Any, Socket("IMAGE")]


@node(
    "LoadImagesFromFolder",
    title="Load Images from Folder",
    category="image",
    outputs=[
        Output("IMAGE", "images", is_list=True),
        Output("MASK", "masks", is_list=True),
        Output("STRING", "names", is_list=True),
    ],
    version=3,
)
def load_images_from_folder(
    ctx: NodeContext,
    *,
    folder: Annotated[FileRef, _FOLDER],
    pattern: str = "*",
    limit: Annotated[int, Range(0, _MOST)] = 0,
) -> tuple[list[Tensor], list[Tensor], list[str]]:
    """The pictures of a folder below the input folder as lists: pictures, masks (1 - alpha) and file names without their endings.

    The pattern chooses by name: *.png, cat_??.jpg, or **/*.png for the folders inside too. They come in order of name, 2 before 10; of
    more than limit the first ones are read, with 0 all. The node runs again when a picture of the folder comes, goes or changes.
    """
    files = sorted(
        (
            item
            for item in tree_files(folder.path, _FOLDER.suffixes)
            if _matches(tuple(item[0].split("/")), tuple(pattern.split("/")))
        ),
        key=lambda item: _in_order(item[0]),
    )
    if not files:
        raise InputError(
            f"expected pictures called {pattern!r} in the folder {folder.name}, found none; "
            "put some there or choose another pattern (* for all, **/* for those in its folders too)",
            input="pattern",
        )
    images, masks, names = [], [], []
    for index, (name, path) in enumerate(files[: limit or None]):
        ctx.progress(index, len(files[: limit or None]))
        image, mask = diffusion.pictures.read(path)
        images.append(image)
        masks.append(mask)
        names.append(re.sub(r"\.[^.]*$", "", name.rpartition("/")[2]))
    return images, masks, names


@lru_cache(10_000)
def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a relative path is meant by a pattern; ``**`` is any number of folders."""
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatchcase(parts[0].lower(), pattern[0].lower()) and _matches(parts[1:], pattern[1:])


def _in_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts numbers in names by their size."""
    pieces = re.findall(r"(\d+)|(\D+)", name.lower(), re.ASCII)
    return [(int(digits[:4000]), "") if digits else (-1, text) for digits, text in pieces], name


@node(
    "SaveImages", title="Save Images (Names)", category="image/save", output_node=True, takes_lists=True, hidden=_HIDDEN
)
def save_images(
    ctx: NodeContext,
    *,
    images: Images,
    names: Annotated[Any | None, Socket("STRING")] = None,
    template: OneText = "%name%_%index%",
    format: Annotated[Any, Choices(("png", "jpg", "webp"))] = "png",
    quality: Annotated[Any, Socket("INT"), Range(1, 100)] = 90,
    first: Annotated[Any, Socket("INT"), Range(0, _MOST)] = 1,
) -> Outputs:
    """Write all pictures of a list into the output folder, under names of your own, the workflow inside them.

    The template holds folders and fields: portraits/%name%_%index%, or {name}_{index:03} to count 001, 002; {width} and {height} too.
    The index counts over the whole list from first on. Names go with the elements of the list, or with the pictures if there are as
    many; fewer repeat their last. A name that is taken gets _2, _3 behind it, so nothing is overwritten.

    Quality is that of jpg and webp; 100 is lossless as webp. A jpg has room for 64 KiB of workflow.
    """
    kind, grade, start = only(format, "format"), only(quality, "quality"), only(first, "first")
    pattern = re.sub(r"%(name|index)%", r"{\1}", only(template, "template"))
    pictures = list(_named(images, [name for name in names or () if name]))
    files = []
    for index, (picture, name) in enumerate(pictures):
        ctx.progress(index, len(pictures))
        height, width = picture.shape[:2]
        fields = {"name": name, "index": start + index, "width": width, "height": height}
        files.append(
            OutputFile(
                data=diffusion.pictures.encode(picture, kind, grade),
                prefix=format_text(pattern, fields, input="template"),
                extension=kind,
                width=width,
                height=height,
                batch_index=index,
                numbered=False,
            )
        )
    return Outputs(files=tuple(files))


def _named(images: list[Tensor], names: list[str]) -> Iterator[tuple[Tensor, str]]:
    """Every picture of every batch, with its name."""
    by_picture = len(names) == sum(len(batch) for batch in images)
    number = 0
    for index, batch in enumerate(images):
        for picture in batch:
            position = number if by_picture else index
            yield picture, names[min(position, len(names) - 1)] if names else "image"
            number += 1


@node("SaveImageWebsocket", category="api/image", output_node=True, pure=False)
def save_image_websocket(ctx: NodeContext, images: Image) -> Outputs:
    """Send the pictures as PNG to whoever watches the run, and write no file."""
    for index, picture in enumerate(images):
        ctx.progress(index, len(images))
        ctx.show(diffusion.pictures.to_png(picture))
    return Outputs()
