"""``comfy_api.util``: what a video is made of."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from engine.compat.missing import module_getattr


class VideoCodec(enum.StrEnum):
    """How pictures are packed."""

    AUTO = "auto"
    H264 = "h264"

    @classmethod
    def as_input(cls) -> list[str]:
        return [member.value for member in cls]


class VideoContainer(enum.StrEnum):
    """What a video file is."""

    AUTO = "auto"
    MP4 = "mp4"

    @classmethod
    def as_input(cls) -> list[str]:
        return [member.value for member in cls]

    @classmethod
    def get_extension(cls, value: str) -> str:
        return "mp4" if value in ("auto", "mp4") else ""


@dataclass
class VideoComponents:
    """The pictures [frames,H,W,C] of a video, how many are shown in a second, and its sound."""

    images: Any
    frame_rate: Fraction
    audio: Any = None
    metadata: dict[str, Any] | None = None


__getattr__ = module_getattr(__name__)
