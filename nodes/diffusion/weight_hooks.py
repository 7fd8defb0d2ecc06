"""Weight hooks: changes of a model's weights that belong to a prompt, and not to the model.

A hook is a LoRA, or another checkpoint of which the difference to the model is taken, with a strength for the model and one for its text
encoders. Keyframes multiply these in the course of a sampling. Here is what hooks are, how they are joined, and how strong they are when;
``hooked`` puts them on a model. On links they are recipes, in conditioning an option, with text encoders patches of the kind ``hook``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, Literal

from engine.fileref import FileRef
from engine.models import ModelRef, Patch, Recipe
from nodes.diffusion.packed import packed, unpacked

HOOKS: Final = "hooks"
"""The kind of a recipe that holds hooks, and the option of a conditioning entry that is one."""

KEYFRAMES: Final = "hook_keyframes"
"""The kind of a recipe that holds keyframes."""

PATCH: Final = "hook"
"""The kind of the patches by which text encoders carry hooks: they change nothing but prompts that are encoded."""

TEXT_START: Final = "clip_start_percent"
TEXT_END: Final = "clip_end_percent"
"""Options of a conditioning entry: the part of the sampling that its text was encoded for."""

Kind = Literal["lora", "model"]
Interpolation = Literal["linear", "ease_in", "ease_out", "ease_in_out"]


@dataclass(frozen=True, slots=True)
class Keyframe:
    """From ``start`` (0..1 of the sampling) on, strengths are multiplied by ``strength``, for ``guarantee`` steps at least."""

    start: float
    strength: float
    guarantee: int = 1


@dataclass(frozen=True, slots=True)
class WeightHook:
    """A change of weights: the LoRA in ``file``, or the difference that the model in it makes, with strengths for the UNet or
    transformer (``model``) and for text encoders (``clip``)."""

    kind: Kind
    file: FileRef
    model: float
    clip: float = 0.0
    number: int = 0
    """Tells hooks apart that are added one after the other and alike in all else."""
    keyframes: tuple[Keyframe, ...] = ()

    @property
    def bare(self) -> WeightHook:
        """Without keyframes: it is the same hook, whenever it is how strong."""
        return replace(self, keyframes=())

    def patch(self, ref: ModelRef, multiplier: float = 1.0) -> Patch | None:
        """What it does to the weights of ``ref``; None where that is nothing."""
        strength = (self.clip if ref.part == "clip" else self.model) * multiplier
        location = str(self.file.path.resolve())
        if strength == 0:
            return None
        if self.kind == "lora":
            return Patch("lora", self.file.digest, strength, location)
        pristine = replace(ref, patches=(), settings=())
        keep = (("keep", 1.0),)
        learned = self.other(ref).with_patches(Patch("combine", ref.source, -1.0, ref.location, keep, pristine))
        return Patch("combine", self.file.digest, strength, location, keep, learned)

    def other(self, ref: ModelRef) -> ModelRef:
        """The part that ``ref`` is of a model, of the one in ``file``."""
        return ModelRef(self.file.digest, ref.part, str(self.file.path.resolve()))


WeightHooks = tuple[WeightHook, ...]
"""In the order in which they were added."""


def recipe(hooks: Iterable[WeightHook]) -> Recipe:
    """``hooks`` as they travel."""
    return Recipe(HOOKS, {"hooks": [_plain(hook) for hook in hooks]})


def hooks_of(value: Recipe | None) -> WeightHooks:
    """The hooks of a recipe; none of nothing."""
    return () if value is None else tuple(map(_from_plain, value.parts["hooks"]))


def _plain(hook: WeightHook) -> dict[str, Any]:
    frames = [[frame.start, frame.strength, frame.guarantee] for frame in hook.keyframes]
    return {
        "kind": hook.kind,
        "file": hook.file,
        "model": hook.model,
        "clip": hook.clip,
        "number": hook.number,
        "keyframes": frames,
    }


def _from_plain(plain: Mapping[str, Any]) -> WeightHook:
    frames = tuple(Keyframe(*frame) for frame in plain["keyframes"])
    return WeightHook(**{**plain, "keyframes": frames})


def joined(*groups: Iterable[WeightHook]) -> WeightHooks:
    """All hooks of ``groups`` in their order, each once: the first one counts, with its keyframes."""
    found: dict[WeightHook, WeightHook] = {}
    for group in groups:
        for hook in group:
            found.setdefault(hook.bare, hook)
    return tuple(found.values())


def appended(hooks: WeightHooks, hook: WeightHook) -> WeightHooks:
    """``hook`` behind ``hooks``, also where one like it is among them."""
    alike = sum(replace(known.bare, number=0) == hook.bare for known in hooks)
    return (*hooks, replace(hook, number=alike))


def with_keyframes(hooks: Iterable[WeightHook], frames: Iterable[Keyframe]) -> WeightHooks:
    """``hooks`` with these keyframes in place of their own."""
    return tuple(replace(hook, keyframes=tuple(frames)) for hook in hooks)


def keyframes(frames: Iterable[Keyframe]) -> Recipe:
    """``frames`` as they travel, in the order in which they begin."""
    by_start = sorted(frames, key=lambda frame: frame.start)
    return Recipe(KEYFRAMES, {"frames": [[frame.start, frame.strength, frame.guarantee] for frame in by_start]})


def frames_of(value: Recipe | None) -> tuple[Keyframe, ...]:
    """The keyframes of a recipe; none of nothing."""
    return () if value is None else tuple(Keyframe(*frame) for frame in value.parts["frames"])


def spread(strengths: Sequence[float], start: float, end: float) -> list[Keyframe]:
    """``strengths`` as keyframes at even distances from ``start`` to ``end``; the first alone is sure of a step."""
    places = [_between(start, end, share) for share in _shares(len(strengths))]
    return [
        Keyframe(place, strength, int(number == 0))
        for number, (place, strength) in enumerate(zip(places, strengths, strict=True))
    ]


_EASINGS: Final[Mapping[Interpolation, Callable[[float], float]]] = {
    "linear": lambda share: share,
    "ease_in": lambda share: share**2,
    "ease_out": lambda share: 1 - (1 - share) ** 2,
    "ease_in_out": lambda share: (1 - math.cos(math.pi * share)) / 2,
}


def eased(first: float, last: float, count: int, interpolation: Interpolation) -> list[float]:
    """``count`` numbers from ``first`` to ``last``."""
    return [_between(first, last, _EASINGS[interpolation](share)) for share in _shares(count)]


def _shares(count: int) -> list[float]:
    return [number / max(1, count - 1) for number in range(count)]


def _between(first: float, last: float, share: float) -> float:
    return first + (last - first) * share


def multipliers(
    frames: Sequence[Keyframe], levels: Sequence[float], percent_to_sigma: Callable[[float], float]
) -> list[float]:
    """The strength that ``frames`` give to each step of a run; ``levels`` are the noise levels at which the steps begin.

    The first keyframe holds until another begins. One that has begun goes on for its guaranteed steps before a later one follows;
    those that begin before the run does are guaranteed nothing.
    """
    if not frames:
        return [1.0] * len(levels)
    starts = [percent_to_sigma(frame.start) for frame in frames]
    highest = max(levels, default=0.0)
    sure = [0 if start > highest else frame.guarantee for start, frame in zip(starts, frames, strict=True)]
    current, held = 0, 0
    found = []
    for level in levels:
        if held >= sure[current]:
            following = _following(current, starts, sure, level)
            held = held if following == current else 0
            current = following
        held += 1
        found.append(frames[current].strength)
    return found


def _following(current: int, starts: Sequence[float], sure: Sequence[int], level: float) -> int:
    """The keyframe that counts at ``level`` after ``current`` has had its steps: the last that has begun, or the first one before
    that is sure of steps of its own."""
    for later in range(current + 1, len(starts)):
        if starts[later] < level:
            return current
        current = later
        if sure[later] > 0:
            return current
    return current


@dataclass(frozen=True, slots=True)
class Encoding:
    """One way in which prompts are encoded: by ``clip``, and what is added to the options of what comes out."""

    clip: ModelRef
    options: Mapping[str, Any]


def on_clip(clip: ModelRef, hooks: Mapping[WeightHook, bool], *, on_conditioning: bool, scheduled: bool) -> ModelRef:
    """Text encoders that carry ``hooks`` in place of those they had; of each it is said whether its file has anything for them."""
    options = (("on_conditioning", on_conditioning), ("scheduled", scheduled))
    carried = (
        Patch(
            PATCH,
            hook.file.digest,
            hook.clip if changes else 0.0,
            str(hook.file.path.resolve()),
            (("hook", packed(_plain(hook))), *options),
        )
        for hook, changes in hooks.items()
    )
    return replace(clip, patches=(*_without_hooks(clip), *carried))


def _without_hooks(clip: ModelRef) -> tuple[Patch, ...]:
    return tuple(patch for patch in clip.patches if patch.kind != PATCH)


def encodings(clip: ModelRef) -> list[Encoding]:
    """How prompts are encoded by text encoders that may carry hooks: once, or for each part of the sampling with the strengths it has."""
    carried = [patch for patch in clip.patches if patch.kind == PATCH]
    if not carried:
        return [Encoding(clip, {})]
    bare, said = replace(clip, patches=_without_hooks(clip)), dict(carried[0].options)
    hooks = tuple(_from_plain(unpacked(str(dict(patch.options)["hook"]))) for patch in carried)
    effective = [replace(hook, clip=patch.strength) for hook, patch in zip(hooks, carried, strict=True)]
    beside = {HOOKS: recipe(hooks)} if said["on_conditioning"] else {}
    if not said["scheduled"]:
        return [Encoding(_patched(bare, effective, [1.0] * len(hooks)), beside)]
    return [
        Encoding(_patched(bare, effective, strengths), {**beside, TEXT_START: start, TEXT_END: end})
        for start, end, strengths in _parts(hooks)
    ]


def _patched(clip: ModelRef, hooks: Sequence[WeightHook], strengths: Sequence[float]) -> ModelRef:
    found = (hook.patch(clip, strength) for hook, strength in zip(hooks, strengths, strict=True))
    return clip.with_patches(*(patch for patch in found if patch is not None))


def _parts(hooks: WeightHooks) -> list[tuple[float, float, list[float]]]:
    """The parts of a sampling in which no strength changes: start, end (0..1), and the strength of each hook."""
    bounds = sorted({0.0, 1.0, *(frame.start for hook in hooks for frame in hook.keyframes)})
    found: list[tuple[float, float, list[float]]] = []
    for start, end in pairwise(bounds):
        strengths = [_strength_from(hook, start) for hook in hooks]
        if found and found[-1][2] == strengths:
            start = found.pop()[0]
        found.append((start, end, strengths))
    return found


def _strength_from(hook: WeightHook, start: float) -> float:
    """That of the last keyframe that has begun; the strength is not changed before the first one."""
    return next((frame.strength for frame in reversed(hook.keyframes) if frame.start <= start), 1.0)
