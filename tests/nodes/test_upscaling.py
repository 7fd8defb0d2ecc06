"""Upscalers from their files to larger pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import Cancelled, InputError, ModelFileError, ResourceError
from engine.graph.graph import Call
from engine.models import Digest, ModelRef
from nodes.diffusion import upscale, upscalers
from nodes.diffusion.devices import device_policy
from nodes.diffusion.inspection import inspect_model
from nodes.diffusion.pickles import convert_pickle
from nodes.diffusion.store import LoadedModel, LocalModelStore
from nodes.diffusion.upscale import upscaled
from nodes.diffusion.upscalers import Upscaler
from tests.nodes.studio import Studio, link
from tests.nodes.upscalers import KINDS, Weights, by_library, compact, nearest, rrdb, swin_ir

Make = Any


@pytest.fixture(scope="module")
def store() -> LocalModelStore:
    return LocalModelStore(device_policy("cpu"))


@pytest.fixture
def recipe(tmp_path: Path) -> Make:
    """Writes an upscaler and gives its recipe."""

    def make(weights: Weights) -> ModelRef:
        from safetensors.torch import save_file

        path = tmp_path / "model.safetensors"
        save_file(weights, path)
        return upscalers.recipe(ModelRef(Digest(f"{tmp_path}"), "upscaler", str(path)))

    return make


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def run(store: LocalModelStore, ref: ModelRef, pictures: Tensor, **heard: list[Any]) -> Tensor:
    tiles, warnings = heard.get("tiles", []), heard.get("warnings", [])
    with store.lease(ref) as loaded:
        return upscaled(pictures, loaded, lambda done, total: tiles.append((done, total)), warnings.append)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gives_what_its_library_does(kind: str, store: LocalModelStore, recipe: Make) -> None:
    """Twice the same, the second time without loading, and again after the weights were taken off the device; an odd size."""
    weights = KINDS[kind]()
    ref = recipe(weights)
    picture = noise(1, 17, 22, 3)
    expected = by_library(weights, picture)
    assert upscalers.scale_of(ref) == expected.shape[1] // 17 > 1
    assert float(expected.std()) > 1e-3
    for _ in range(2):
        loads = store.counters.loads
        assert torch.allclose(run(store, ref, picture), expected, atol=1e-6)
    assert store.counters.loads == loads
    store.evict_all()
    assert torch.allclose(run(store, ref, picture), expected, atol=1e-6)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_any_scale_channels_and_size(scale: int, store: LocalModelStore, recipe: Make) -> None:
    """An upscaler that repeats pixels does so to the last bit: of grey pictures, of colours, with alpha, of one pixel alone."""
    ref = recipe(nearest(scale))
    for shape in ((1, 1, 1, 3), (2, 5, 3, 4), (1, 2, 7, 1), (1, 3, 2, 2)):
        pictures = noise(*shape)
        expected = pictures.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        assert torch.allclose(run(store, ref, pictures), expected, atol=1e-6)


def test_one_channel_is_run_on_each_colour(store: LocalModelStore, recipe: Make) -> None:
    weights = compact(2, channels=1)
    ref = recipe(weights)
    picture = noise(1, 6, 5, 4)
    expected = torch.cat([by_library(weights, picture[..., colour : colour + 1]) for colour in range(4)], -1)
    assert torch.allclose(run(store, ref, picture), expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "most"), [("compact", 1e-6), ("real_esrgan_x4", 1e-5)])
def test_tiles_leave_no_seams(
    kind: str, most: float, store: LocalModelStore, recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the whole picture; cut without what overlaps, the same network shows its tiles."""
    ref = recipe(KINDS[kind]())
    picture = noise(1, 128, 40, 3)
    whole = run(store, ref, picture)
    monkeypatch.setattr(upscale, "TILE", 64)
    tiles: list[Any] = []
    assert float((run(store, ref, picture, tiles=tiles) - whole).abs().max()) < most
    assert tiles == [(done, len(tiles)) for done in range(1, len(tiles) + 1)]
    assert len(tiles) > 1
    monkeypatch.setattr(upscale, "OVERLAP", 0)
    assert float((run(store, ref, picture) - whole).abs().max()) > 10 * most


