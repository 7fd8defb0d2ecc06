"""TAESD in all its layouts, against its networks as their author wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import ModelFileError
from engine.models import Digest, ModelRef
from engine.run.settings import DeviceSettings
from nodes.diffusion import saving, unet
from nodes.diffusion.sources import Source
from nodes.diffusion.store import LocalModelStore, make_store
from nodes.diffusion.vae import decode, decode_tiled, encode, encode_tiled, guessed_scale
from tests.nodes.diffusion.taesd import Taesd, taesd

SD1, XL, SD3 = (0.18215, 0.0), (0.13025, 0.0), (1.5305, 0.0609)


@pytest.fixture(scope="module")
def store() -> LocalModelStore:
    return make_store(DeviceSettings(device="cpu"))


def written(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> ModelRef:
    save_file({name: it.contiguous() for name, it in tensors.items()}, path, metadata)
    return ModelRef(Digest(path.name), "vae", str(path))


def check(store: LocalModelStore, ref: ModelRef, network: Taesd, scaling: tuple[float, float]) -> None:
    """Both ways, on unscaled latents."""
    scale, shift = scaling
    channels = network.half("decoder")["1.weight"].shape[1]
    draw = torch.Generator().manual_seed(1)
    latents = torch.randn(2, channels, 3, 5, generator=draw) / scale + shift
    pictures = torch.rand(2, 16, 24, 3, generator=draw)
    with store.lease(ref) as vae:
        assert vae.facts.downscale == 8
        assert torch.allclose(decode(latents, vae), network.decode((latents - shift) * scale), atol=1e-5)
        assert torch.allclose(encode(pictures, vae), network.encode(pictures) / scale + shift, atol=1e-5)


@pytest.mark.parametrize("layout", ["original", "bare", "diffusers"])
def test_layouts_of_one_file(tmp_path: Path, store: LocalModelStore, layout: str) -> None:
    """The same weights under other names; four channels that nobody says more of are Stable Diffusion 1's."""
    network = taesd()
    ref = written(tmp_path / f"{layout}.safetensors", getattr(network, layout)())
    check(store, ref, network, SD1)
    assert "Stable Diffusion 1" in str(guessed_scale(Source(Path(ref.location))))


def halves(folder: Path, network: Taesd, name: str = "taesd") -> ModelRef:
    for half in ("encoder", "decoder"):
        save_file(network.half(half), folder / f"{name}_{half}.safetensors")
    location = "\n".join(str(folder / f"{name}_{half}.safetensors") for half in ("decoder", "encoder"))
    return ModelRef(Digest(f"{folder.name} {name}"), "vae", location)


@pytest.mark.parametrize(("family", "channels", "scaling"), [("sd1", 4, SD1), ("sdxl", 4, XL), ("sd3", 16, SD3)])
def test_halves_in_files_of_their_own(
    tmp_path: Path, store: LocalModelStore, family: str, channels: int, scaling: tuple[float, float]
) -> None:
    """In any order; the recipe says whose latents they are for."""
    network = taesd(channels)
    check(store, halves(tmp_path, network, family).with_settings(family=family), network, scaling)


def test_a_file_may_say_its_scale(tmp_path: Path, store: LocalModelStore) -> None:
    """In numbers beside the halves, or in the metadata."""
    network = taesd()
    numbers = {"vae_scale": torch.tensor(0.5), "vae_shift": torch.tensor(0.25)}
    metadata = {"vae": json.dumps({"scale_factor": 0.5, "shift": 0.25})}
    for ref in (
        written(tmp_path / "numbers.safetensors", network.original() | numbers),
        written(tmp_path / "metadata.safetensors", network.diffusers(), metadata),
    ):
        check(store, ref, network, (0.5, 0.25))
        assert guessed_scale(Source(Path(ref.location))) is None


