"""IMAGE tensors: reading them from files, writing them to PNG, and the arithmetic of the image nodes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.resize import resize

MAX_PIXELS: Final = 2**27
"""134 megapixels: 1.6 gigabytes as float32. Beyond it a file is refused before its pixels are decoded."""


def read(path: Path) -> tuple[Tensor, Tensor]:
    """The frames of a picture file as (IMAGE [B,H,W,3], MASK [B,H,W]).

    EXIF rotation is applied. MASK is 1 - alpha, or 64x64 zeros where there is no alpha. Of an animated file the frames of the first
    one's size are batched. Raises ``InputError`` for what is no picture, is cut short, or has more than ``MAX_PIXELS``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is our own, stricter rule
            with Image.open(path) as picture:
                _check_size(picture, path)
                frames = [_frame(frame, path) for frame in _frames(picture)]
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error)) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"{path.name} cannot be read as a picture ({error}); give a whole PNG, JPEG, WebP, GIF or BMP file"
        ) from error
    size = frames[0][0].shape
    same = [frame for frame in frames if frame[0].shape == size]
    return torch.cat([image for image, _ in same]), torch.cat([mask for _, mask in same])


def _check_size(picture: Image.Image, path: Path) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise _too_large(path, f"{width}x{height}")


def _too_large(path: Path, found: str) -> InputError:
    most = f"at most {MAX_PIXELS / 1e6:.0f} megapixels are read, scale it down first"
    return InputError(f"{path.name} is too large a picture ({found.rstrip('.')}); {most}")


def _frames(picture: Image.Image) -> list[Image.Image]:
    if picture.format == "MPO":  # a stereo pair or a phone's depth picture: the first frame is the photograph
        return [picture]
    return [frame.copy() for frame in ImageSequence.Iterator(picture)]


def _frame(frame: Image.Image, path: Path) -> tuple[Tensor, Tensor]:
    """One frame as ([1,H,W,3], [1,H,W])."""
    turned = ImageOps.exif_transpose(frame)
    if turned.mode.startswith("I"):  # 16 or 32 bit grey
        levels = np.asarray(turned).astype(np.float32)
        turned = Image.fromarray(
            (levels / (257.0 if levels.max(initial=0) > 255 else 1.0)).clip(0, 255).astype(np.uint8)
        )
    pixels = torch.from_numpy(np.asarray(turned.convert("RGB")).astype(np.float32) / 255.0)[None]
    if "A" in turned.getbands() or "transparency" in turned.info:
        alpha = np.asarray(turned.convert("RGBA").getchannel("A")).astype(np.float32) / 255.0
        return pixels, 1.0 - torch.from_numpy(alpha)[None]
    return pixels, torch.zeros(1, 64, 64)


def to_png(image: Tensor, compress_level: int = 4) -> bytes:
    """One picture [H,W,C] (C = 1, 3 or 4, values 0..1) as 8-bit PNG; values are cut, not rounded."""
    stream = io.BytesIO()
    Image.fromarray(_bytes(image)).save(stream, "PNG", compress_level=compress_level)
    return stream.getvalue()


LARGEST_SIDES: Final = {"jpg": 65535, "webp": 16383}
"""What the formats have room for, in pixels."""


def encode(image: Tensor, format: str, quality: int) -> bytes:
    """One picture [H,W,C] as png, jpg or webp; values are cut, not rounded. Quality 100 is lossless as webp.

    Alpha is left out of a jpg. Raises ``InputError`` for a picture that is too large for the format.
    """
    if format == "png":
        return to_png(image)
    largest = LARGEST_SIDES[format]
    if max(image.shape[:2]) > largest:
        raise InputError(
            f"expected sides of at most {largest} pixels in a {format}, found {image.shape[1]}x{image.shape[0]}; save it as png"
        )
    picture = Image.fromarray(_bytes(image if format == "webp" else image[..., :3]))
    stream = io.BytesIO()
    if format == "jpg":
        picture.save(stream, "JPEG", quality=quality)
    else:
        picture.save(stream, "WEBP", quality=quality, lossless=quality == 100, exact=True)
    return stream.getvalue()


