"""The picture nodes, on pictures small enough to work out by hand."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.errors import InputError
from engine.fileref import FileRef
from engine.models import Digest
from nodes import image as picture_nodes


def _ref(path: Path) -> FileRef:
    return FileRef(Digest("0"), path, path.name)


def _batch(*levels: float) -> torch.Tensor:
    """One picture a level, 2x2, grey."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 2, 2, 3).clone()


def test_load_image_gives_colour_and_the_inverse_of_alpha(tmp_path: Path) -> None:
    """RGB/255, and 1 - alpha as the mask."""
    Image.fromarray(np.array([[[255, 0, 51, 255], [0, 0, 0, 51]]], np.uint8), "RGBA").save(tmp_path / "a.png")
    image, mask = picture_nodes.load_image(_ref(tmp_path / "a.png"))
    assert torch.allclose(image, torch.tensor([[[[1.0, 0.0, 0.2], [0.0, 0.0, 0.0]]]]))
    assert torch.allclose(mask, torch.tensor([[[0.0, 0.8]]]))


def test_load_image_without_alpha_has_an_empty_mask(tmp_path: Path) -> None:
    """64x64 zeros, as clients expect."""
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    image, mask = picture_nodes.load_image(_ref(tmp_path / "a.png"))
    assert image.shape == (1, 2, 3, 3)
    assert mask.shape == (1, 64, 64)
    assert not mask.any()


