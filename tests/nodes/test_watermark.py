"""Marks that are not seen: written, read, and read again from a JPEG."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.errors import InputError
from nodes import watermark as mark_nodes
from nodes.diffusion import picture_files, watermark


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """Waves of colour under a little noise, which is much like a photograph to a codec."""
    down, across = torch.meshgrid(torch.linspace(0, 1, 260), torch.linspace(0, 1, 300), indexing="ij")
    waves = torch.stack([across, down, (across * down * 7).sin() / 2 + 0.5], dim=-1) * 0.7 + 0.15
    return (waves + 0.03 * torch.randn(waves.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)[None]


def through_jpeg(image: Tensor, quality: int) -> Tensor:
    data = picture_files.encode(image[0], "jpeg", quality=quality)
    with Image.open(io.BytesIO(data)) as picture:
        return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255.0)[None]


@pytest.mark.parametrize("method", ["dwtDctSvd", "dwtDct"])
def test_what_was_written_is_read(photo: Tensor, method: str) -> None:
    """In 8 bits, with every bit agreed on by most; nothing is seen of it."""
    marked = mark_nodes.watermark_write(photo, "mezzo", 8, method)
    text, certainty, digits = mark_nodes.watermark_read((marked * 255).round() / 255, 8, method)
    assert (text, digits) == ("mezzo", "6d657a7a6f000000")
    assert certainty > 0.6
    assert -10 * torch.log10(((marked - photo) ** 2).mean()) > 38
    light = torch.tensor([0.299, 0.587, 0.114])
    inside = (marked > 0.01).all(-1) & (marked < 0.99).all(-1)
    assert ((marked - photo) @ light)[inside].abs().max() < 1e-5


@pytest.mark.parametrize("quality", [95, 90, 80])
def test_it_survives_jpeg(photo: Tensor, quality: int) -> None:
    marked = mark_nodes.watermark_write(photo, "größe")
    text, certainty, _ = mark_nodes.watermark_read(through_jpeg(marked, quality))
    assert text == "größe"
    assert certainty > 0.5


def test_where_there_is_none_none_is_read(photo: Tensor) -> None:
    """Nor where the picture has one colour, in which all parts agree on nothing."""
    flat = torch.full((1, 256, 256, 3), 0.37)
    for image in (photo, flat, torch.zeros_like(flat), torch.ones_like(flat)):
        text, certainty, _ = mark_nodes.watermark_read(image)
        assert text == ""
        assert certainty < 0.4


def test_every_picture_of_a_batch_is_marked(photo: Tensor) -> None:
    """And each read by itself; alpha stays, grey becomes colour."""
    batch = torch.cat([photo, photo.flip(1)])
    with_alpha = torch.cat([batch, torch.rand(*batch.shape[:3], 1)], dim=-1)
    marked = watermark.write(with_alpha, b"mark")
    assert [data for data, _ in watermark.read(marked, 4)] == [b"mark"] * 2
    assert torch.equal(marked[..., 3], with_alpha[..., 3])
    assert watermark.write(photo[..., :1], b"mark").shape == photo.shape
    assert mark_nodes.watermark_read(watermark.write(photo[..., :1], b"mark"), 4)[0] == "mark"


def test_marks_of_the_usual_package_are_read() -> None:
    """A block worked out as it does: quarter and three quarters of a step of 36, of the largest but the first."""
    blocks = np.full((1, 2, 16), 250.0)
    blocks[..., 5] = 260.0
    marked = watermark._peaks_marked(blocks, np.array([0, 1], np.uint8))
    assert marked[0, :, 5].tolist() == [(7 + 0.25) * 36, (7 + 0.75) * 36]
    assert (np.delete(marked, 5, axis=-1) == 250).all()


@pytest.mark.parametrize(
    ("image", "text", "said"),
    [
        (
            (1, 64, 64, 3),
            "mezzo",
            "at least 512 blocks of 8x8 pixels for a mark of 8 bytes, found 64x64, which have 64",
        ),
        ((1, 256, 256, 3), "ä" * 5, "expected a text of at most 8 bytes, found 10"),
    ],
)
def test_what_has_no_room_is_refused(image: tuple[int, ...], text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        mark_nodes.watermark_write(torch.zeros(image), text)
