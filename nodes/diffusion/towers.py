"""The text encoders of a model as one network: a module for each, with its projection where it has one. And CLIP's image encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nodes.diffusion.configs import T5Config, TextConfig, Tower, TowersConfig, VisionConfig
from nodes.diffusion.library_arguments import t5_arguments, text_arguments, vision_arguments


class Towers(nn.Module):
    """Text encoders by name; the states of each come from its ``text``."""

    def __init__(self, config: TowersConfig) -> None:
        super().__init__()
        for name, tower in config.towers:
            self.add_module(name, _TextTower(tower))

    def tower(self, name: Tower) -> nn.Module:
        return self.get_submodule(name)


class _TextTower(nn.Module):
    def __init__(self, config: TextConfig | T5Config) -> None:
        super().__init__()
        self.text = _t5(config) if isinstance(config, T5Config) else _clip(config)
        projection = config.projection if isinstance(config, TextConfig) else None
        self.projection = None if projection is None else nn.Linear(config.width, projection, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """The last states [batch, tokens, width] of tokens [batch, tokens]."""
        found: Any = self.text(input_ids=ids)
        states: Tensor = found.last_hidden_state
        return states


class VisionTower(nn.Module):
    """CLIP's image encoder, with its projection where it has one."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.vision = _vision(config)
        wide = config.projection
        self.projection = None if wide is None else nn.Linear(config.width, wide, bias=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The (projected) pooled state [B,P] and the last states [B,T,D] of pictures [B,3,side,side]."""
        found: Any = self.vision(pixel_values=pixels)
        pooled: Tensor = found.pooler_output
        return (pooled if self.projection is None else self.projection(pooled)), found.last_hidden_state


def _vision(config: VisionConfig) -> nn.Module:
    from transformers.models.clip.configuration_clip import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPVisionModel

    model = CLIPVisionModel(CLIPVisionConfig(**vision_arguments(config)))
    inner: nn.Module = getattr(model, "vision_model", model)
    _number(inner, (config.side // config.patch) ** 2 + 1)
    return inner


def _clip(config: TextConfig) -> nn.Module:
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel

    model = CLIPTextModel(CLIPTextConfig(**text_arguments(config)))
    # transformers 4 keeps the layers one level deeper than transformers 5
    inner: nn.Module = getattr(model, "text_model", model)
    _number(inner, config.positions)
    return inner


def _number(module: nn.Module, count: int) -> None:
    """Count the positions, which are in no file."""
    for embeddings in (child for child in module.modules() if "position_ids" in child._buffers):
        positions = torch.arange(count, device="cpu").unsqueeze(0)
        embeddings.register_buffer("position_ids", positions, persistent=False)


def _t5(config: T5Config) -> nn.Module:
    from transformers.models.t5.configuration_t5 import T5Config as LibraryConfig
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    encoder: nn.Module = T5EncoderModel(LibraryConfig(**t5_arguments(config))).encoder
    return encoder
