"""Patched weights: what the patches of a recipe make of a file's.

Patches are done in the order of the recipe, each to what the ones before have left, in float32; a tensor is made when it is asked
for, from the pristine mapped ones, and nothing of it stays in the file. Kinds of patches:

- ``lora``: a file of small changes (``lora_forms``), ``strength`` times.
- ``merge``: ``r W + (1 - r) W'`` with the weights W' of ``model``; r is the option with the longest name that the tensor's name in
  the original layout starts with, else ``strength``.
- ``combine``: ``keep W + strength W'``.
- ``scale``: W times the first option whose name the tensor's module ends with; a ``*`` in it is anything.
- ``hypernetwork``: no weight; layers before others, which stay with the network (``hypernetworks``).
- ``base``: W is the change that a ControlNet makes to the encoder of ``model``, whose weights are added (``control_weights``).
- ``round``: W as the dtype of the option ``dtype`` can say it.
- ``hook``: nothing; text encoders carry it along (``weight_hooks``).
- ``ip_adapter``: no weight; a picture that is looked at beside the text (``ip_prompts``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial, reduce
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from engine.errors import InputError
from engine.models import ModelRef, Part, Patch
from nodes.diffusion import hypernetworks, networks, weight_hooks
from nodes.diffusion.configs import PartConfig
from nodes.diffusion.control_weights import BASE, base_steps
from nodes.diffusion.convert import Shapes, is_ignorable, same_layer, some
from nodes.diffusion.ip_prompts import KIND as IMAGE_PROMPT
from nodes.diffusion.layouts import original_places
from nodes.diffusion.lora import Change, LoraFile, open_lora
from nodes.diffusion.overlay import Overlaid
from nodes.diffusion.parts import PARTS
from nodes.diffusion.sources import open_source

HYPERNETWORK: Final = "hypernetwork"

Step = Callable[[Tensor], Tensor]
"""Takes the running weight, float32 on the device, and gives the next one as a new tensor."""


@dataclass(frozen=True, slots=True)
class Target:
    """The network that patches are for."""

    part: Part
    config: PartConfig
    shapes: Shapes
    device: torch.device
    found: dict[Any, Any] = field(default_factory=dict)
    """What was found out of the files of patches, whatever their strength: they are looked into once."""


class Patched(Mapping[str, Tensor]):
    """The tensors that steps change, made anew with every access: float32 on ``device``."""

    def __init__(
        self, steps: Mapping[str, Sequence[Step]], pristine: Mapping[str, Tensor], device: torch.device
    ) -> None:
        self._steps = steps
        self._pristine = pristine
        self._device = device

    @torch.no_grad()
    def __getitem__(self, name: str) -> Tensor:
        start = self._pristine[name].to(self._device).float()
        return reduce(lambda weight, step: step(weight), self._steps[name], start)

    def __contains__(self, name: object) -> bool:
        return name in self._steps

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)


def patcher(device: torch.device) -> Callable[[ModelRef, PartConfig, nn.Module, Mapping[str, Tensor]], Patched]:
    """What a store on ``device`` makes patched weights with: its arithmetic is done there, one tensor at a time.

    Raises ModelFileError or MissingFile for a file of a patch that is broken or gone.
    """

    def patch(ref: ModelRef, config: PartConfig, module: nn.Module, pristine: Mapping[str, Tensor]) -> Patched:
        for hyper in (patch for patch in ref.patches if patch.kind == HYPERNETWORK):
            hypernetworks.install(module, hyper.location, hyper.strength)
        return patched(ref, config, networks.wanted_shapes(module), pristine, device)

    return patch


def patched(
    ref: ModelRef, config: PartConfig, shapes: Shapes, pristine: Mapping[str, Tensor], device: torch.device
) -> Patched:
    """The tensors that the patches of ``ref`` change; ``shapes`` are those of its network."""
    return Patched(steps_of(ref.patches, Target(ref.part, config, shapes, device)), pristine, device)


def steps_of(patches: Iterable[Patch], target: Target) -> dict[str, list[Step]]:
    """What ``patches`` do, one after the other, to the tensors that they change."""
    steps: dict[str, list[Step]] = {}
    for patch in patches:
        if patch.kind not in _KINDS:
            raise InputError(f"expected a patch among {', '.join(_KINDS)}, found {patch.kind}")
        for name, step in _KINDS[patch.kind](patch, target).items():
            steps.setdefault(name, []).append(step)
    return steps


@dataclass(frozen=True, slots=True)
class Contents:
    """All tensors of a recipe without a lease: those that no patch changes as the file has them, the others float32."""

    config: PartConfig
    weights: Mapping[str, Tensor]
    pristine: Mapping[str, Tensor]


def contents(ref: ModelRef, device: torch.device | None = None, like: Target | None = None) -> Contents:
    """The tensors of ``ref`` by the names of its network, made when they are asked for, on ``device`` (the CPU) where they are patched.

    ``like`` is a network that may be the same, and then need not be built again.
    """
    source = open_source(ref.location)
    config = source.part(ref.part).config
    known = like is not None and like.config == config
    shapes = like.shapes if like is not None and known else networks.wanted_shapes(networks.build(config))
    pristine = source.weights(ref.part, shapes)
    above = patched(ref, config, shapes, pristine, device or torch.device("cpu"))
    return Contents(config, Overlaid(above, pristine), pristine)


def _lora(patch: Patch, target: Target) -> Mapping[str, Step]:
    key = patch.kind, patch.source
    if key not in target.found:
        lora = open_lora(patch.location)
        target.found[key] = lora, lora.match(target.config, target.shapes).changes
    lora, changes = target.found[key]
    return {name: partial(_change, lora, found, patch.strength) for name, found in changes.items()}


def _change(lora: LoraFile, changes: Sequence[Change], strength: float, weight: Tensor) -> Tensor:
    for change in changes:
        weight = change.apply(weight, lora.factors(change.keys, weight.device), strength)
    return weight


def _merge(patch: Patch, target: Target) -> Mapping[str, Step]:
    places = original_places(target.config, target.shapes)
    ratios = {name: float(value or 0) for name, value in patch.options}

    def ratio(name: str) -> float:
        longest = max((start for start in ratios if places[name].name.startswith(start)), key=len, default=None)
        return patch.strength if longest is None else ratios[longest]

    return _mixed(patch, target, lambda name: (ratio(name), 1 - ratio(name)))


def _combine(patch: Patch, target: Target) -> Mapping[str, Step]:
    keep = float(dict(patch.options).get("keep") or 0)
    return _mixed(patch, target, lambda name: (keep, patch.strength))


def _mixed(patch: Patch, target: Target, factors: Callable[[str], tuple[float, float]]) -> Mapping[str, Step]:
    """The weights of the patch's model beside the running ones, where both have a tensor of one name and shape."""
    assert patch.model is not None
    if patch.model not in target.found:
        target.found[patch.model] = contents(patch.model, target.device, target)
    other: Contents = target.found[patch.model]

    def mix(name: str, weight: Tensor) -> Tensor:
        keep, add = factors(name)
        return keep * weight + add * other.weights[name].to(weight.device).float()

    common = [name for name, tensor in other.pristine.items() if target.shapes.get(name) == tuple(tensor.shape)]
    return {name: partial(mix, name) for name in common if factors(name) != (1.0, 0.0)}


