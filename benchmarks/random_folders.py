"""Diffusers folders of random weights: the checkpoints of ``random_models`` as diffusers and transformers themselves save them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from engine.models import Digest, ModelRef, Part
from nodes.diffusion.configs import FamilyName, Tower, TowersConfig
from nodes.diffusion.sources import Source
from nodes.diffusion.store import LoadedModel, LocalModelStore

_TEXT_FOLDERS: Final[Mapping[Tower, str]] = {
    "l": "text_encoder",
    "h": "text_encoder",
    "g": "text_encoder_2",
    "t5": "text_encoder_3",
}
_CLASSES: Final[Mapping[FamilyName, str]] = {
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "refiner": "StableDiffusionXLImg2ImgPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "upscaler": "StableDiffusionUpscalePipeline",
}
_PARTS: Final[tuple[Part, ...]] = ("unet", "clip", "vae")


def save_folder(folder: Path, file: Path, store: LocalModelStore) -> None:
    """Write the checkpoint ``file`` as a diffusers folder."""
    family = Source(file).description.family.name
    names = ["vae"]
    for part in _PARTS:
        with store.lease(ModelRef(Digest(file.name), part, str(file))) as model:
            if part == "clip":
                assert isinstance(model.config, TowersConfig)
                for name in model.config.names:
                    _save_text(folder, name, model)
                    names.append(_TEXT_FOLDERS[name])
            elif part == "unet":
                _save_network(folder, model)
                names.append("transformer" if family == "sd3" else "unet")
            else:
                module: Any = model.module
                module.save_pretrained(folder / "vae")
    index = {"_class_name": _CLASSES[family]} | {name: ["library", "class"] for name in names}
    (folder / "model_index.json").write_text(json.dumps(index))


def _save_text(folder: Path, name: Tower, model: LoadedModel) -> None:
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
    own.save_pretrained(folder / _TEXT_FOLDERS[name])


def _save_network(folder: Path, model: LoadedModel) -> None:
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
