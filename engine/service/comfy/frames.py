"""Frames of ComfyUI's websocket: text ones are ``{"type", "data"}``, binary ones begin with the number of their kind, big-endian. Pure."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from typing import Any, Final

from engine.service.comfy.narrator import Binary, Message, Preview

IMAGE: Final = 1
TEXT: Final = 3
IMAGE_WITH_METADATA: Final = 4

_JPEG: Final = 1
_PNG: Final = 2
_PNG_BEGINS: Final = b"\x89PNG\r\n\x1a\n"


def text_frame(type_: str, data: Any) -> str:
    """A text frame. What JSON has no word for becomes what it has: NaN null, bytes base64, a key its text."""
    message = {"type": type_, "data": data}
    try:
        return json.dumps(message, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError):
        return json.dumps(_plain(message), allow_nan=False, separators=(",", ":"))


def message_frame(message: Message | Binary) -> str | bytes:
    """The frame of a message: text, but for ``progress_text``, which editors read as binary."""
    if isinstance(message, Binary):
        return struct.pack(">I", message.kind) + message.data
    data = message.data
    if message.type == "progress_text" and isinstance(data, Mapping) and {"node", "text"} <= data.keys():
        return progress_text_frame(str(data["node"]), str(data["text"]))
    return text_frame(message.type, data)


def image_frame(image: bytes) -> bytes:
    """A picture, JPEG or PNG; clients take it to be of the node at work."""
    return struct.pack(">II", IMAGE, _PNG if image.startswith(_PNG_BEGINS) else _JPEG) + image


def progress_text_frame(node: str, text: str) -> bytes:
    """A text at a node."""
    name = _utf8(node)
    return struct.pack(">II", TEXT, len(name)) + name + _utf8(text)


def preview_frame(preview: Preview, with_metadata: bool) -> bytes:
    """A picture on the way, with what it is of, for clients that said they can read that."""
    if not with_metadata:
        return image_frame(preview.image)
    metadata = _utf8(
        json.dumps(
            {
                "node_id": preview.node,
                "prompt_id": preview.job,
                "display_node_id": preview.shown,
                "parent_node_id": preview.parent,
                "real_node_id": preview.real,
                "image_type": "image/png" if preview.image.startswith(_PNG_BEGINS) else "image/jpeg",
            },
            separators=(",", ":"),
        )
    )
    return struct.pack(">II", IMAGE_WITH_METADATA, len(metadata)) + metadata + preview.image


def _utf8(text: str) -> bytes:
    return text.encode(errors="replace")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name if isinstance(name, str) else str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
