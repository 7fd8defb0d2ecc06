"""Weight hooks on a leased model: sets of weights that are exchanged between the calls of a step.

A set holds those tensors alone that its hooks change, made as a lease of the patched recipe makes them. The model's own are laid aside
while it computes with a set, and are never written to, so what a hook did cannot stay behind. Sets are kept as long as there is room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from engine.errors import InputError
from engine.models import ModelRef, Patch
from nodes.diffusion import networks
from nodes.diffusion.alterations import Altered, Moment
from nodes.diffusion.conditioning import Conditioning
from nodes.diffusion.devices import free_memory
from nodes.diffusion.lora import check, check_texts, open_lora
from nodes.diffusion.lora_keys import is_text
from nodes.diffusion.patches import Patched, Target, check_merge, steps_of
from nodes.diffusion.schedules import ModelSigmas
from nodes.diffusion.sources import open_source
from nodes.diffusion.weight_hooks import HOOKS, Keyframe, WeightHook, WeightHooks, hooks_of, multipliers

if TYPE_CHECKING:
    from nodes.diffusion.store import LoadedModel

Warn = Callable[[str], None]

_SHARE_OF_MEMORY: Final = 4
"""Sets of a streamed model may take up one part in so many of the main memory that is free."""
_NEAR: Final = 1e-5
"""Relative difference of noise levels that are the same."""


class _Starts(Mapping[str, Tensor]):
    """What patches begin with: the tensor on the device where it is the file's own number for number, else the one in the file."""

    def __init__(self, stored: Mapping[str, Tensor], resident: Mapping[str, Tensor]) -> None:
        self._stored = stored
        self._resident = resident

    def __getitem__(self, name: str) -> Tensor:
        stored, resident = self._stored[name], self._resident.get(name)
        same = resident is not None and torch.promote_types(stored.dtype, resident.dtype) == resident.dtype
        return resident if resident is not None and same else stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


class Hooked:
    """The weights of a leased UNet or transformer under hooks; good for as long as the lease is."""

    def __init__(self, unet: LoadedModel, schedule: ModelSigmas) -> None:
        self._unet = unet
        self._schedule = schedule
        self._sets: OrderedDict[tuple[Patch, ...], dict[str, nn.Parameter]] = OrderedDict()
        self._courses: dict[tuple[Any, ...], list[float]] = {}

    def patches(self, hooks: WeightHooks, sigma: float, levels: tuple[float, ...]) -> tuple[Patch, ...]:
        """What ``hooks`` do at ``sigma``; ``levels`` are the noise levels at which the steps of the run begin, falling."""
        found = (hook.patch(self._unet.ref, self._multiplier(hook.keyframes, sigma, levels)) for hook in hooks)
        return tuple(patch for patch in found if patch is not None)

    def _multiplier(self, frames: tuple[Keyframe, ...], sigma: float, levels: tuple[float, ...]) -> float:
        """That of the step that ``sigma`` is in: a sampler may look at several levels within one."""
        known = levels or (sigma,)
        course = self._courses.get((frames, known))
        if course is None:
            course = self._courses[frames, known] = multipliers(frames, known, self._schedule.percent_to_sigma)
        begun = [step for step, level in enumerate(known) if level >= sigma * (1 - _NEAR)]
        return course[begun[-1] if begun else 0]

    def altered(self, patches: tuple[Patch, ...]) -> Altered:
        """The model with ``patches`` behind those of its recipe."""

        @contextmanager
        def during(moment: Moment) -> Iterator[None]:
            with self._unet.exchanged(self._set(patches)):
                yield

        return during

    def _set(self, patches: tuple[Patch, ...]) -> dict[str, nn.Parameter]:
        if patches not in self._sets:
            steps = steps_of(patches, self._target)
            self._make_room(sum(self._shapes[name].numel() for name in steps) * self._unet.dtype.itemsize)
            self._sets[patches] = self._made(steps)
        self._sets.move_to_end(patches)
        return self._sets[patches]

    def _made(self, changes: Mapping[str, Sequence[Any]]) -> dict[str, nn.Parameter]:
        steps = {name: [*self._before.get(name, ()), *changes[name]] for name in changes}
        weights = Patched(steps, self._starts, self._unet.device)
        place = torch.device("cpu") if self._unet.streamed else self._unet.device
        # outside of inference mode, as a lease makes them
        with torch.inference_mode(False), torch.no_grad():
            made = ((name, weights[name].to(self._unet.dtype).to(place)) for name in weights)
            return {name: nn.Parameter(tensor, requires_grad=False) for name, tensor in made}

    def _make_room(self, needed: int) -> None:
        """The lease was told of one set; others may stay while there is room for the previews and what else comes up."""
        room = (
            free_memory(torch.device("cpu")) // _SHARE_OF_MEMORY - needed
            if self._unet.streamed
            else self._unet.spare // 2
        )
        while self._sets and sum(map(_nbytes, self._sets.values())) > room:
            self._sets.popitem(last=False)

    @cached_property
    def _shapes(self) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in self._unet.module.state_dict().items()}

    @cached_property
    def _target(self) -> Target:
        shapes = networks.wanted_shapes(self._unet.module)
        return Target(self._unet.ref.part, self._unet.config, shapes, self._unet.device)

    @cached_property
    def _before(self) -> Mapping[str, Sequence[Any]]:
        """What the recipe's own patches do."""
        return steps_of(self._unet.ref.patches, self._target)

    @cached_property
    def _starts(self) -> _Starts:
        stored = open_source(self._unet.ref.location).weights(self._unet.ref.part, self._target.shapes)
        own = {} if self._unet.streamed else self._unet.module.state_dict()
        return _Starts(stored, {name: tensor for name, tensor in own.items() if name not in self._before})