def check_merge(one: ModelRef, other: ModelRef) -> list[str]:
    """What of ``other`` cannot be merged into ``one``, as warnings.

    Raises InputError when most of it cannot: they are no two models of one kind.
    """
    shapes, others = (_bare(open_source(ref.location).shapes(ref.part)) for ref in (one, other))
    left = sorted(name for name, shape in shapes.items() if name not in others or not same_layer(others[name], shape))
    what = f"{PARTS[one.part].noun} of {Path(other.location).name}"
    if 2 * len(left) > len(shapes):
        raise InputError(
            f"expected two models of one kind, found {len(left)} of {len(shapes)} tensors without their like in the {what}; "
            "merge models of one family"
        )
    return (
        [f"the {what} lacks {len(left)} tensors or has them in other shapes, which stay as they are: {some(left)}"]
        if left
        else []
    )


def _bare(shapes: Shapes) -> Shapes:
    """Without what is of no use."""
    return {name: shape for name, shape in shapes.items() if not is_ignorable(name)}


def _scale(patch: Patch, target: Target) -> Mapping[str, Step]:
    def factor(name: str) -> float:
        module = name.rpartition(".")[0]
        return next((float(value or 0) for end, value in patch.options if fnmatchcase(module, f"*{end}")), 1.0)

    factors = {name: factor(name) for name in target.shapes}
    return {name: partial(_times, value) for name, value in factors.items() if value != 1}


def _times(factor: float, weight: Tensor) -> Tensor:
    return factor * weight


def _round(patch: Patch, target: Target) -> Mapping[str, Step]:
    dtype = getattr(torch, str(dict(patch.options)["dtype"]))
    return dict.fromkeys(target.shapes, lambda weight: weight.to(dtype).float())


def _base(patch: Patch, target: Target) -> Mapping[str, Step]:
    assert patch.model is not None
    told = open_source(patch.location).part(target.part).names
    title = Path(patch.location).name
    model = contents(patch.model, target.device)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.pristine.items()}
    return base_steps(target.config, told, target.shapes, shapes, model.weights, title)


_KINDS: Final[Mapping[str, Callable[[Patch, Target], Mapping[str, Step]]]] = {
    "lora": _lora,
    "merge": _merge,
    "combine": _combine,
    "scale": _scale,
    HYPERNETWORK: lambda patch, target: {},
    weight_hooks.PATCH: lambda patch, target: {},
    "round": _round,
    BASE: _base,
    IMAGE_PROMPT: lambda patch, target: {},
}
