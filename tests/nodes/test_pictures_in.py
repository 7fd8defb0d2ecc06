"""Picture files as people have them, through the nodes that read them: right, or an error in words."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features
from torch import Tensor

from engine.errors import InputError
from engine.fileref import FileRef
from engine.models import Digest
from nodes import image as picture_nodes
from nodes import masks as mask_nodes
from nodes.diffusion import picture_files, pictures


def ref(path: Path) -> FileRef:
    return FileRef(Digest("0"), path, path.name)


def load(path: Path) -> tuple[Tensor, Tensor]:
    image, mask = picture_nodes.load_image(ref(path))
    return image, mask


def levels(image: Tensor) -> list[list[int]]:
    """The bytes of the first row of the first picture."""
    return [[round(float(value) * 255) for value in pixel] for pixel in image[0, 0]]


def test_the_same_from_the_output_folder(tmp_path: Path) -> None:
    """LoadImageOutput reads as LoadImage does, alpha included."""
    Image.fromarray(np.array([[[255, 0, 51, 51]]], np.uint8), "RGBA").save(tmp_path / "a.png")
    image, mask = picture_nodes.load_image_output(ref(tmp_path / "a.png"))
    assert torch.equal(image, load(tmp_path / "a.png")[0])
    assert mask.item() == pytest.approx(0.8)


def test_grey_with_alpha(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[100, 255], [200, 0]]], np.uint8), "LA").save(tmp_path / "a.png")
    image, mask = load(tmp_path / "a.png")
    assert levels(image) == [[100] * 3, [200] * 3]
    assert mask[0, 0].tolist() == [0.0, 1.0]
    assert mask_nodes.load_image_mask(ref(tmp_path / "a.png"), "green")[0, 0].tolist() == pytest.approx(
        [100 / 255, 200 / 255]
    )


def palette(transparency: int | bytes | None) -> Image.Image:
    picture = Image.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.putdata([0, 1, 2])
    if transparency is not None:
        picture.info["transparency"] = transparency
    return picture


@pytest.mark.parametrize(
    ("transparency", "mask"),
    [(None, None), (1, [0.0, 1.0, 0.0]), (bytes([255, 51, 0]), [0.0, 0.8, 1.0])],
    ids=["opaque", "one colour", "by degrees"],
)
@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palettes(tmp_path: Path, suffix: str, transparency: int | bytes | None, mask: list[float] | None) -> None:
    """With a colour that is not seen, or colours seen in part, which GIF has not."""
    if suffix == ".gif" and isinstance(transparency, bytes):
        pytest.skip("a GIF has one colour that is not seen")
    palette(transparency).save(tmp_path / f"a{suffix}")
    image, found = load(tmp_path / f"a{suffix}")
    seen = [index for index in range(3) if mask is None or mask[index] < 1]
    colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert [levels(image)[index] for index in seen] == [colours[index] for index in seen]
    if mask is None:
        assert found.shape == (1, 64, 64)
    else:
        assert found[0, 0].tolist() == pytest.approx(mask)


def test_a_colour_that_is_not_seen_without_a_palette(tmp_path: Path) -> None:
    """As a picture it is seen; as a mask it is not."""
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)).save(tmp_path / "a.png", transparency=(4, 5, 6))
    image, mask = load(tmp_path / "a.png")
    assert levels(image) == [[1, 2, 3], [4, 5, 6]]
    assert torch.equal(mask, torch.zeros(1, 64, 64))
    assert mask_nodes.load_image_mask(ref(tmp_path / "a.png"), "alpha").tolist() == [[[0.0, 1.0]]]


def test_16_bits(tmp_path: Path) -> None:
    """Grey and colours. Dark grey of 16 bits stays dark: the file says how many bits there are, not its brightest pixel."""
    Image.fromarray(np.array([[0, 200, 257 * 90, 65535]], np.uint16)).save(tmp_path / "grey.png")
    assert levels(load(tmp_path / "grey.png")[0]) == [[0] * 3, [0] * 3, [90] * 3, [255] * 3]
    Image.fromarray(np.array([[0, 200]], np.uint16)).save(tmp_path / "dark.png")
    assert levels(load(tmp_path / "dark.png")[0]) == [[0] * 3] * 2
    colours = torch.tensor([[[0.0, 0.5, 1.0], [0.2, 0.4, 0.6]]])
    (tmp_path / "rgb.png").write_bytes(picture_files.deep_png(colours))
    assert torch.allclose(load(tmp_path / "rgb.png")[0], colours[None], atol=1.1 / 255)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([[0, 255]], np.int32), [0, 255]),
        (np.array([[0, 257 * 100]], np.int32), [0, 100]),
        (np.array([[0, 0.4]], np.float32), [0, 102]),
        (np.array([[0, 102.0]], np.float32), [0, 102]),
    ],
)
def test_32_bits(tmp_path: Path, pixels: Any, expected: list[int]) -> None:
    """Whole or not: their values say what they count in."""
    Image.fromarray(pixels).save(tmp_path / "a.tiff")
    assert levels(load(tmp_path / "a.tiff")[0]) == [[level] * 3 for level in expected]


def test_the_colours_of_print(tmp_path: Path) -> None:
    """A JPEG in cyan, magenta, yellow and black."""
    picture = Image.new("CMYK", (16, 16))
    picture.paste((0, 255, 255, 0), (0, 0, 8, 16))
    picture.paste((0, 0, 0, 255), (8, 0, 16, 16))
    picture.save(tmp_path / "a.jpg", quality=95)
    image, mask = load(tmp_path / "a.jpg")
    assert image[0, 4, 2].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=0.05)
    assert image[0, 4, 13].tolist() == pytest.approx([0.0, 0.0, 0.0], abs=0.05)
    assert mask.shape == (1, 64, 64)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_every_rotation_that_exif_can_say(tmp_path: Path, format: str, orientation: int) -> None:
    """The pixel that is to be seen at the top left is there."""
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (-1, 0), 7: (-1, -1), 8: (0, -1)}[
        orientation
    ]
    pixels = np.zeros((16, 32, 3), np.uint8)
    rows = slice(0, 8) if corner[0] == 0 else slice(8, 16)
    columns = slice(0, 8) if corner[1] == 0 else slice(24, 32)
    pixels[rows, columns] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a", format, exif=exif)
    image, _ = load(tmp_path / "a")
    assert image.shape == ((1, 16, 32, 3) if orientation < 5 else (1, 32, 16, 3))
    assert image[0, 3, 3].mean() > 0.9
    assert image.mean() < 0.2


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_all_frames_of_an_animation(tmp_path: Path, format: str) -> None:
    """In order; as a mask the first alone."""
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    frames = [Image.new("RGB", (16, 8), (level, level, level)) for level in (0, 128, 255)]
    options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "AVIF" else {}
    frames[0].save(tmp_path / "a", format, save_all=True, append_images=frames[1:], duration=100, **options)
    image, mask = load(tmp_path / "a")
    assert image.shape == (3, 8, 16, 3)
    assert [round(float(frame.mean()) * 255) for frame in image] == pytest.approx([0, 128, 255], abs=2)
    assert len(mask) == 3
    assert mask_nodes.load_image_mask(ref(tmp_path / "a"), "red").shape == (1, 8, 16)


def test_frames_with_alpha_beside_frames_without(tmp_path: Path) -> None:
    """One batch of masks; a frame without alpha masks nothing."""
    see_through = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    opaque = Image.new("RGBA", (4, 4), (0, 255, 0, 255))
    see_through.save(tmp_path / "a.gif", save_all=True, append_images=[opaque], disposal=2)
    image, mask = load(tmp_path / "a.gif")
    assert (image.shape, mask.shape) == ((2, 4, 4, 3), (2, 4, 4))
    assert mask.mean((1, 2)).tolist() == [1.0, 0.0]
    Image.new("L", (4, 4), 9).save(
        tmp_path / "a.tiff", save_all=True, append_images=[see_through, Image.new("L", (2, 2))]
    )
    image, mask = load(tmp_path / "a.tiff")
    assert (image.shape, mask.mean((1, 2)).tolist()) == ((2, 4, 4, 3), [0.0, 1.0])


@pytest.mark.parametrize("size", [(1, 1), (20_000, 2), (2, 20_000)])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP"])
def test_the_smallest_and_the_longest(tmp_path: Path, format: str, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (255, 255, 255)).save(tmp_path / "a", format)
    image, _ = load(tmp_path / "a")
    assert image.shape == (1, size[1], size[0], 3)
    assert image.min() > 0.98


def gif(width: int, height: int, frames: int) -> bytes:
    """A GIF of so many frames, of a few bytes each: that they are empty is found when they are decoded."""
    frame = b"\x21\xf9\x04\0\x0a\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\0"
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + bytes([0, 0, 0, 255, 255, 255])
        + frame * frames
        + b";"
    )


def png(width: int, height: int) -> bytes:
    def chunk(type_: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + type_ + data + struct.pack(">I", zlib.crc32(type_ + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(12_000, 12_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "bomb.png").write_bytes(png(*size))
    with pytest.raises(InputError, match=r"bomb\.png (is too large a picture|cannot be read as a picture)"):
        load(tmp_path / "bomb.png")


def test_an_animation_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All frames count together, and a tiny one counts as more than its pixels."""
    monkeypatch.setattr(pictures, "MAX_ANIMATION", 100_000)
    frames = [Image.new("L", (100, 100), level) for level in range(20)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:9])
    assert len(load(tmp_path / "a.gif")[0]) == 9
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"a\.gif is too long an animation \(more than 10 frames of 100x100\).*cut it"):
        load(tmp_path / "a.gif")
    small = [frame.resize((1, 1)) for frame in frames] * 2
    small[0].save(tmp_path / "b.webp", save_all=True, append_images=small[1:], minimize_size=False, lossless=True)
    with pytest.raises(InputError, match="too long an animation"):
        load(tmp_path / "b.webp")
    assert mask_nodes.load_image_mask(ref(tmp_path / "a.gif"), "red").shape == (1, 100, 100)


