"""The text encoders of a model as one network: a module for each, with its projection where it has one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nodes.diffusion.configs import T5Config, TextConfig, Tower, TowersConfig, t5_arguments, text_arguments


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


def _clip(config: TextConfig) -> nn.Module:
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel

    model = CLIPTextModel(CLIPTextConfig(**text_arguments(config)))
    # transformers 4 keeps the layers one level deeper than transformers 5
    inner: nn.Module = getattr(model, "text_model", model)
    for embeddings in (child for child in inner.modules() if "position_ids" in child._buffers):
        positions = torch.arange(config.positions, device="cpu").unsqueeze(0)
        embeddings.register_buffer("position_ids", positions, persistent=False)
    return inner


def _t5(config: T5Config) -> nn.Module:
    from transformers.models.t5.configuration_t5 import T5Config as LibraryConfig
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    encoder: nn.Module = T5EncoderModel(LibraryConfig(**t5_arguments(config))).encoder
    return encoder
