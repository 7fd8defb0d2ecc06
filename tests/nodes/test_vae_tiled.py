"""The VAE in tiles, against the VAE at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from nodes import vae as vae_nodes
from nodes.diffusion import pictures, vae
from nodes.diffusion.vae import decode, encode
from tests.conftest import ROOT
from tests.nodes.contexts import Heard, context, demo, demo_store


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """The repository's picture as the VAE knows it, 128 pixels high, twice side by side: [1,128,256,3]."""
    image, _ = pictures.read(ROOT / "input" / "square.png")
    return image.repeat(1, 1, 2, 1)


def test_tiles_are_the_whole(picture: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer by layer, far below a level of 255, where half of the picture is flat and half noise, either way; where main memory is short
    the user is told, and each tile is normalised by itself."""
    heard = Heard()
    generator = torch.Generator().manual_seed(0)
    mixed = picture[:, :72, :96].clone()
    mixed[:, :, :40] = 0.5
    mixed[:, 40:, 40:] = torch.rand(1, 32, 56, 3, generator=generator)
    with demo_store().lease(demo("vae")) as loaded:
        latent = encode(mixed, loaded)
        whole = decode(latent, loaded)

    def difference() -> float:
        made = vae_nodes.vae_decode_tiled(
            context(heard), samples={"samples": latent}, vae=demo("vae"), tile_size=64, overlap=16
        )
        return float((made - whole).abs().max())

    assert difference() < 0.02 / 255
    tiles = vae_nodes.vae_encode_tiled(context(heard), pixels=mixed, vae=demo("vae"), tile_size=64, overlap=16)
    assert torch.allclose(tiles["samples"], latent, atol=0.01)
    assert heard.warnings == []
    assert heard.progress[-1][0] == heard.progress[-1][1]
    monkeypatch.setattr(vae, "free_memory", lambda device: 1)
    assert difference() > 4 / 255
    assert "every tile is normalised by itself" in heard.warnings[0]


def test_tiles_larger_than_the_picture_change_nothing(picture: Tensor) -> None:
    """Neither way; each tile is told."""
    heard = Heard()
    small = picture[:, :72, :120]
    with demo_store().lease(demo("vae")) as loaded:
        latent = encode(small, loaded)
        whole = decode(latent, loaded)
    tiled = vae_nodes.vae_encode_tiled(context(heard), pixels=small, vae=demo("vae"))["samples"]
    assert torch.equal(tiled, latent)
    assert torch.equal(vae_nodes.vae_decode_tiled(context(heard), samples={"samples": latent}, vae=demo("vae")), whole)
    assert [said[:2] for said in heard.progress] == [(1, 1), (1, 1)]


def test_a_batch_in_tiles(picture: Tensor) -> None:
    """Each picture of it is encoded as it is alone, and every layer is told."""
    heard = Heard()
    both = torch.cat([picture[:, :, :72], picture[:, :, 56:128]])
    with demo_store().lease(demo("vae")) as loaded:
        whole = encode(both, loaded)
    tiled = vae_nodes.vae_encode_tiled(context(heard), pixels=both, vae=demo("vae"), tile_size=64, overlap=4096)[
        "samples"
    ]
    told = [said[0] for said in heard.progress]
    assert told == sorted(told)
    assert set(told) == set(range(heard.progress[0][1] + 1))
    assert torch.allclose(tiled, whole, atol=0.01)


def test_latents_of_another_model_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[batch, 4, height, width\]"):
        vae_nodes.vae_decode_tiled(context(), samples={"samples": torch.zeros(1, 16, 8, 8)}, vae=demo("vae"))
