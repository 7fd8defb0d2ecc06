"""IMAGE tensors: reading them from files, writing them to PNG, and the arithmetic of the image nodes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.resize import resize

MAX_PIXELS: Final = 2**27
"""134 megapixels: 1.6 gigabytes as float32. Beyond it a file is refused before its pixels are decoded."""
MAX_ANIMATION: Final = 2**28
"""Pixels of all frames of a file together."""

_SMALLEST: Final = 2**12
"""Pixels that a frame counts as at least: it costs memory of its own."""


def read(path: Path, *, first_only: bool = False, keyed: bool = False) -> tuple[Tensor, Tensor]:
    """The frames of a picture file as (IMAGE [B,H,W,3], MASK [B,H,W]).

    EXIF rotation is applied. MASK is 1 - alpha, or 64x64 zeros where no frame has alpha: a channel of it, or a palette with transparent
    colours. With ``keyed`` a colour that is transparent without a palette counts as well. Of an animated file the frames of the first
    one's size are batched, or it alone is read. Raises ``InputError`` for what is no picture, is cut short, has more than
    ``MAX_PIXELS``, or frames of more than ``MAX_ANIMATION`` together.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of sizes, for which our own rule is stricter, and of metadata that nobody needs
            with Image.open(path, formats=_formats()) as picture:
                _check_size(picture, path)
                frames = [_frame(frame, keyed) for frame in _frames(picture, path, first_only)]
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error)) from error
    except InputError:
        raise
    except Exception as error:  # decoders meet broken files with any error there is
        raise InputError(
            f"{path.name} cannot be read as a picture ({' '.join(str(error).split())}); give a whole PNG, JPEG, WebP, GIF or BMP file"
        ) from error
    images, masks = zip(*frames, strict=True)
    same = [index for index, image in enumerate(images) if image.shape == images[0].shape]
    return torch.cat([images[index] for index in same]), _masks([masks[index] for index in same], images[0])


@cache
def _formats() -> list[str]:
    """All that Pillow reads by itself; for EPS it starts a program."""
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]


def _masks(masks: Sequence[Tensor | None], image: Tensor) -> Tensor:
    if all(mask is None for mask in masks):
        return torch.zeros(len(masks), 64, 64)
    return torch.cat([torch.zeros(image.shape[:3]) if mask is None else mask for mask in masks])


def _check_size(picture: Image.Image, path: Path) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise _too_large(path, f"{width}x{height}")


def _too_large(path: Path, found: str) -> InputError:
    most = f"at most {MAX_PIXELS / 1e6:.0f} megapixels are read, scale it down first"
    return InputError(f"{path.name} is too large a picture ({found.rstrip('.')}); {most}")


def _frames(picture: Image.Image, path: Path, first_only: bool) -> Iterator[Image.Image]:
    if first_only or picture.format == "MPO":  # a stereo pair or a phone's depth picture: the first is the photograph
        yield picture
        return
    pixels = 0
    for number, frame in enumerate(ImageSequence.Iterator(picture), 1):
        _check_size(frame, path)
        pixels += max(frame.width * frame.height, _SMALLEST)
        if pixels > MAX_ANIMATION:
            raise InputError(
                f"{path.name} is too long an animation (more than {number - 1} frames of {frame.width}x{frame.height}); at most "
                f"{MAX_ANIMATION / 1e6:.0f} megapixels in all are read, cut it or scale it down first"
            )
        yield frame


def _frame(frame: Image.Image, keyed: bool) -> tuple[Tensor, Tensor | None]:
    """One frame as ([1,H,W,3], [1,H,W]); no mask where it has no alpha."""
    turned = ImageOps.exif_transpose(frame)
    if turned.mode.startswith("I") or turned.mode == "F":
        turned = _in_bytes(turned)
    pixels = torch.from_numpy(np.asarray(turned.convert("RGB")).astype(np.float32) / 255.0)[None]
    may_be_keyed = keyed or turned.mode == "P"
    if "A" not in turned.getbands() and not (may_be_keyed and "transparency" in turned.info):
        return pixels, None
    alpha = np.asarray(turned.convert("RGBA").getchannel("A")).astype(np.float32) / 255.0
    return pixels, 1.0 - torch.from_numpy(alpha)[None]


def _in_bytes(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits; or of 32 bits, whole or not, of which only the values say how many of these count."""
    levels = np.asarray(picture).astype(np.float32)
    if picture.mode == "F":
        levels = levels * (255.0 if levels.max(initial=0) <= 1.0 else 1.0)
    elif picture.mode != "I" or levels.max(initial=0) > 255:
        levels = levels / 257.0
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def to_png(image: Tensor, compress_level: int = 4) -> bytes:
    """One picture [H,W,C] (C = 1, 3 or 4, values 0..1) as 8-bit PNG; values are cut, not rounded."""
    stream = io.BytesIO()
    Image.fromarray(to_bytes(image)).save(stream, "PNG", compress_level=compress_level)
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
    picture = Image.fromarray(to_bytes(image if format == "webp" else image[..., :3]))
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
    first, *others = (Image.fromarray(to_bytes(image)) for image in images)
    stream = io.BytesIO()
    first.save(
        stream, format.upper(), save_all=True, append_images=others, duration=int(1000.0 / fps), loop=0, **options
    )
    return stream.getvalue()


def to_bytes(image: Tensor) -> NDArray[np.uint8]:
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
    """All pictures of ``batches`` in batches of ``size``, the last perhaps smaller. Raises InputError where shapes differ in one."""
    pictures = [picture for batch in batches for picture in batch]
    return [_together(pictures[start : start + size]) for start in range(0, len(pictures), size)]


def _together(pictures: Sequence[Tensor]) -> Tensor:
    shapes = sorted({tuple(picture.shape) for picture in pictures})
    if len(shapes) > 1:
        found = ", ".join(f"{width}x{height} with {channels} channels" for height, width, channels in shapes)
        raise InputError(f"expected pictures of one size in a batch, found {found}; scale them first", input="images")
    return torch.stack(list(pictures))


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
    """``first`` with ``factor`` of it replaced by the blend of both; the second is brought to the first's size and channels.

    Raises InputError for batches of different numbers of pictures, unless one has a single one.
    """
    if len(first) != len(second) and 1 not in (len(first), len(second)):
        raise InputError(
            f"expected as many pictures as in image1, {len(first)}, or one for all, found {len(second)}", input="image2"
        )
    second = _opaque(second[..., : first.shape[-1]], first.shape[-1])
    if first.shape[1:] != second.shape[1:]:
        second = scale(second, first.shape[2], first.shape[1], "bicubic", "center")
    mixed = _BLENDS[mode](first, second)
    return (first * (1 - factor) + mixed * factor).clamp(0, 1)
