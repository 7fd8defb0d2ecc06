"""``comfy_api.latest.ui``: what a node shows beside its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from engine.compat import folder_paths
from engine.compat.comfy_api.latest._types import FolderType
from engine.compat.missing import module_getattr


class SavedResult(dict[str, Any]):
    """A file that was written."""

    def __init__(self, filename: str, subfolder: str, type: FolderType | str) -> None:
        super().__init__(filename=filename, subfolder=subfolder, type=str(type))

    @property
    def filename(self) -> str:
        return str(self["filename"])

    @property
    def subfolder(self) -> str:
        return str(self["subfolder"])

    @property
    def type(self) -> FolderType:
        return FolderType(self["type"])


class UIOutput:
    """Base of all that can be shown."""

    def as_dict(self) -> dict[str, Any]:
        raise NotImplementedError


def _listed(values: Any) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else [values]


class SavedImages(UIOutput):
    """Pictures that were written."""

    def __init__(self, results: Any, is_animated: bool = False) -> None:
        self.results = _listed(results)
        self.is_animated = is_animated

    def as_dict(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"images": self.results}
        return shown | {"animated": (True,)} if self.is_animated else shown


class SavedAudios(UIOutput):
    """Sounds that were written."""

    def __init__(self, results: Any) -> None:
        self.results = _listed(results)

    def as_dict(self) -> dict[str, Any]:
        return {"audio": self.results}


class ImageSaveHelper:
    """Writes pictures as SaveImage does."""

    @staticmethod
    def save_images(
        images: Any, filename_prefix: str, folder_type: FolderType, cls: Any = None, compress_level: int = 4
    ) -> list[SavedResult]:
        """As PNG, below the folder of ``folder_type``, with the workflow of ``cls`` inside them where there is one."""
        from engine.compat.save_image import write_pictures

        root = folder_paths.get_directory_by_type(str(folder_type)) or folder_paths.get_output_directory()
        saved = write_pictures(images, filename_prefix, Path(root), _metadata(cls), compress_level)
        return [SavedResult(file["filename"], file["subfolder"], folder_type) for file in saved]

    @staticmethod
    def get_save_images_ui(images: Any, filename_prefix: str, cls: Any = None, compress_level: int = 4) -> SavedImages:
        """The same into the output folder, to be shown."""
        return SavedImages(ImageSaveHelper.save_images(images, filename_prefix, FolderType.output, cls, compress_level))


def _metadata(cls: Any) -> dict[str, Any]:
    hidden = getattr(cls, "hidden", None)
    prompt, extra = getattr(hidden, "prompt", None), getattr(hidden, "extra_pnginfo", None)
    return ({} if prompt is None else {"prompt": prompt}) | dict(extra or {})


class PreviewImage(UIOutput):
    """Shows pictures [B,H,W,C], written into the temp folder."""

    def __init__(self, image: Any, animated: bool = False, cls: Any = None, **_: Any) -> None:
        from engine.compat.save_image import PreviewImage as Preview

        prefix = "ComfyUI" + Preview().prefix_append
        self.values: Sequence[SavedResult] = ImageSaveHelper.save_images(image, prefix, FolderType.temp, cls, 1)
        self.animated = animated

    def as_dict(self) -> dict[str, Any]:
        return {"images": list(self.values), "animated": (self.animated,)}


class PreviewMask(PreviewImage):
    """Shows masks [B,H,W] as grey pictures."""

    def __init__(self, mask: Any, animated: bool = False, cls: Any = None, **_: Any) -> None:
        height, width = mask.shape[-2:]
        super().__init__(mask.reshape(-1, height, width, 1).expand(-1, -1, -1, 3), animated, cls)


class PreviewText(UIOutput):
    """Shows a text."""

    def __init__(self, value: str, **_: Any) -> None:
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        return {"text": (self.value,)}


class PreviewVideo(UIOutput):
    """Shows videos that were written."""

    def __init__(self, values: Iterable[Any], **_: Any) -> None:
        self.values = list(values)

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.values, "animated": (True,)}


class PreviewUI3D(UIOutput):
    """Shows a shape that was written."""

    def __init__(self, model_file: str, camera_info: Any = None, **_: Any) -> None:
        self.values = [model_file, camera_info]

    def as_dict(self) -> dict[str, Any]:
        return {"result": self.values}


__getattr__ = module_getattr(__name__)