def test_a_diffusers_folder_follows_its_family(tmp_path: Path, store: LocalModelStore) -> None:
    """Its own configuration says no scale: latents are as the model sees them there."""
    network = taesd(16)
    (tmp_path / "vae").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps({"vae": ["diffusers", "AutoencoderTiny"]}))
    config = {"_class_name": "AutoencoderTiny", "latent_channels": 16, "scaling_factor": 1.0}
    (tmp_path / "vae" / "config.json").write_text(json.dumps(config))
    written(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", network.diffusers())
    check(store, ModelRef(Digest("folder"), "vae", str(tmp_path)), network, SD3)


def test_tiles_are_the_whole(tmp_path: Path, store: LocalModelStore) -> None:
    """One tile larger than the picture changes nothing, and small ones come close: there are no norms in the networks."""
    network = taesd()
    ref = written(tmp_path / "one.safetensors", network.original())
    draw = torch.Generator().manual_seed(2)
    latents = torch.randn(1, 4, 24, 24, generator=draw) / SD1[0]
    pictures = torch.rand(1, 192, 192, 3, generator=draw)
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    with store.lease(ref) as vae:
        whole, latent = decode(latents, vae), encode(pictures, vae)
        assert torch.equal(decode_tiled(latents, vae, 512, 64, tell), whole)
        assert torch.equal(encode_tiled(pictures, vae, 512, 64, tell), latent)
        assert told == [(1, 1), (1, 1)]
        assert (decode_tiled(latents, vae, 128, 32, tell) - whole).abs().mean() < 0.05 * whole.std()
        assert (encode_tiled(pictures, vae, 128, 32, tell) - latent).abs().mean() < 0.05 * latent.std()


def test_what_is_saved_loads_as_the_same(tmp_path: Path, store: LocalModelStore) -> None:
    """With the scale that the recipe says, alone and beside a UNet."""
    network = taesd()
    ref = halves(tmp_path, network).with_settings(family="sdxl")
    (tmp_path / "saved.safetensors").write_bytes(saving.checkpoint([ref], lambda done, total: None))
    check(store, ModelRef(Digest("saved"), "vae", str(tmp_path / "saved.safetensors")), network, XL)
    demo = Path(__file__).parents[3] / "models" / "checkpoints" / "demo.safetensors"
    both = [ModelRef(Digest("demo"), "unet", str(demo)), ref]
    (tmp_path / "both.safetensors").write_bytes(saving.checkpoint(both, lambda done, total: None))
    check(store, ModelRef(Digest("both"), "vae", str(tmp_path / "both.safetensors")), network, XL)


def test_previews_see_scaled_latents(tmp_path: Path, store: LocalModelStore) -> None:
    """The map to colours that is fitted to it is near what it decodes: for a VAE that is the map itself, exactly."""
    network = taesd()
    ref = written(tmp_path / "one.safetensors", network.original())
    mapping, latent_format = unet._fit(ref, store)
    assert (latent_format.scale, latent_format.shift, latent_format.channels) == (0.18215, 0.0, 4)
    draw = torch.Generator().manual_seed(3)
    seen = torch.randn(1, 4, 1, 1, generator=draw).expand(1, 4, 8, 8)
    with torch.no_grad():
        expected = network.decoder(seen)[0].mean((1, 2))
    found = mapping.picture((seen / SD1[0])[0]).float().mean((0, 1)) / 255
    assert (found - expected.clamp(0, 1)).abs().max() < 0.1


def test_one_half_alone_is_refused(tmp_path: Path) -> None:
    """A file among the VAEs that holds the encoder or the decoder, or two files of which one is something else."""
    network = taesd()
    for half in ("encoder", "decoder"):
        save_file(network.half(half), tmp_path / f"{half}.safetensors")
        with pytest.raises(ModelFileError, match=f"found the {half} of a tiny VAE alone; put it .* models/vae_approx"):
            Source(tmp_path / f"{half}.safetensors")
    with pytest.raises(ModelFileError, match="found the decoder of a tiny VAE alone"):
        Source(tmp_path / "decoder.safetensors", tmp_path / "decoder.safetensors")


def test_missing_layers_are_named(tmp_path: Path, store: LocalModelStore) -> None:
    tensors = taesd().original()
    del tensors["taesd_decoder.5.conv.2.weight"]
    ref = written(tmp_path / "cut.safetensors", tensors)
    with pytest.raises(ModelFileError, match=r"1 missing: decoder\.layers\.4\.conv\.2\.weight"), store.lease(ref):
        pass