def test_load_image_turns_a_picture_as_its_exif_says(tmp_path: Path) -> None:
    """Orientation 6: the camera lay on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2)).save(tmp_path / "a.jpg", exif=exif)
    image, _ = picture_nodes.load_image(_ref(tmp_path / "a.jpg"))
    assert image.shape == (1, 4, 2, 3)


def test_load_image_batches_the_frames_of_an_animation(tmp_path: Path) -> None:
    """Frames of one size become one batch, in order."""
    frames = [Image.new("L", (2, 2), level) for level in (0, 255)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image, _ = picture_nodes.load_image(_ref(tmp_path / "a.gif"))
    assert image[:, 0, 0, 0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("mode", "levels"), [("I;16", [0, 65535]), ("L", [0, 255]), ("P", [0, 255]), ("1", [0, 255])])
def test_load_image_reads_grey_of_any_depth(tmp_path: Path, mode: str, levels: list[int]) -> None:
    """Black is 0 and white is 1, however many bits say so."""
    if mode == "I;16":
        picture = Image.fromarray(np.array([levels], np.uint16))
    else:
        picture = Image.fromarray(np.array([levels], np.uint8)).convert(mode)
    picture.save(tmp_path / "a.png")
    image, _ = picture_nodes.load_image(_ref(tmp_path / "a.png"))
    assert image[0, 0, :, 0].tolist() == [0.0, 1.0]


def _bomb(path: Path) -> None:
    """A PNG whose header claims 100,000 x 100,000 pixels."""
    stream = io.BytesIO()
    Image.new("L", (1, 1)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(data))


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """The header is enough to say no, in one line, with the size and what to do."""
    _bomb(tmp_path / "bomb.png")
    with pytest.raises(InputError, match=r"bomb\.png is too large a picture .*scale it down") as caught:
        picture_nodes.load_image(_ref(tmp_path / "bomb.png"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"GIF89a\x01"])
def test_what_is_no_picture_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    """Truncated and false files name themselves and what would do."""
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.png cannot be read as a picture"):
        picture_nodes.load_image(_ref(tmp_path / "x.png"))


def test_save_image_cuts_values_to_bytes() -> None:
    """clip(255 x), truncated; one file for each picture of the batch, with its place in it."""
    outputs = picture_nodes.save_image(torch.tensor([0.0, 0.999, 1.5, -1.0]).view(1, 2, 2, 1).expand(1, 2, 2, 3), "p")
    assert [(file.prefix, file.extension, file.kind, file.batch_index) for file in outputs.files] == [
        ("p", "png", "output", 0)
    ]
    assert np.asarray(Image.open(io.BytesIO(outputs.files[0].data)))[..., 0].tolist() == [[0, 254], [255, 0]]


def test_empty_image_has_the_colour_of_its_number() -> None:
    """0xRRGGBB."""
    image = picture_nodes.empty_image(2, 1, 3, 0xFF8000)
    assert image.shape == (3, 1, 2, 3)
    assert torch.allclose(image[2, 0, 1], torch.tensor([1.0, 128 / 255, 0.0]))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("normal", 0.2),
        ("multiply", 0.16),
        ("screen", 0.84),
        ("overlay", 0.68),
        ("soft_light", 0.704),
        ("difference", 0.6),
    ],
)
def test_image_blend_modes(mode: str, expected: float) -> None:
    """0.8 under 0.2 at full strength, each mode by its formula."""
    blended = picture_nodes.image_blend(image1=_batch(0.8), image2=_batch(0.2), blend_factor=1.0, blend_mode=mode)
    assert torch.allclose(blended, _batch(expected))


def test_image_blend_mixes_by_its_factor() -> None:
    """A quarter of the blend, three quarters of the first."""
    blended = picture_nodes.image_blend(image1=_batch(0.8), image2=_batch(0.4), blend_factor=0.25, blend_mode="normal")
    assert torch.allclose(blended, _batch(0.7))
    grey, clear = _batch(0.8), torch.cat([_batch(0.4), torch.zeros(1, 2, 2, 1)], dim=-1)
    given = {"blend_factor": 0.25, "blend_mode": "normal"}
    assert torch.allclose(picture_nodes.image_blend(image1=grey, image2=clear, **given), blended)
    assert picture_nodes.image_blend(image1=clear, image2=grey, **given)[..., 3].unique().tolist() == [0.25]


def test_image_batch_brings_the_second_to_the_firsts_size_and_channels() -> None:
    """A 4x4 RGBA picture joins a 2x2 RGB one: the first gets an opaque alpha."""
    both = picture_nodes.image_batch(_batch(0.5), torch.full((1, 4, 4, 4), 0.25))
    assert both.shape == (2, 2, 2, 4)
    assert both[0, 0, 0].tolist() == [0.5, 0.5, 0.5, 1.0]
    assert both[1, 0, 0].tolist() == [0.25, 0.25, 0.25, 0.25]


@pytest.mark.parametrize(("width", "height", "size"), [(0, 0, (2, 4)), (8, 0, (4, 8)), (0, 1, (1, 2)), (3, 5, (5, 3))])
def test_image_scale_works_out_a_side_given_as_zero(width: int, height: int, size: tuple[int, int]) -> None:
    """From the aspect ratio; both zero leaves the picture alone."""
    image = torch.rand(1, 2, 4, 3)
    scaled = picture_nodes.image_scale(
        image=image, upscale_method="bilinear", width=width, height=height, crop="disabled"
    )
    assert scaled.shape[1:3] == size


def test_image_scale_center_crops_to_the_new_aspect() -> None:
    """The outer columns go, the middle ones stay as they are."""
    image = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 2, 4, 3)
    scaled = picture_nodes.image_scale(image=image, upscale_method="nearest-exact", width=2, height=2, crop="center")
    assert scaled[0, 0, :, 0].tolist() == [1.0, 2.0]


def test_lanczos_of_a_flat_picture_stays_flat() -> None:
    """Resampling keeps a constant, to the 8 bits it works in."""
    scaled = picture_nodes.image_scale_by(_batch(0.5), "lanczos", 3.0)
    assert scaled.shape == (1, 6, 6, 3)
    assert torch.allclose(scaled, torch.tensor(127 / 255))
    same = picture_nodes.image_scale(image=_batch(0.5), upscale_method="lanczos", width=2, height=2, crop="disabled")
    assert torch.allclose(same, torch.tensor(127 / 255))


def test_lanczos_lets_colours_count_by_their_alpha() -> None:
    """Half as wide, each pixel takes part of its transparent neighbour's place and nothing of its colour."""
    image = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 4).repeat(1, 4, 4, 1)
    scaled = picture_nodes.image_scale(image=image, upscale_method="lanczos", width=4, height=4, crop="disabled")
    assert scaled[..., 3].max() < 1
    assert torch.allclose(scaled[..., :3], torch.tensor([1.0, 0.0, 0.0]).expand(1, 4, 4, 3), atol=2 / 255)