def film(images: Tensor, format: Literal["webp", "png"], fps: float, **options: Any) -> bytes:
    """Pictures [B,H,W,C] as one animated file, ``1000 / fps`` milliseconds each, cut to whole ones; ``options`` are Pillow's.

    Raises ``InputError`` for pictures that are too large for the format.
    """
    if format == "webp" and max(images.shape[1:3]) > LARGEST_SIDES["webp"]:
        raise InputError(
            f"expected sides of at most {LARGEST_SIDES['webp']} pixels in a webp, "
            f"found {images.shape[2]}x{images.shape[1]}; save it with SaveAnimatedPNG",
            input="images",
        )
    first, *others = (Image.fromarray(_bytes(image)) for image in images)
    stream = io.BytesIO()
    first.save(
        stream, format.upper(), save_all=True, append_images=others, duration=int(1000.0 / fps), loop=0, **options
    )
    return stream.getvalue()


def _bytes(image: Tensor) -> NDArray[np.uint8]:
    pixels = np.clip(255.0 * image.detach().cpu().float().numpy(), 0, 255).astype(np.uint8)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def solid(width: int, height: int, batch_size: int, color: int) -> Tensor:
    """A batch of one colour, 0xRRGGBB."""
    rgb = torch.tensor([color >> 16 & 0xFF, color >> 8 & 0xFF, color & 0xFF], dtype=torch.float32) / 255.0
    return rgb.expand(batch_size, height, width, 3).clone()


def scale(image: Tensor, width: int, height: int, method: str, crop: str = "disabled") -> Tensor:
    """IMAGE at another size; see ``resize``."""
    return resize(image.movedim(-1, 1), width, height, method, crop).movedim(1, -1)


def missing_side(width: int, height: int, image: Tensor) -> tuple[int, int]:
    """A side given as 0 is worked out from the picture's aspect ratio."""
    tall, wide = image.shape[1:3]
    if width == 0:
        width = max(1, round(wide * height / tall))
    elif height == 0:
        height = max(1, round(tall * width / wide))
    return width, height


def join(first: Tensor, second: Tensor) -> Tensor:
    """Two batches in one. The second is brought to the first's size; a missing alpha channel becomes opaque."""
    if first.shape[-1] != second.shape[-1]:
        first, second = (_opaque(image, max(first.shape[-1], second.shape[-1])) for image in (first, second))
    if first.shape[1:] != second.shape[1:]:
        second = scale(second, first.shape[2], first.shape[1], "bilinear", "center")
    return torch.cat([first, second])


def rebatched(batches: Sequence[Tensor], size: int) -> list[Tensor]:
    """All pictures of ``batches`` in batches of ``size``, the last perhaps smaller. Raises InputError where their shapes differ."""
    shapes = sorted({tuple(batch.shape[1:]) for batch in batches})
    if len(shapes) > 1:
        found = ", ".join(f"{width}x{height} with {channels} channels" for height, width, channels in shapes)
        raise InputError(f"expected pictures of one size, found {found}; scale them first", input="images")
    return [batch.clone() for batch in torch.cat(list(batches)).split(size)]


def _opaque(image: Tensor, channels: int) -> Tensor:
    return torch.nn.functional.pad(image, (0, channels - image.shape[-1]), value=1.0)


def _soft_light(a: Tensor, b: Tensor) -> Tensor:
    """W3C compositing and blending level 1, soft-light."""
    lighten = torch.where(a <= 0.25, ((16 * a - 12) * a + 4) * a, a.sqrt())
    return torch.where(b <= 0.5, a - (1 - 2 * b) * a * (1 - a), a + (2 * b - 1) * (lighten - a))


_BLENDS: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "normal": lambda a, b: b,
    "multiply": lambda a, b: a * b,
    "screen": lambda a, b: 1 - (1 - a) * (1 - b),
    "overlay": lambda a, b: torch.where(a <= 0.5, 2 * a * b, 1 - 2 * (1 - a) * (1 - b)),
    "soft_light": _soft_light,
    "difference": lambda a, b: a - b,
}


def blend(first: Tensor, second: Tensor, factor: float, mode: str) -> Tensor:
    """``first`` with ``factor`` of it replaced by the blend of both; the second is brought to the first's size."""
    if first.shape[-1] != second.shape[-1]:
        first, second = (_opaque(image, max(first.shape[-1], second.shape[-1])) for image in (first, second))
    if first.shape[1:] != second.shape[1:]:
        second = scale(second, first.shape[2], first.shape[1], "bicubic", "center")
    mixed = _BLENDS[mode](first, second)
    return (first * (1 - factor) + mixed * factor).clamp(0, 1)
