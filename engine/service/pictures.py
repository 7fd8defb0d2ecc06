"""Pictures that come from outside: read with a bound on their size, and worked at one at a time.

A picture may take a gigabyte when it is decoded, and as much again on its way into another format. So whoever does more than read one holds
``ONE_AT_A_TIME`` from the first byte to the last; what a client has drawn goes through ``drawn``, where it waits without a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import struct
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import RLock
from typing import IO, Final, TypeVar

from PIL import Image, UnidentifiedImageError

from engine.errors import InputError

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What Pillow calls the formats that are read. No other reader of Pillow is ever let loose on a client's bytes."""

ONE_AT_A_TIME: Final = RLock()
"""Held where there is a decoded picture. Besides, Pillow's limit and Python's filters of warnings belong to the process."""

_DRAWING: Final = ThreadPoolExecutor(1, thread_name_prefix="mezzotint-pictures")

Result = TypeVar("Result")


async def drawn(draw: Callable[[], Result]) -> Result:
    """What ``draw`` makes of pictures, on the one thread that does so, after whatever waits there already."""
    return await asyncio.get_running_loop().run_in_executor(_DRAWING, draw)


def read_picture(source: bytes | Path, pixels: int) -> Image.Image:
    """The picture, its first frame decoded. Raises ``InputError`` for what is none, is cut off, or has more than ``pixels``.

    The size is what the header says, and Pillow is told to refuse it before it decodes anything.
    """
    stream: IO[bytes] | Path = io.BytesIO(source) if isinstance(source, bytes) else source
    with ONE_AT_A_TIME, _limited_to(pixels):
        try:
            with Image.open(stream, formats=_known_formats()) as picture:
                picture.load()
                return picture
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise InputError(
                f"expected a picture of at most {pixels} pixels, found a larger one; scale it down first"
            ) from error
        except UnidentifiedImageError as error:
            raise InputError(
                "expected a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF picture, found something else"
            ) from error
        except (OSError, SyntaxError, ValueError, EOFError, OverflowError, IndexError, KeyError, struct.error) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"expected a whole picture, found a damaged one ({reason}); send it again") from error


def _known_formats() -> list[str]:
    """Those of the formats that this build of Pillow reads: AVIF it may lack."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@contextlib.contextmanager
def _limited_to(pixels: int) -> Iterator[None]:
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged EXIF block and the like
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def eight_bits(picture: Image.Image) -> Image.Image:
    """The picture as RGB, or as RGBA where it has transparency; 16 bits of grey become 8."""
    if picture.mode.startswith(("I", "F")):
        levels = picture.convert("F")
        factor = 1 / 257 if levels.getextrema()[1] > 255 else 1.0  # type: ignore[operator]  # of one band: two numbers
        picture = levels.point(lambda level: level * factor + 0).convert("L")
    has_alpha = "A" in picture.getbands() or "transparency" in picture.info
    return picture.convert("RGBA" if has_alpha else "RGB")


def encoded(picture: Image.Image, format: str, **options: int) -> bytes:
    """The picture's file. Raises ``InputError`` where the format has no room for it."""
    stream = io.BytesIO()
    try:
        picture.save(stream, format, **options)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the picture of {picture.width}x{picture.height} cannot be written as {format} ({error})"
        ) from error
    return stream.getvalue()
