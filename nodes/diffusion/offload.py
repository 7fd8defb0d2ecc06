"""Run a network whose weights do not fit on the device: block by block, with accelerate's hooks.

The weights stay where they are, mapped from the file, and each block's are sent to the device when the block is called
and dropped afterwards. Results are those of a resident network, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import nn

STREAMED_BLOCKS: Final = (
    "ResnetBlock2D",
    "Transformer2DModel",
    "CLIPEncoderLayer",
    "JointTransformerBlock",
    "T5Block",
    "SD3SingleTransformerBlock",
    "ResidualAttentionBlock",  # its attention takes the weights of layers that it does not call
)
"""Classes of modules whose weights travel together; what is outside of them travels layer by layer."""


def stream(module: nn.Module, weights: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Let ``module``, without weights of its own, take them from ``weights`` while it runs on ``device``.

    The tensors that the module was stripped to say in which dtype the weights arrive there.
    """
    from accelerate.big_modeling import cpu_offload

    cpu_offload(module, execution_device=device, state_dict=weights, preload_module_classes=list(STREAMED_BLOCKS))


def stop_streaming(module: nn.Module) -> None:
    """Take all hooks of ``stream`` off again; the module is left without weights."""
    from accelerate.hooks import remove_hook_from_submodules

    remove_hook_from_submodules(module)


def largest_block(module: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of the largest set of weights that travels at once when ``module`` is streamed in ``dtype``."""
    return max(_block_sizes(module), default=0) * dtype.itemsize


def _block_sizes(module: nn.Module) -> list[int]:
    if type(module).__name__ in STREAMED_BLOCKS:
        return [sum(parameter.numel() for parameter in module.parameters())]
    own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return [own, *(size for child in module.children() for size in _block_sizes(child))]
