"""``nodes.SaveImage`` and ``nodes.PreviewImage`` as packs derive from them: their attributes say where pictures go."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.compat import folder_paths

if TYPE_CHECKING:
    from torch import Tensor

_HIDDEN = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}


class SaveImage:
    """Writes pictures as PNG, the workflow inside them."""

    RETURN_TYPES: tuple[Any, ...] = ()
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    CATEGORY = "image"
    DESCRIPTION = "Write each picture as PNG into the output folder, the workflow inside it."

    def __init__(self) -> None:
        self.output_dir = folder_paths.get_output_directory()
        self.type = "output"
        self.prefix_append = ""
        self.compress_level = 4

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {"default": "ComfyUI"})},
            "hidden": _HIDDEN,
        }

    def save_images(
        self,
        images: Tensor,
        filename_prefix: str = "ComfyUI",
        prompt: Any = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """``{"ui": {"images": [...]}}``, with the name, folder and type of each file."""
        text = {} if prompt is None else {"prompt": prompt}
        saved = write_pictures(
            images,
            filename_prefix + self.prefix_append,
            Path(self.output_dir),
            text | dict(extra_pnginfo or {}),
            self.compress_level,
        )
        return {"ui": {"images": [file | {"type": self.type} for file in saved]}}


class PreviewImage(SaveImage):
    """The same into the temp folder."""

    DESCRIPTION = "Write each picture into the temp folder."

    def __init__(self) -> None:
        self.output_dir = folder_paths.get_temp_directory()
        self.type = "temp"
        self.prefix_append = "_temp_" + "".join(secrets.choice(string.ascii_lowercase) for _ in range(5))
        self.compress_level = 1

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE",)}, "hidden": _HIDDEN}


def write_pictures(
    images: Tensor, prefix: str, root: Path, text: Mapping[str, Any], compress_level: int
) -> list[dict[str, str]]:
    """Write [B,H,W,C] below ``root`` as the run names its files: ``filename`` and ``subfolder`` of each."""
    from engine.compat.comfy.cli_args import args
    from engine.graph.png import with_text
    from nodes.diffusion.pictures import to_png

    height, width = images[0].shape[:2]
    folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, str(root), width, height)
    saved = []
    for index, image in enumerate(images):
        name = f"{stem.replace('%batch_num%', str(index))}_{counter + index:05}_.png"
        png = to_png(image, compress_level)
        Path(folder, name).write_bytes(png if args.disable_metadata else with_text(png, text))
        saved.append({"filename": name, "subfolder": subfolder})
    return saved
