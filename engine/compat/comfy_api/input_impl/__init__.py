"""``comfy_api.input_impl``: videos. They can be made of pictures and passed on; reading and writing files is for packs to do."""

from __future__ import annotations

from typing import Any

from engine.compat.comfy_api.input import VideoInput
from engine.compat.comfy_api.util import VideoComponents
from engine.compat.missing import NotProvidedError, message, module_getattr


class VideoFromComponents(VideoInput):
    """A video that is pictures and sound."""

    def __init__(self, components: VideoComponents) -> None:
        self._components = components

    def get_components(self) -> VideoComponents:
        return self._components

    def save_to(self, path: str, **kwargs: Any) -> None:
        raise NotProvidedError(message("writing of video files"))


class VideoFromFile(VideoInput):
    """A video in a file: not here."""

    def __init__(self, file: Any, **_: Any) -> None:
        raise NotProvidedError(message("reading of video files"))


__getattr__ = module_getattr(__name__)