def test_a_network_that_looks_around_sees_the_whole_picture(
    store: LocalModelStore, recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small tiles are to be; where there is no memory for that, the user is told."""
    ref = recipe(swin_ir())
    monkeypatch.setattr(upscale, "TILE", 64)
    heard: dict[str, list[Any]] = {"tiles": [], "warnings": []}
    picture = noise(1, 66, 70, 3)
    whole = run(store, ref, picture, **heard)
    assert heard == {"tiles": [(1, 1)], "warnings": []}
    monkeypatch.setattr(upscale, "free_memory", lambda device: 1)
    tiles = run(store, ref, picture, **heard)
    assert "SwinIR should see at once" in heard["warnings"][0]
    assert len(heard["tiles"]) > 2
    assert float((tiles - whole).abs().mean()) < 1 / 255


def test_tiles_are_halved_until_they_fit(store: LocalModelStore, recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next picture begins with the side that fitted; where not even the smallest does, that is said."""
    ref = recipe(nearest(2))
    seen: list[int] = []

    def limited(most: int) -> Any:
        forward = Upscaler.forward

        def run(module: Upscaler, pictures: Tensor) -> Tensor:
            seen.append(max(pictures.shape[-2:]))
            if seen[-1] > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(module, pictures)

        return run

    pictures = noise(2, 300, 60, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Upscaler, "forward", limited(100))
        made = run(store, ref, pictures)
    assert torch.allclose(made, pictures.repeat_interleave(2, 1).repeat_interleave(2, 2), atol=1e-6)
    assert seen[:3] == [300, 150, 75]
    assert set(seen[3:]) == {75}
    monkeypatch.setattr(Upscaler, "forward", limited(10))
    with pytest.raises(ResourceError, match="64 x 64 pixels at once"):
        run(store, ref, pictures)


def test_half_precision_where_the_architecture_can(recipe: Make) -> None:
    """SwinIR cannot; a network's whole numbers stay whole."""
    store = LocalModelStore(device_policy("cpu", "float16"))
    for weights, dtype in ((rrdb(), torch.float16), (swin_ir(), torch.float32)):
        with store.lease(recipe(weights)) as loaded:
            kinds = {tensor.dtype for tensor in loaded.module.state_dict().values() if tensor.is_floating_point()}
            assert (loaded.dtype, kinds) == (dtype, {dtype})
        store = LocalModelStore(device_policy("cpu", "float16"))


def test_a_picture_is_left_alone_in_the_middle(store: LocalModelStore, recipe: Make) -> None:
    """A cancelled run ends after a tile."""

    def stop(done: int, total: int) -> None:
        raise Cancelled

    with store.lease(recipe(nearest(2))) as loaded, pytest.raises(Cancelled):
        upscaled(noise(1, 8, 8, 3), loaded, stop, lambda said: None)


def _broken(loaded: LoadedModel, pictures: Tensor) -> str:
    with pytest.raises(InputError) as caught:
        upscaled(pictures, loaded, lambda done, total: None, lambda said: None)
    return str(caught.value)


def test_pictures_that_cannot_be_made_larger(store: LocalModelStore, recipe: Make) -> None:
    weights = compact(4)
    with store.lease(recipe(weights)) as loaded:
        assert "0 x 8 pixels" in _broken(loaded, torch.zeros(1, 8, 0, 3))
        assert "5 channels" in _broken(loaded, torch.zeros(1, 8, 8, 5))
        assert "at most 65536 pixels a side" in _broken(loaded, torch.zeros(1, 1, 20000, 1))
    weights["body.0.weight"] = weights["body.0.weight"] * torch.nan
    with store.lease(recipe(weights).with_settings(other=1)) as loaded:
        pass
    fresh = LocalModelStore(device_policy("cpu"))
    with fresh.lease(recipe(weights)) as loaded:
        assert "gave numbers that are none in float32" in _broken(loaded, torch.ones(1, 4, 4, 3))


def test_pickles_are_refused_and_converted(studio: Studio) -> None:
    """The error says how; the weights come out of what trainers wrap around them."""
    folder = studio.folder / "models" / "upscale_models"
    folder.mkdir(parents=True)
    weights = rrdb()
    torch.save({"params": {"none": torch.zeros(1)}, "params_ema": weights}, folder / "x4.pth")
    load = {"model": Call("UpscaleModelLoader", {"model_name": "x4.pth"})}
    assert f"mezzotint models convert {folder / 'x4.pth'}" in studio.failure(load, "model")
    convert_pickle(folder / "x4.pth")
    picture = {
        "model": Call("UpscaleModelLoader", {"model_name": "x4.safetensors"}),
        "image": Call("EmptyImage", {"width": 24, "height": 16, "batch_size": 1, "color": 0x336699}),
        "large": Call("ImageUpscaleWithModel", {"upscale_model": link("model"), "image": link("image")}),
    }
    (made,) = studio.values(picture, "large")
    (given,) = studio.values(picture, "image")
    assert made.shape == (1, 64, 96, 3)
    assert torch.allclose(made, by_library(weights, given), atol=1e-6)
    assert inspect_model(folder / "x4.safetensors").folder == "upscale_models"


def test_files_that_are_no_upscalers(recipe: Make) -> None:
    """Are refused in words: another kind of model, a torn one, one that nobody knows."""
    torn = {name: tensor for name, tensor in rrdb().items() if name != "body.0.rdb2.conv3.weight"}
    cases = {
        "a LoRA": {"lora_unet_x.lora_up.weight": torch.zeros(2, 2), "lora_unet_x.lora_down.weight": torch.zeros(2, 2)},
        "cannot be built": torn,
        "of no known family": {"strange": torch.zeros(2), "names": torch.zeros(3)},
    }
    for found, weights in cases.items():
        with pytest.raises(ModelFileError, match=found):
            recipe(weights)
