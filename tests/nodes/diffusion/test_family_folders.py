"""A diffusers folder of each family, written by diffusers and transformers, is the same model as the file it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.random_models import SMALL
from benchmarks.random_sd15 import write_shapes
from engine.errors import ModelFileError
from engine.models import Digest, ModelRef, Part
from nodes.diffusion.configs import TowersConfig
from nodes.diffusion.devices import device_policy
from nodes.diffusion.sources import Source
from nodes.diffusion.store import LoadedModel, LocalModelStore

PARTS: tuple[Part, ...] = ("unet", "clip", "vae")
TEXT_FOLDERS = {"l": "text_encoder", "h": "text_encoder", "g": "text_encoder_2", "t5": "text_encoder_3"}
CLASSES = {"sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline", "sd3": "StableDiffusion3Pipeline"}


def save_text(folder: Path, name: str, model: LoadedModel) -> None:
    """A text encoder as transformers saves it."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

    tower: Any = model.module.get_submodule(name)
    config = tower.text.config
    own: Any
    if name == "t5":
        own = T5EncoderModel(config)
        own.encoder.load_state_dict(tower.text.state_dict())
        own.shared.weight = own.encoder.embed_tokens.weight
    elif tower.projection is not None:
        config.projection_dim = tower.projection.out_features
        own = CLIPTextModelWithProjection(config)
        getattr(own.text_model, "text_model", own.text_model).load_state_dict(tower.text.state_dict())
        own.text_projection.load_state_dict(tower.projection.state_dict())
    else:
        own = CLIPTextModel(config)
        getattr(own, "text_model", own).load_state_dict(tower.text.state_dict())
    own.save_pretrained(folder / TEXT_FOLDERS[name])


def save_network(folder: Path, model: LoadedModel) -> None:
    """A UNet as diffusers has it, which makes SDXL's vector itself."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    module: Any = model.module
    if isinstance(module, UNet2DConditionModel) and module.config["class_embed_type"]:
        config = {key: value for key, value in module.config.items() if not key.startswith("_")}
        config |= {"class_embed_type": None, "addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        renamed = {key.replace("class_embedding", "add_embedding"): it for key, it in module.state_dict().items()}
        module = UNet2DConditionModel(**config)
        module.load_state_dict(renamed)
    module.save_pretrained(folder / ("unet" if isinstance(module, UNet2DConditionModel) else "transformer"))


def save(folder: Path, file: Path, store: LocalModelStore, family: str) -> None:
    names = ["vae"]
    for part in PARTS:
        with store.lease(ModelRef(Digest(file.name), part, str(file))) as model:
            if part == "clip":
                assert isinstance(model.config, TowersConfig)
                for name in model.config.names:
                    save_text(folder, name, model)
                    names.append(TEXT_FOLDERS[name])
            elif part == "unet":
                save_network(folder, model)
                names.append("transformer" if family == "sd3" else "unet")
            else:
                module: Any = model.module
                module.save_pretrained(folder / "vae")
    index = {"_class_name": CLASSES[family]} | {name: ["library", "class"] for name in names}
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("name", "family"),
    [("sd2", "sd2"), ("sdxl", "sdxl"), ("ssd-1b", "sdxl"), ("sd3-t5", "sd3"), ("sd35-medium", "sd3")],
)
def test_a_folder_is_the_same_model(tmp_path: Path, name: str, family: str) -> None:
    """Configurations and weights of every part are those of the file, and so is the family."""
    file, folder = tmp_path / f"{name}.safetensors", tmp_path / "folder"
    write_shapes(file, SMALL[name].shapes(), "float32")
    store = LocalModelStore(device_policy("cpu"))
    save(folder, file, store, family)
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