def _gif_of_frames(path: Path) -> None:
    path.write_bytes(gif(30_000, 30_000, 3))


def _program(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")


@pytest.mark.parametrize("write", [_gif_of_frames, _program])
def test_hostile_files_are_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """A GIF that claims frames of 900 megapixels; PostScript, which is a program."""
    write(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"x\.png (is too large a picture|cannot be read as a picture)"):
        load(tmp_path / "x.png")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_a_cut_file_is_refused_in_one_line(tmp_path: Path, format: str) -> None:
    """Wherever it ends."""
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, format)
    data = stream.getvalue()
    for share in (0.01, 0.1, 0.5, 0.9):
        (tmp_path / "cut.png").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(InputError, match=r"cut\.png cannot be read as a picture") as caught:
            load(tmp_path / "cut.png")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_broken_file_is_a_picture_or_an_error_in_words(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes changed at random, always the same: whatever the decoder makes of them, nothing else comes of it."""
    monkeypatch.setattr(pictures, "MAX_PIXELS", 2**16)  # what is large takes its time
    told, shapes = [], []
    animated = format not in ("BMP", "JPEG")
    stream = io.BytesIO()
    frames = [Image.new("P", (6, 5), level) for level in (0, 9)]
    options = {"save_all": True, "append_images": frames[1:]} if animated else {}
    frames[0].convert("RGB").save(stream, format, **options)
    data, random = stream.getvalue(), np.random.default_rng(1)
    for _ in range(60):
        broken = bytearray(data)
        for place in random.integers(0, len(data), 3):
            broken[place] = random.integers(0, 256)
        (tmp_path / "x.png").write_bytes(broken)
        try:
            image, _ = load(tmp_path / "x.png")
        except InputError as error:
            told.append(str(error))
        else:
            shapes.append(image.shape[-1])
    assert all("x.png" in text for text in told)
    assert set(shapes) <= {3}
    assert told
