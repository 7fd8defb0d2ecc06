"""Pictures become latents and pictures again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from engine.errors import InputError, ResourceError
from nodes.diffusion import vae as vaes
from nodes.diffusion.store import LoadedModel, LocalModelStore
from nodes.diffusion.tiles import Tiling, spans, tiled
from nodes.diffusion.vae import centre_crop, decode, encode
from tests.nodes.diffusion.conftest import MakeRef


@pytest.fixture
def vae(demo_store: LocalModelStore, demo: MakeRef) -> Iterator[LoadedModel]:
    with demo_store.lease(demo("vae")) as model:
        yield model


def disc(side: int, batch: int = 1) -> Tensor:
    """A red disc on blue, [batch, side, side, 3]."""
    axis = torch.linspace(-1, 1, side)
    inside = ((axis[:, None] ** 2 + axis[None] ** 2) < 0.4).unsqueeze(-1)
    picture = torch.where(inside, torch.tensor([220.0, 40, 40]), torch.tensor([40.0, 80, 220])) / 255
    return picture.expand(batch, side, side, 3)


def test_round_trip_keeps_the_picture(vae: LoadedModel) -> None:
    """A drawing comes back from its latent nearly as it was, as float32 in 0..1."""
    latent = encode(disc(64), vae)
    picture = decode(latent, vae)
    assert latent.shape == (1, 4, 8, 8)
    assert picture.shape == (1, 64, 64, 3)
    assert (latent.dtype, picture.dtype) == (torch.float32, torch.float32)
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
    assert (picture - disc(64)).abs().mean() < 0.03


def test_latents_are_the_unscaled_mode(vae: LoadedModel) -> None:
    """Encoding draws no sample and applies no scale factor: it is the mode of diffusers' own distribution."""
    with torch.inference_mode():
        expected = vae.module.encode(disc(64).movedim(-1, 1) * 2 - 1).latent_dist.mode()  # type: ignore[operator]
    assert torch.equal(encode(disc(64), vae), expected)


def test_alpha_and_grey_pictures(vae: LoadedModel) -> None:
    """A fourth channel is left out, a single one is grey."""
    opaque = torch.cat([disc(64), torch.rand(1, 64, 64, 1)], dim=-1)
    assert torch.equal(encode(opaque, vae), encode(disc(64), vae))
    grey = torch.full((1, 16, 16, 1), 0.5)
    assert torch.equal(encode(grey, vae), encode(grey.expand(-1, -1, -1, 3), vae))


def test_crop_is_in_the_centre() -> None:
    """What is beyond a multiple of eight goes from both sides alike; less than one multiple is an error."""
    picture = torch.arange(19.0).reshape(1, 1, 19, 1).expand(1, 9, 19, 1)
    cropped = centre_crop(picture, 8)
    assert cropped.shape == (1, 8, 16, 1)
    assert cropped[0, 0, :, 0].tolist() == list(range(1, 17))
    with pytest.raises(InputError, match="at least 8 x 8"):
        centre_crop(torch.zeros(1, 7, 20, 3), 8)


def test_batch_in_pieces_is_the_batch(vae: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """With memory for one picture at a time, a batch gives what it gives at once."""
    latents = encode(disc(64, 3) * torch.tensor([1.0, 0.5, 0.2]).reshape(3, 1, 1, 1), vae)
    expected = decode(latents, vae)
    monkeypatch.setattr(vaes, "free_memory", lambda device: 1)
    assert torch.allclose(decode(latents, vae), expected, atol=1e-5)


def test_wrong_latents_are_refused(vae: LoadedModel) -> None:
    """Latents of another model are an input error that says what was expected."""
    with pytest.raises(InputError, match=r"\[batch, 4, height, width\]"):
        decode(torch.zeros(1, 16, 8, 8), vae)


def test_out_of_memory_falls_back_to_tiles(vae: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a picture does not fit, it is done in tiles, with a warning, close to what it would have been.

    Every tile shows as much of each colour as the whole: group norms see a tile's statistics, which differ otherwise.
    """
    monkeypatch.setattr(vaes, "TILE", 32)
    latents = encode(disc(64).repeat(1, 8, 8, 1), vae)
    said: list[str] = []
    whole = decode(latents, vae)

    def refuse_large(_module: object, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].shape[-1] > vaes.TILE:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = vae.module.get_submodule("decoder").register_forward_pre_hook(refuse_large)
    try:
        tiles = decode(latents, vae, warn=said.append)
    finally:
        handle.remove()
    assert len(said) == 1
    assert "tiles" in said[0]
    assert tiles.shape == whole.shape
    assert (tiles - whole).abs().mean() < 0.02
    assert seam(tiles, whole) < 1 / 255


def seam(tiles: Tensor, whole: Tensor) -> float:
    """How much larger the mean step from one column or row to the next is anywhere than without tiles."""
    steps = []
    for dim in (1, 2):
        jump = (tiles - whole).diff(dim=dim).mean(dim=[d for d in range(4) if d != dim])
        steps.append(float(jump.abs().max()))
    return max(steps)


def test_no_memory_at_all_is_said(vae: LoadedModel) -> None:
    """When not even a tile fits, one line says so."""

    def refuse(_module: object, _inputs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    handle = vae.module.get_submodule("decoder").register_forward_pre_hook(refuse)
    try:
        with pytest.raises(ResourceError, match="64 x 64"):
            decode(torch.zeros(1, 4, 8, 8), vae)
    finally:
        handle.remove()


@pytest.mark.parametrize("side", [1, 63, 64, 65, 100, 113, 128, 500])
def test_tiles_cover_everything_and_overlap(side: int) -> None:
    """Tiles begin at the start, end at the end, and neighbours share at least the overlap."""
    places = spans(side, Tiling(64, 16))
    assert (places[0][0], places[-1][1]) == (0, side)
    for (_, end), (start, _) in itertools.pairwise(places):
        assert end - start >= 16
    assert all(end - start <= 64 for start, end in places)


@pytest.mark.parametrize(("grow", "shrink"), [(1, 1), (8, 1), (1, 8)])
def test_tiles_of_a_local_function_are_the_whole(grow: int, shrink: int) -> None:
    """For a function that looks at one cell at a time, tiles give exactly the whole result."""

    def run(batch: Tensor) -> Tensor:
        return batch.repeat_interleave(grow, -1).repeat_interleave(grow, -2)[..., ::shrink, ::shrink] * 2

    batch = torch.rand(1, 3, 150 * shrink, 70 * shrink)
    result = tiled(batch, run, Tiling(64 * shrink, 16 * shrink, grow, shrink))
    assert torch.allclose(result, run(batch), atol=1e-6)