def _nbytes(tensors: Mapping[str, nn.Parameter]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def prepare(model: ModelRef, sides: Mapping[str, Conditioning], warn: Warn) -> int:
    """Hold the hooks of a sampling's conditioning, by the names of its inputs, against ``model`` before it is leased.

    Returns:
        how many numbers the largest set of weights has that they make at a time.

    Raises:
        InputError: a LoRA or a model is made for another family, or its file is gone or broken; it names the input.
    """
    known: dict[WeightHook, Mapping[str, int]] = {}
    largest = 0
    for input, side in sides.items():
        for hooks in dict.fromkeys(hooks_of(options.get(HOOKS)) for _, options in side):
            for hook in (hook for hook in hooks if hook.bare not in known):
                try:
                    known[hook.bare] = _changes(hook, model, warn)
                except InputError as error:
                    error.input = input
                    raise
            changed = {name: size for hook in hooks for name, size in known[hook.bare].items()}
            largest = max(largest, sum(changed.values()))
    return largest


def _changes(hook: WeightHook, model: ModelRef, warn: Warn) -> Mapping[str, int]:
    """The tensors of ``model`` that ``hook`` changes, with how many numbers are in each. Raises InputError where it does not fit."""
    if hook.model == 0:
        return {}
    source = open_source(model.location)
    shapes = source.shapes(model.part)
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    if hook.kind == "model":
        for warning in check_merge(model, hook.other(model)):
            warn(warning)
        return sizes
    lora = open_lora(str(hook.file.path))
    if all(map(is_text, lora.groups)):
        return {}
    for warning in check(lora, [model]):
        warn(warning)
    return {name: sizes[name] for name in lora.match(source.part(model.part).config, shapes).changes}


def changes_texts(hook: WeightHook, clip: ModelRef) -> bool:
    """Whether the file of ``hook`` has anything for the text encoders ``clip``. Raises InputError where that does not fit."""
    if hook.clip == 0:
        return False
    if hook.kind == "model":
        check_merge(clip, hook.other(clip))
        return True
    return check_texts(open_lora(str(hook.file.path)), clip)
