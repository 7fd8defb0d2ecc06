"""Build networks without weights, and give them some.

``build`` makes a network on the meta device: all its layers, no memory. ``torch.device("meta")`` as a context changes the
factory functions of this thread only. (accelerate's ``init_empty_weights`` replaces ``register_parameter`` of all modules of
the process, so that weights which another thread assigns meanwhile are lost.) What is not in any file, CLIP's position
numbers, is made anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nodes.diffusion.beside_configs import GligenConfig, StyleConfig
from nodes.diffusion.configs import (
    DiTConfig,
    PartConfig,
    PhotoMakerConfig,
    PixelConfig,
    TinyVaeConfig,
    TowersConfig,
    UNetConfig,
    VaeConfig,
    VisionConfig,
)
from nodes.diffusion.control_configs import AdapterConfig, AnyControl, TransformerControlConfig
from nodes.diffusion.convert import Shapes
from nodes.diffusion.library_arguments import (
    adapter_arguments,
    control_arguments,
    dit_arguments,
    tiny_arguments,
    transformer_control_arguments,
    unet_arguments,
    vae_arguments,
)


def build(config: PartConfig) -> nn.Module:
    """The network of ``config`` in evaluation mode, its parameters on the meta device in float32."""
    with torch.device("meta"):
        module = _construct(config)
    return module.requires_grad_(False).eval()


def _construct(config: PartConfig) -> nn.Module:
    # imported here, because each of them costs a good part of a second and a run may need only one
    module: nn.Module
    if isinstance(config, UNetConfig):
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        module = UNet2DConditionModel(**unet_arguments(config))
    elif isinstance(config, VaeConfig):
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        module = AutoencoderKL(**vae_arguments(config))
    elif isinstance(config, TinyVaeConfig):
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

        module = AutoencoderTiny(**tiny_arguments(config))
    elif isinstance(config, PixelConfig):
        from nodes.diffusion.pixel_space import PixelSpace

        module = PixelSpace()
    elif isinstance(config, DiTConfig):
        from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

        module = SD3Transformer2DModel(**dit_arguments(config))
    elif isinstance(config, VisionConfig):
        from nodes.diffusion.towers import VisionTower

        module = VisionTower(config)
    elif isinstance(config, PhotoMakerConfig):
        from nodes.diffusion.photomaker import PhotoMaker

        module = PhotoMaker(config)
    elif isinstance(config, GligenConfig):
        from nodes.diffusion.gligen import Gligen

        module = Gligen(config)
    elif isinstance(config, StyleConfig):
        from nodes.diffusion.style_model import StyleModel

        module = StyleModel(config)
    elif isinstance(config, TowersConfig):
        from nodes.diffusion.towers import Towers

        module = Towers(config)
    elif isinstance(config, AnyControl):
        module = _control(config)
    else:
        raise TypeError(f"expected a model that is built by its configuration, found {type(config).__name__}")
    return module


def _control(config: AnyControl) -> nn.Module:
    module: nn.Module
    if isinstance(config, TransformerControlConfig):
        from diffusers.models.controlnets.controlnet_sd3 import SD3ControlNetModel

        module = SD3ControlNetModel(**transformer_control_arguments(config))
    elif isinstance(config, AdapterConfig):
        from diffusers.models.adapter import T2IAdapter

        module = T2IAdapter(**adapter_arguments(config))
    elif config.union_types:
        from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel

        module = ControlNetUnionModel(**control_arguments(config))
    else:
        from diffusers.models.controlnets.controlnet import ControlNetModel

        module = ControlNetModel(**control_arguments(config))
    return module


def wanted_shapes(module: nn.Module) -> Shapes:
    """Name and shape of every tensor that a file must hold for ``module``."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def assign(module: nn.Module, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Put ``tensors`` into ``module`` as they are, without a copy; those not named stay."""
    owners = dict(module.named_modules())
    for name, tensor in tensors:
        path, _, leaf = name.rpartition(".")
        owner = owners[path]
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
        else:
            owner._buffers[leaf] = tensor


@contextmanager
def exchanged(owners: Mapping[str, nn.Module], tensors: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """While open, ``tensors`` are in the places of those that a network has by these names; its own come back as they were.

    ``owners`` are its modules by name.
    """
    own: list[tuple[dict[str, torch.Tensor | None], str, torch.Tensor | None]] = []
    try:
        for name, tensor in tensors.items():
            path, _, leaf = name.rpartition(".")
            owner: Any = owners[path]
            place = owner._parameters if leaf in owner._parameters else owner._buffers
            own.append((place, leaf, place[leaf]))
            place[leaf] = tensor
        yield
    finally:
        for place, leaf, kept in own:
            place[leaf] = kept


def computed_buffers(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The buffers that no file holds."""
    stored = module.state_dict().keys()
    return [(name, buffer) for name, buffer in module.named_buffers() if name not in stored]


def strip(module: nn.Module, dtype: torch.dtype) -> None:
    """Take the weights out of ``module``: meta tensors of ``dtype`` are left, whatever memory they had is free."""
    assign(module, ((name, torch.empty(tensor.shape, dtype=dtype_in(tensor, dtype), device="meta"))
                    for name, tensor in module.state_dict().items()))  # fmt: skip


def dtype_in(tensor: torch.Tensor, dtype: torch.dtype) -> torch.dtype:
    """What ``tensor`` is held in, in a network of ``dtype``: whole numbers stay whole."""
    return dtype if tensor.is_floating_point() else tensor.dtype


def weight_bytes(module: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of all weights of ``module`` in ``dtype``."""
    count: int = sum(tensor.numel() for tensor in module.state_dict().values())
    return count * dtype.itemsize


@dataclass(frozen=True, slots=True)
class Trace:
    """What can be left behind in a module: changed or exchanged tensors, hooks, processors, training mode."""

    marks: tuple[object, ...]


def trace(module: nn.Module, *, tensors: bool) -> Trace:
    """Equal traces before and after say that the module is as it was; its tensors are looked at only if asked for."""
    return Trace((*_module_marks(module), *(_tensor_marks(module) if tensors else ())))


def _tensor_marks(module: nn.Module) -> Iterator[object]:
    for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
        # a storage without memory has no address, and the version of an inference tensor cannot be asked for
        address = 0 if tensor.is_meta else tensor.data_ptr()
        yield name, id(tensor), tensor._version, address, tensor.dtype


def _module_marks(module: nn.Module) -> Iterator[object]:
    for child in module.modules():
        hooks = len(child._forward_hooks), len(child._forward_pre_hooks)
        yield id(child), hooks, child.training, id(vars(child).get("forward")), id(vars(child).get("processor"))
