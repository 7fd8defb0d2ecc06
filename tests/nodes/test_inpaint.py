"""Painting a part of a picture anew, on masks and pictures small enough to work out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from nodes import inpaint as inpaint_nodes
from nodes.diffusion import unet
from nodes.diffusion.inpaint import grown, masked_picture
from nodes.diffusion.vae import encode
from tests.nodes.contexts import context, demo, demo_store

PROMPT: list[Any] = [[torch.ones(1, 2, 4), {"strength": 2.0}]]


def marked(size: int, *pixels: tuple[int, int]) -> Tensor:
    """A mask [1,size,size] that is 1 at these (row, column)."""
    mask = torch.zeros(1, size, size)
    for row, column in pixels:
        mask[0, row, column] = 1
    return mask


def test_a_masked_picture_is_grey_under_the_mask() -> None:
    """What rounds to 1 becomes 0.5; the mask itself is not rounded. Both lose a pixel left and two right of a width of 11."""
    pixels = torch.full((2, 8, 11, 3), 0.9)
    mask = torch.zeros(8, 11)
    mask[:, 1:3], mask[:, 3] = 1.0, 0.4
    picture, fitted = masked_picture(pixels, mask, 8)
    assert picture.shape == (2, 8, 8, 3)
    assert fitted.shape == (1, 1, 8, 8)
    assert torch.allclose(picture[1, 5, :, 2], torch.tensor([0.5, 0.5] + [0.9] * 6))
    assert torch.allclose(fitted[0, 0, 5], torch.tensor([1.0, 1.0, 0.4] + [0.0] * 5))
    assert float(pixels.min()) == pytest.approx(0.9)


def test_masks_of_another_size_and_number_are_fitted() -> None:
    """A mask is resized to the picture; two masks are taken in turn by three pictures, and stay two."""
    masks = torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])
    picture, fitted = masked_picture(torch.zeros(3, 16, 16, 3), masks, 8)
    assert picture.mean(dim=(1, 2, 3)).tolist() == [0.5, 0.0, 0.5]
    assert fitted.shape == (2, 1, 16, 16)


@pytest.mark.parametrize(
    ("by", "rows"), [(0, [4]), (1, [4]), (2, [4, 5]), (3, [3, 4, 5]), (6, [2, 3, 4, 5, 6, 7]), (5, [2, 3, 4, 5, 6])]
)
def test_a_mask_grows_by_a_square(by: int, rows: list[int]) -> None:
    """A single pixel becomes a square of that many, an even one reaching further down and right."""
    result = grown(marked(10, (4, 4))[None] * 0.6, by)[0, 0]
    assert (result == 1).any(dim=1).nonzero().flatten().tolist() == rows
    assert (result == 1).any(dim=0).nonzero().flatten().tolist() == rows
    assert float(result.sum()) == len(rows) ** 2
    assert result.shape == (10, 10)


def test_vae_encode_for_inpaint_hides_what_is_under_the_mask() -> None:
    """Two pictures that differ under the mask alone have one latent: that of the picture with grey there."""
    pixels = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(1))
    mask = marked(32)
    mask[:, 8:16, 8:24] = 1
    other = torch.where(mask[..., None] == 1, 0.1, pixels)
    grey = torch.where(mask[..., None] == 1, 0.5, pixels)
    ctx, vae = context(), demo("vae")
    first = inpaint_nodes.vae_encode_for_inpaint(ctx, pixels=pixels, vae=vae, mask=mask, grow_mask_by=3)
    second = inpaint_nodes.vae_encode_for_inpaint(ctx, pixels=other, vae=vae, mask=mask, grow_mask_by=3)
    with demo_store().lease(vae) as loaded:
        expected = encode(grey, loaded)
    torch.testing.assert_close(first["samples"], expected)
    assert torch.equal(first["samples"], second["samples"])
    assert first["noise_mask"].shape == (1, 1, 32, 32)
    assert float(first["noise_mask"].sum()) == 10 * 18


def test_inpaint_model_conditioning_shows_the_hidden_picture_and_starts_from_the_whole() -> None:
    pixels = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(1))
    mask = marked(16)
    mask[:, :8] = 1
    grey = torch.where(mask[..., None] == 1, 0.5, pixels)
    vae = demo("vae")
    positive, negative, latent = inpaint_nodes.inpaint_model_conditioning(
        context(), positive=PROMPT, negative=PROMPT, vae=vae, pixels=pixels, mask=mask
    )
    with demo_store().lease(vae) as loaded:
        whole, hidden = encode(pixels, loaded), encode(grey, loaded)
    torch.testing.assert_close(latent["samples"], whole)
    torch.testing.assert_close(positive[0][1]["concat_latent_image"], hidden)
    assert negative[0][1]["concat_mask"].shape == (1, 1, 16, 16)
    assert torch.equal(negative[0][1]["concat_mask"], latent["noise_mask"])
    assert positive[0][1]["strength"] == 2.0
    *_, free = inpaint_nodes.inpaint_model_conditioning(
        context(), positive=PROMPT, negative=PROMPT, vae=vae, pixels=pixels, mask=mask, noise_mask=False
    )
    assert "noise_mask" not in free


def test_instruct_pix_to_pix_shows_the_picture_and_starts_empty() -> None:
    pixels = torch.rand(1, 16, 20, 3)
    vae = demo("vae")
    positive, negative, latent = inpaint_nodes.instruct_pix_to_pix_conditioning(
        context(), positive=PROMPT, negative=PROMPT, vae=vae, pixels=pixels
    )
    with demo_store().lease(vae) as loaded:
        seen = encode(pixels, loaded)
    assert torch.equal(positive[0][1]["concat_latent_image"], seen)
    assert torch.equal(negative[0][1]["concat_latent_image"], seen)
    assert latent["samples"].shape == (1, 4, 2, 2)
    assert not latent["samples"].any()


def test_the_upscaling_model_is_shown_the_picture_at_a_quarter_of_the_new_size() -> None:
    """64 x 32 pixels times 2 are 128 x 64: the model sees 32 x 16 in -1..1 and makes as many cells."""
    positive, _, latent = inpaint_nodes.sd_4xupscale_conditioning(
        images=torch.full((2, 32, 64, 3), 0.75),
        positive=PROMPT,
        negative=PROMPT,
        scale_ratio=2.0,
        noise_augmentation=0.25,
    )
    seen = positive[0][1]["concat_image"]
    assert seen.shape == (2, 3, 16, 32)
    assert torch.allclose(seen, torch.tensor(0.5))
    assert positive[0][1]["noise_augmentation"] == 0.25
    assert latent["samples"].shape == (2, 4, 16, 32)
    with pytest.raises(InputError, match=r"found 64 x 32 times 0\.1; choose a larger scale_ratio"):
        inpaint_nodes.sd_4xupscale_conditioning(
            images=torch.zeros(1, 32, 64, 3), positive=PROMPT, negative=PROMPT, scale_ratio=0.1
        )


def test_a_noise_mask_is_attached_and_nothing_else_changes() -> None:
    samples = torch.ones(1, 4, 2, 2)
    masked = inpaint_nodes.set_latent_noise_mask({"samples": samples, "batch_index": [3]}, torch.ones(2, 16, 16))
    assert masked["samples"] is samples
    assert masked["noise_mask"].shape == (2, 1, 16, 16)
    assert masked["batch_index"] == [3]
    with pytest.raises(InputError, match=r"expected a mask with pixels, found one of shape \[0, 16\]"):
        inpaint_nodes.set_latent_noise_mask({"samples": samples}, torch.ones(0, 16))


def test_outpainting_pads_with_grey_and_the_mask_fades_into_the_picture() -> None:
    """Two pixels left, one below, feathered over four: (4 - d)^2 / 16 at a distance of d from the sides with a border.

    A pixel's distance counts from 0 at the left and from 1 at the bottom.
    """
    picture, mask = inpaint_nodes.image_pad_for_outpaint(image=torch.ones(1, 10, 12, 3), left=2, bottom=1, feathering=4)
    assert picture.shape == (1, 11, 14, 3)
    assert picture[0, 0, :, 0].tolist() == [0.5, 0.5] + [1.0] * 12
    assert picture[0, :, 5, 0].tolist() == [1.0] * 10 + [0.5]
    assert mask.shape == (1, 11, 14)
    assert mask[0, 0].tolist() == [1.0, 1.0, 1.0, 9 / 16, 4 / 16, 1 / 16] + [0.0] * 8
    assert mask[0, :, 10].tolist() == [0.0] * 7 + [1 / 16, 4 / 16, 9 / 16, 1.0]
    assert float(mask[0, 9, 2]) == 1.0


@pytest.mark.parametrize("feathering", [0, 5, 100])
def test_a_picture_too_small_to_feather_is_not(feathering: int) -> None:
    """10 pixels are not more than twice 5."""
    _, mask = inpaint_nodes.image_pad_for_outpaint(image=torch.ones(1, 10, 12, 3), top=8, feathering=feathering)
    assert float(mask.sum()) == 8 * 12


def test_differential_diffusion_is_a_setting_that_the_denoiser_reads() -> None:
    """With its strength; a model without it takes masks as they are."""
    model = demo("unet")
    changed = inpaint_nodes.differential_diffusion(model, 0.7)
    with demo_store().lease(changed) as loaded:
        assert unet.denoiser(loaded).differential == 0.7
    with demo_store().lease(model) as loaded:
        assert unet.denoiser(loaded).differential is None
