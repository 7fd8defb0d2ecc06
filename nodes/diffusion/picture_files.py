"""Pictures as files of the formats people keep them in: PNG of 8 and of 16 bits, WebP, JPEG, AVIF."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.pictures import LARGEST_SIDES, to_bytes, to_png

EXTENSIONS: Final = {"png": "png", "png (16 bit)": "png", "webp": "webp", "jpeg": "jpg", "avif": "avif"}
"""What is offered, and how the files end."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES: Final = {1: 0, 3: 2, 4: 6}
"""Of PNG, by the number of channels: grey, RGB, RGBA."""
_EXIF_ROOM: Final = b"II*\0\x08\0\0\0\0\0\0\0\0\0"
"""EXIF data without an entry. An AVIF file that has any can be given other data later, without its picture being touched."""


def encode(image: Tensor, format: str, *, quality: int = 90, lossless: bool = False) -> bytes:
    """One picture [H,W,C] (C = 1, 3 or 4, values 0..1) as a file of one of ``EXTENSIONS``; 8-bit values are cut, not rounded.

    ``quality`` (1..100) is for JPEG, AVIF and WebP that is not ``lossless``; a JPEG has no alpha. Raises InputError for a format that
    cannot be lossless, for a picture that is too large for it, and for a format that Pillow was built without.
    """
    _check(image, format, lossless)
    if format == "png":
        return to_png(image)
    if format == "png (16 bit)":
        return deep_png(image)
    picture = Image.fromarray(to_bytes(image[..., :3] if format == "jpeg" else image))
    if format == "webp":
        return _saved(picture, "WEBP", quality=quality, lossless=lossless, exact=True)
    return _saved(picture, format.upper(), quality=quality, **({"exif": _EXIF_ROOM} if format == "avif" else {}))


def _saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def _check(image: Tensor, format: str, lossless: bool) -> None:
    if lossless and format in ("jpeg", "avif"):
        raise InputError(
            f"expected a format that can be lossless, found {format}; choose webp or png", input="lossless"
        )
    if format == "avif" and not features.check("avif"):
        raise InputError("expected a Pillow that writes AVIF, found one that does not; choose webp", input="format")
    largest = LARGEST_SIDES.get(EXTENSIONS[format])
    if largest is not None and max(image.shape[:2]) > largest:
        raise InputError(
            f"expected sides of at most {largest} pixels in a {format}, found {image.shape[1]}x{image.shape[0]}; save it as png",
            input="format",
        )


def deep_png(image: Tensor) -> bytes:
    """One picture [H,W,C] (C = 1, 3 or 4) as PNG of 16 bits a channel; values are rounded (W3C, "PNG specification", third edition)."""
    height, width, channels = image.shape
    levels = (image.detach().cpu().double().clamp(0, 1).numpy() * 65535).round().astype(">u2")
    rows = np.ascontiguousarray(levels).view(np.uint8).reshape(height, width * channels * 2)
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0)
    data = zlib.compress(_filtered(rows, 2 * channels).tobytes(), 4)
    return _PNG + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _filtered(rows: NDArray[np.uint8], pixel: int) -> NDArray[np.uint8]:
    """Each row less what is left of it (filter type 1), which packs better, behind the number of the filter."""
    left = np.zeros_like(rows)
    left[:, pixel:] = rows[:, :-pixel]
    return np.concatenate([np.ones((len(rows), 1), np.uint8), rows - left], axis=1)


def _chunk(type_: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + type_ + data + struct.pack(">I", zlib.crc32(type_ + data))
