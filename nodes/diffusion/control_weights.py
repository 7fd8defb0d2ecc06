"""Weights of ControlNets that are told as changes of the model's own encoder: as differences, or as products of factors of low rank.

Both become whole when the patch ``base`` adds the weights of the model. Numbers that such a file gives whole (norms and biases, the
convolutions for the picture) are left as they are where it is in factors. A difference is one for every layer that the model has, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from engine.errors import InputError, ModelFileError
from engine.models import Digest, ModelRef, Patch
from nodes.diffusion.control_configs import ControlConfig
from nodes.diffusion.control_find import DOWN, UP
from nodes.diffusion.convert import Names, Shapes, Stored, same_layer, some

BASE: Final = "base"
"""Kind of the patch: its ``model`` is the one whose encoder the net changes."""

Read = Callable[[Stored], Tensor]
"""Reads a tensor of the file."""


def base_patch(net: ModelRef, model: ModelRef) -> Patch:
    """What makes the weights of ``net`` whole by those of ``model``, a UNet's recipe."""
    # what only says how the model is used is not part of its weights
    weights = ModelRef(model.source, model.part, model.location, model.patches)
    return Patch(BASE, Digest(""), 1.0, net.location, (), weights)


class LowRank(Mapping[str, Tensor]):
    """A control-LoRA's tensors by the names of its network: whole ones, ``up @ down`` of factors, and zeros for what it does not tell."""

    def __init__(self, names: Names, wanted: Shapes, read: Read) -> None:
        self._names = names
        self._wanted = wanted
        self._read = read

    def __getitem__(self, name: str) -> Tensor:
        shape = self._wanted[name]
        if name in self._names:
            return self._read(self._names[name]).reshape(shape)
        layer = name.removesuffix(".weight")
        if layer + UP not in self._names:
            return torch.zeros(()).expand(shape)
        up, down = (self._read(self._names[layer + end]).float().flatten(1) for end in (UP, DOWN))
        return (up @ down).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._wanted)

    def __len__(self) -> int:
        return len(self._wanted)


def check_low_rank(names: Names, stored: Shapes, wanted: Shapes, what: str) -> None:
    """Raise ModelFileError where the tensors ``names`` of a control-LoRA do not fit its network."""
    extra = sorted(it.name for name, it in names.items() if name not in wanted and _whole(name) not in wanted)
    if extra:
        raise ModelFileError(f"expected {len(wanted)} tensors in the {what}, found {len(extra)} more: {some(extra)}")
    own = sorted(name for name in wanted if name.startswith("controlnet_") and name not in names)
    if own:
        raise ModelFileError(f"expected {len(wanted)} tensors in the {what}, found {len(own)} missing: {some(own)}")
    for name, it in names.items():
        shape = stored[it.name]
        if name in wanted and not same_layer(shape, wanted[name]):
            raise ModelFileError(f"expected shape {list(wanted[name])} of {name} in the {what}, found {list(shape)}")
        if name.endswith(UP):
            down = (
                stored.get(names[name.removesuffix(UP) + DOWN].name) if name.removesuffix(UP) + DOWN in names else None
            )
            if not _fits(shape, down, wanted[_whole(name)]):
                raise ModelFileError(
                    f"expected two factors of {_whole(name)} in the {what}, found {list(shape)} and {down}"
                )


def _whole(name: str) -> str:
    return name.removesuffix(UP).removesuffix(DOWN) + ".weight"


def _fits(up: Sequence[int], down: Sequence[int] | None, wanted: Sequence[int]) -> bool:
    if not down or len(up) < 2 or up[1] != down[0]:
        return False
    return same_layer((up[0], *down[1:]), wanted)


def base_steps(
    config: object, told: Names, wanted: Shapes, found: Shapes, model: Mapping[str, Tensor], title: str
) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """For each tensor that is a change: what makes it whole. ``told`` are the file's, ``model`` the tensors of the UNet, of the shapes
    ``found``.

    Raises InputError where the model lacks one of them or has it in another shape.
    """
    assert isinstance(config, ControlConfig)
    changed = [
        name for name in wanted if not name.startswith(_OWN) and (config.form == "difference" or name not in told)
    ]
    wrong = [name for name in changed if name not in found or not same_layer(found[name], wanted[name])]
    if wrong:
        raise InputError(
            f"expected a ControlNet that changes the encoder of the model, found {title} with {len(wrong)} of {len(changed)} "
            f"tensors that the model lacks or has in other shapes: {some(wrong)}; use one made for the model's family",
            input="model",
        )

    def step(name: str) -> Callable[[Tensor], Tensor]:
        return lambda change: change + model[name].to(change.device).float().reshape(change.shape)

    return {name: step(name) for name in changed}


_OWN: Final = ("controlnet_", "task_embedding", "transformer_layes.", "spatial_ch_projs.", "control_add_embedding.")
"""How the names of layers begin that no model has."""
