"""A diffusers folder of each family, written by diffusers and transformers, is the same model as the file it was made from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.random_folders import save_folder
from benchmarks.random_models import SMALL
from benchmarks.random_sd15 import write_shapes
from engine.errors import ModelFileError
from engine.models import Digest, ModelRef, Part
from nodes.diffusion.devices import device_policy
from nodes.diffusion.sources import Source
from nodes.diffusion.store import LocalModelStore

PARTS: tuple[Part, ...] = ("unet", "clip", "vae")


@pytest.mark.parametrize("name", ["sd2", "sdxl", "ssd-1b", "sd3-t5", "sd35-medium"])
def test_a_folder_is_the_same_model(tmp_path: Path, name: str) -> None:
    """Configurations and weights of every part are those of the file, and so is the family."""
    file, folder = tmp_path / f"{name}.safetensors", tmp_path / "folder"
    write_shapes(file, SMALL[name].shapes(), "float32")
    store = LocalModelStore(device_policy("cpu"))
    save_folder(folder, file, store)
    assert Source(folder).description.family == Source(file).description.family
    for part in PARTS:
        with (
            store.lease(ModelRef(Digest(file.name), part, str(file))) as expected,
            store.lease(ModelRef(Digest("folder"), part, str(folder))) as found,
        ):
            weights = found.module.state_dict()
            assert weights.keys() == expected.module.state_dict().keys()
            for key, tensor in expected.module.state_dict().items():
                assert torch.equal(weights[key], tensor), key


def test_text_encoders_of_another_family_are_refused(tmp_path: Path) -> None:
    """A folder whose UNet is Stable Diffusion 2's and whose text encoder is narrower."""
    for name, config in {
        "unet": {"_class_name": "UNet2DConditionModel", "block_out_channels": [32, 64], "cross_attention_dim": 128,
                 "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "attention_head_dim": [1, 2]},
        "text_encoder": {"architectures": ["CLIPTextModel"], "hidden_size": 64},
    }.items():  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        write_shapes(tmp_path / name / "model.safetensors", {"a.weight": (2, 2)}, "float32")
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["a", "b"], "text_encoder": ["a", "b"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match="expected a text encoder 128 wide"):
        Source(tmp_path)
