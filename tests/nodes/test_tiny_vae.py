"""Tiny VAEs by name: listed where both halves are, loaded for the family of the name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.errors import MissingFile
from engine.fileref import FileRef
from engine.files import open_files
from engine.graph.graph import Call
from engine.run.codecs import decode, encode
from engine.spec import FileChoice
from tests.nodes.diffusion.taesd import taesd
from tests.nodes.studio import Studio, demo_tensors, link


def put(studio: Studio, name: str, channels: int = 4) -> None:
    for half in ("encoder", "decoder"):
        studio.write(f"vae_approx/{name}_{half}.safetensors", taesd(channels).half(half))


def decoded(studio: Studio, name: str) -> Tensor:
    calls = {
        "vae": Call("VAELoader", {"vae_name": name}),
        "latent": Call("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "one": Call("LatentAdd", {"samples1": link("latent"), "samples2": link("latent")}),
        "picture": Call("VAEDecode", {"samples": link("one"), "vae": link("vae")}),
        "again": Call("VAEEncode", {"pixels": link("picture"), "vae": link("vae")}),
    }
    return studio.values(calls, "again")[0]["samples"]  # type: ignore[no-any-return]


def test_a_name_is_listed_when_both_halves_are_there(studio: Studio) -> None:
    """And stands for both: its digest follows each of them, and the name, which says whose latents they are for."""
    for name in ("taesd", "taesdxl"):
        put(studio, name)
    studio.write("vae_approx/taesd3_decoder.safetensors", taesd(16).half("decoder"))
    studio.write("vae/other.safetensors", taesd().original())
    models, state = studio.folder / "models", studio.folder / "state"
    files = open_files(models=[models], input=models, output=models, temp=models, state=state)
    vaes = FileChoice("vae")
    assert list(files.choices(vaes)) == ["other.safetensors", "taesd", "taesdxl", "pixel_space"]
    assert list(files.choices(FileChoice("checkpoints"))) == []
    with pytest.raises(MissingFile, match="taesd3"):
        files.ref(vaes, "taesd3")
    ref = files.ref(vaes, "taesdxl")
    assert [path.name for path in (ref.path, *ref.more)] == [
        f"taesdxl_{it}.safetensors" for it in ("encoder", "decoder")
    ]
    assert ref != files.ref(vaes, "taesd")
    copy: FileRef = decode(encode(ref, {}).tree, lambda index: None)
    assert (copy, copy.more) == (ref, ref.more)
    studio.write("vae_approx/taesdxl_decoder.safetensors", taesd(seed=1).half("decoder"))
    assert files.ref(vaes, "taesdxl") != ref


def test_pictures_and_latents_by_name(studio: Studio) -> None:
    """The latent of the picture of an empty latent, in each family's scale."""
    put(studio, "taesd")
    put(studio, "taesdxl")
    network = taesd()
    seen = network.encode(network.decode(torch.zeros(1, 4, 8, 8)))
    for name, scale in (("taesd", 0.18215), ("taesdxl", 0.13025)):
        assert torch.allclose(decoded(studio, name), seen / scale, atol=1e-4)
    assert studio.warnings == []


def test_a_file_that_says_no_scale_is_warned_of(studio: Studio) -> None:
    network = taesd()
    name = studio.write("vae/tiny.safetensors", network.diffusers())
    seen = network.encode(network.decode(torch.zeros(1, 4, 8, 8)))
    assert torch.allclose(decoded(studio, name), seen / 0.18215, atol=1e-4)
    assert [said.startswith("tiny.safetensors does not say whose latents it is for") for said in studio.warnings] == [
        True
    ]


@pytest.mark.parametrize(
    ("channels", "found"),
    [(16, "found one of 16"), (None, "expected the encoder of a tiny VAE in taesd_encoder.safetensors, found")],
)
def test_other_files_by_that_name_are_refused(studio: Studio, channels: int | None, found: str) -> None:
    if channels is None:
        for half in ("encoder", "decoder"):
            studio.write(f"vae_approx/taesd_{half}.safetensors", demo_tensors())
    else:
        put(studio, "taesd", channels)
    assert found in studio.failure({"vae": Call("VAELoader", {"vae_name": "taesd"})}, "vae")
