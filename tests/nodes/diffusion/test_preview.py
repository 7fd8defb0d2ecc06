from __future__ import annotations

from io import BytesIO

import pytest
import torch
from PIL import Image
from torch import Tensor

from nodes.diffusion.family import FAMILIES
from nodes.diffusion.preview import PreviewMap, fit, preview_image, preview_jpeg, preview_size, usual

WEIGHT = torch.tensor([[0.02, 0.0, 0.01], [0.0, 0.03, 0.0], [-0.01, 0.0, 0.02], [0.01, 0.01, 0.01]])
BIAS = torch.tensor([0.5, 0.4, 0.6])


def linear_decoder(latents: Tensor) -> Tensor:
    """Decodes each cell to an 8 x 8 block of one colour, with a fine pattern that averages to nothing."""
    colours = torch.einsum("bchw,cr->brhw", latents, WEIGHT) + BIAS[:, None, None]
    blocks = colours.repeat_interleave(8, -1).repeat_interleave(8, -2)
    pattern = 0.1 * (torch.arange(blocks.shape[-1]) % 2 * 2 - 1)
    return (blocks + pattern) * 2 - 1


def test_fit_finds_the_map_of_a_linear_decoder() -> None:
    """If the decoder is linear per cell, the fitted map is that decoder's."""
    mapping = fit(linear_decoder, channels=4, scale=0.18215)
    torch.testing.assert_close(mapping.weight, WEIGHT, rtol=0, atol=1e-5)
    torch.testing.assert_close(mapping.bias, BIAS, rtol=0, atol=1e-5)


def test_fit_leaves_the_random_state_alone() -> None:
    """Fitting a preview draws from a generator of its own."""
    before = torch.get_rng_state()
    fit(linear_decoder, channels=4, scale=0.18215)
    assert torch.equal(before, torch.get_rng_state())


def test_picture_of_a_latent() -> None:
    """A latent that maps to pure red gives red pixels, values beyond the range are clipped."""
    mapping = PreviewMap(torch.eye(3), torch.zeros(3))
    latent = torch.tensor([2.0, 0.0, -1.0])[:, None, None].expand(3, 4, 8)
    image = preview_image(latent, mapping)
    assert image.size == (512, 256)
    assert image.getpixel((100, 100)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 64), (512, 512)), ((16, 12), (512, 384)), ((1024, 512), (512, 256)), ((2000, 1), (512, 1))],
)
def test_longest_side_fits(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """Previews have a longer side of 512 pixels and keep their proportions."""
    assert preview_size(*size) == expected


def test_jpeg_can_be_read() -> None:
    """The bytes are a JPEG of the preview's size."""
    data = preview_jpeg(torch.zeros(4, 8, 16), PreviewMap(WEIGHT, BIAS))
    with Image.open(BytesIO(data)) as image:
        assert (image.format, image.size) == ("JPEG", (512, 256))
        pixel = image.getpixel((10, 10))
    assert pixel == pytest.approx((128, 102, 153), abs=3)


def test_usual_colours_are_of_the_models_own_space() -> None:
    """A latent that the model sees as nothing is grey, whatever the family's shift; one channel more is its colour."""
    for family in FAMILIES.values():
        mapping = usual(family)
        nothing = torch.full((family.channels, 1, 1), family.shift)
        assert mapping.picture(nothing)[0, 0].tolist() == [128, 128, 128]
    latent = torch.tensor([1.0, 0.0, 0.0, 0.0])[:, None, None] / 0.18215
    expected = [round((1 + colour) / 2 * 255) for colour in (0.3512, 0.2297, 0.3227)]
    assert usual(FAMILIES["sd1"]).picture(latent)[0, 0].tolist() == expected
