"""Hypernetworks: small networks before the keys and values of attention, in the layout of the web UI that made them common.

For each width of what attention reads there are two stacks of linear layers, one for keys and one for values, and each adds to its
input: ``x + strength * stack(x)``. A file names a layer ``<width>.<0 keys, 1 values>.linear.<place>.weight``; activation and the like
are entries of its metadata, in JSON. ``mezzotint models convert`` writes that from the pickles in which they are found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import InputError, MissingFile, ModelFileError
from nodes.diffusion.checkpoints import WeightFile
from nodes.diffusion.configs import PartConfig, UNetConfig
from nodes.diffusion.instead import what_it_is

_ACTIVATIONS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "linear": lambda x: x,
    "relu": functional.relu,
    "leakyrelu": functional.leaky_relu,
    "elu": functional.elu,
    "swish": functional.hardswish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softsign": functional.softsign,
    "mish": functional.mish,
}
"""Names of activations in files; what is called swish there is the hard one."""

_SIDES: Final[Mapping[str, str]] = {"0": "to_k", "1": "to_v"}


class Stack:
    """Linear layers, each perhaps followed by an activation and a layer norm. Dropout, which files mention, is for training.

    Without ``activate_output`` nothing comes behind what is last: a linear layer, or a norm, before which there is an activation all the
    same. So does ComfyUI.
    """

    def __init__(
        self, layers: list[tuple[Tensor, Tensor]], activation: str, norms: bool, activate_output: bool
    ) -> None:
        self._layers = layers
        self._activation = _ACTIVATIONS[activation]
        self._norms = norms
        self._activate_output = activate_output

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` [..., width] to the same shape, in its dtype."""
        step = 2 if self._norms else 1
        last = len(self._layers) - 1
        for place in range(0, len(self._layers), step):
            x = functional.linear(x, *self._beside(x, place))
            if place < last or self._activate_output:
                x = self._activation(x)
            if self._norms:
                x = functional.layer_norm(x, x.shape[-1:], *self._beside(x, place + 1))
        return x

    def _beside(self, x: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """Weight and bias where ``x`` is; they stay there."""
        weight, bias = self._layers[place]
        if (weight.device, weight.dtype) != (x.device, x.dtype):
            self._layers[place] = weight, bias = weight.to(x), bias.to(x)
        return weight, bias


Stacks = Mapping[tuple[int, str], Stack]
"""By width and by the layer they stand before, ``to_k`` or ``to_v``."""


def read(location: str) -> Stacks:
    """The stacks of the hypernetwork at ``location``.

    Raises MissingFile when nothing is there, ModelFileError when the file is broken or no hypernetwork that is known.
    """
    path = Path(location)
    if not path.exists():
        raise MissingFile(
            f"expected a hypernetwork at {path}, found nothing; it was moved or deleted since it was chosen"
        )
    file = WeightFile(path)
    layers: dict[tuple[int, str], dict[int, dict[str, Tensor]]] = {}
    for key in file:
        match key.split("."):
            case [width, side, "linear", place, ("weight" | "bias") as leaf] if (
                width.isdecimal() and side in _SIDES and place.isdecimal()
            ):
                layers.setdefault((int(width), _SIDES[side]), {}).setdefault(int(place), {})[leaf] = file[key]
    if not layers:
        raise ModelFileError(
            f"expected a hypernetwork in {path.name}, with layers such as 768.0.linear.0.weight, found {what_it_is(path.name, file.header)}"
        )
    options = {name: _option(path, name, text) for name, text in file.header.metadata.items() if name in _OPTIONS}
    return {place: _stack(path, place[0], found, options) for place, found in layers.items()}


_OPTIONS: Final = ("activation_func", "is_layer_norm", "activate_output")


def _option(path: Path, name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ModelFileError(f"expected JSON in the metadata entry {name} of {path.name}, found {text!r}") from error


def _stack(path: Path, width: int, found: Mapping[int, Mapping[str, Tensor]], options: Mapping[str, Any]) -> Stack:
    activation = options.get("activation_func") or "linear"
    if activation not in _ACTIVATIONS:
        raise ModelFileError(
            f"expected an activation among {', '.join(_ACTIVATIONS)} in {path.name}, found {activation!r}"
        )
    norms = bool(options.get("is_layer_norm"))
    layers = [(layer.get("weight"), layer.get("bias")) for _, layer in sorted(found.items())]
    whole = [(weight, bias) for weight, bias in layers if weight is not None and bias is not None]
    if len(whole) != len(layers) or not _chains(width, [weight for weight, _ in whole], norms):
        raise ModelFileError(
            f"expected layers from {width} to {width} in {path.name}, each with weight and bias, found "
            f"{[list(weight.shape) for weight, _ in whole]}"
        )
    return Stack(whole, activation, norms, bool(options.get("activate_output")))


def _chains(width: int, weights: list[Tensor], norms: bool) -> bool:
    """Whether each layer reads what the one before gives, and the last gives what the first reads."""
    at = width
    for place, weight in enumerate(weights):
        is_norm = norms and place % 2 == 1
        if weight.ndim != (1 if is_norm else 2) or weight.shape[-1] != at:
            return False
        at = weight.shape[0]
    return at == width and not (norms and len(weights) % 2)


def check(location: str, config: PartConfig) -> None:
    """Raise InputError when no attention of the UNet of ``config`` reads anything of a width that the hypernetwork is for."""
    reads = set()
    if isinstance(config, UNetConfig):
        reads = {config.context_dim, *(config.model_channels * mult for mult in config.channel_mult)}
    widths = {width for width, _ in read(location)}
    if not reads & widths:
        raise InputError(
            f"expected a hypernetwork for a model whose attention reads {sorted(reads)} channels, found one for "
            f"{sorted(widths)} in {Path(location).name}; choose one made for this model"
        )


def install(network: nn.Module, location: str, strength: float) -> None:
    """Put the hypernetwork's stacks before the keys and values of every attention of ``network``, for good."""
    stacks = read(location)
    for name, layer in network.named_modules():
        stack = stacks.get((getattr(layer, "in_features", 0), name.rpartition(".")[2]))
        if stack is not None:
            layer.register_forward_pre_hook(_before(stack, strength))


def _before(stack: Stack, strength: float) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def add(_layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0] + strength * stack(inputs[0]), *inputs[1:])

    return add
