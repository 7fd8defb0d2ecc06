"""The exported file has the original layout, all of it, and gives back the weights that went in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from nodes.diffusion.tokenizer import START_TOKEN, VOCABULARY
from training.export import export, read, text_weights, unet_weights, vae_weights
from training.text import make_text_encoder, spread
from training.unet import Unet, make_unet
from training.vae import make_vae

SHIPPED = Path(__file__).parents[2] / "models" / "checkpoints" / "demo.safetensors"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Unet]:
    torch.manual_seed(0)
    unet, path = make_unet(), tmp_path_factory.mktemp("export") / "demo.safetensors"
    export(unet.state_dict(), make_vae().state_dict(), make_text_encoder().state_dict(), path)
    return path, unet


def shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(path, "pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118


def test_keys_and_shapes_are_those_of_the_shipped_file(exported: tuple[Path, Unet]) -> None:
    """A fresh export and the tracked demo weights have the same keys with the same shapes."""
    assert shapes(exported[0]) == shapes(SHIPPED)


def test_the_file_is_small_and_says_what_shapes_do_not_show(exported: tuple[Path, Unet]) -> None:
    """At most 16 MB; heads, groups and scale are in the metadata."""
    assert exported[0].stat().st_size <= 16_000_000
    with safe_open(exported[0], "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["text"])["heads"] == 8
    assert json.loads(metadata["unet"])["num_heads"] == 8
    assert json.loads(metadata["vae"])["scale_factor"] == 0.18215


def test_reading_gives_the_weights_back(exported: tuple[Path, Unet]) -> None:
    """Every weight of the denoiser survives the change of names, but for rounding to float16."""
    unet, _, _ = read(exported[0])
    for key, value in exported[1].state_dict().items():
        torch.testing.assert_close(unet.state_dict()[key], value.half().float(), rtol=0, atol=0)


def test_no_two_weights_get_the_same_key() -> None:
    """The change of names loses nothing."""
    unet, vae, text = make_unet().state_dict(), make_vae().state_dict(), make_text_encoder().state_dict()
    assert len(unet_weights(unet)) == len(unet)
    assert len(vae_weights(vae)) == len(vae)
    assert len(text_weights(text)) == len({key for key in text if "position_ids" not in key}) + 1


def test_unknown_words_share_a_row() -> None:
    """Spreading the small table gives known tokens their rows and every other token the first one."""
    small = {"embeddings.token_embedding.weight": torch.arange(4.0)[:, None].expand(4, 64)}
    table = spread(small, [320, START_TOKEN, START_TOKEN + 1])["embeddings.token_embedding.weight"]
    assert table.shape == (VOCABULARY, 64)
    assert table[:, 0].unique().tolist() == [0.0, 1.0, 2.0, 3.0]
    assert table[[320, START_TOKEN, 0], 0].tolist() == [1.0, 2.0, 0.0]
