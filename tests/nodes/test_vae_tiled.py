"""The VAE in tiles, against the VAE at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from nodes import vae as vae_nodes
from nodes.diffusion import pictures
from nodes.diffusion.vae import Tiling, decode, encode, spans
from tests.conftest import ROOT
from tests.nodes.contexts import Heard, context, demo, demo_store


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """The repository's picture as the VAE knows it, 128 pixels high, twice side by side: [1,128,256,3]."""
    image, _ = pictures.read(ROOT / "input" / "square.png")
    return image.repeat(1, 1, 2, 1)


def seam(tiles: Tensor, whole: Tensor, edges: list[int]) -> float:
    """How much larger the mean step across the edge of a tile, a column of [B,H,W,C], is than without tiles."""
    jumps = (tiles - whole).diff(dim=2).mean(dim=(0, 1, 3)).abs()
    return max(float(jumps[edge - 1]) for edge in edges)


def test_seams_of_tiles_are_not_seen(picture: Tensor) -> None:
    """Less than one level of 255 across every edge of three tiles that overlap by 32 pixels; two that only touch show theirs."""
    vae = demo("vae")
    with demo_store().lease(vae) as loaded:
        latent = encode(picture, loaded)
        whole = decode(latent, loaded)

    def measured(overlap: int) -> float:
        places = spans(32, Tiling(16, overlap // 8, 8, 1))
        tiles = vae_nodes.vae_decode_tiled(
            context(), samples={"samples": latent}, vae=vae, tile_size=128, overlap=overlap
        )
        edges = [8 * start for start, _ in places[1:]] + [8 * end for _, end in places[:-1]]
        return seam(tiles, whole, edges)

    assert measured(32) < 1 / 255 < measured(0)


def test_tiles_larger_than_the_picture_change_nothing(picture: Tensor) -> None:
    """Neither way; each tile is told."""
    vae, heard = demo("vae"), Heard()
    small = picture[:, :72, :120]
    with demo_store().lease(vae) as loaded:
        latent = encode(small, loaded)
        whole = decode(latent, loaded)
    tiled = vae_nodes.vae_encode_tiled(context(heard), pixels=small, vae=vae)["samples"]
    assert torch.equal(tiled, latent)
    assert torch.equal(vae_nodes.vae_decode_tiled(context(heard), samples={"samples": latent}, vae=vae), whole)
    assert [said[:2] for said in heard.progress] == [(1, 1), (1, 1)]


def test_encoded_tiles_come_close_to_the_whole(picture: Tensor) -> None:
    """Nine tiles a picture of the batch; an overlap of more than a quarter of a tile counts as that."""
    vae, heard = demo("vae"), Heard()
    both = torch.cat([picture[:, :, :160], picture[:, :, 96:]])
    with demo_store().lease(vae) as loaded:
        whole = encode(both, loaded)
    tiled = vae_nodes.vae_encode_tiled(context(heard), pixels=both, vae=vae, tile_size=64, overlap=4096)["samples"]
    assert [said[:2] for said in heard.progress] == [(done, 18) for done in range(1, 19)]
    assert tiled.shape == whole.shape == (2, 4, 16, 20)
    assert float(torch.corrcoef(torch.stack([tiled.flatten(), whole.flatten()]))[0, 1]) > 0.9


def test_latents_of_another_model_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[batch, 4, height, width\]"):
        vae_nodes.vae_decode_tiled(context(), samples={"samples": torch.zeros(1, 16, 8, 8)}, vae=demo("vae"))
