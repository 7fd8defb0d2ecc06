"""Weight hooks: LoRAs and models that change a prompt's model alone, and how strongly in the course of a sampling.

What hooks are is in ``nodes.diffusion.weight_hooks``, how prompts get them in ``conditioning_pairs``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from engine.errors import InputError
from engine.fileref import FileRef
from engine.models import ModelRef, Recipe
from engine.run.context import NodeContext
from engine.spec import FileChoice, Output, Range, Socket, node
from nodes import diffusion
from nodes.loaders import opened
from nodes.sockets import Clip, HookKeyframes, Hooks
from nodes.widgets import LoraName, Percent

if TYPE_CHECKING:
    from nodes.diffusion.weight_hooks import Keyframe, WeightHook

Strength = Annotated[float, Range(-20.0, 20.0, step=0.01)]
Multiplier = Annotated[float, Range(0.0, 10.0, step=0.001)]
CheckpointName = Annotated[FileRef, FileChoice("checkpoints")]

CREATE: Final = "advanced/hooks/create"
SCHEDULING: Final = "advanced/hooks/scheduling"
COMBINE: Final = "advanced/hooks/combine"

_HOOKS: Final = (Output("HOOKS"),)
_KEYFRAMES: Final = (Output("HOOK_KEYFRAMES", "HOOK_KF"),)


def _with_hook(hook: WeightHook, previous: Recipe | None) -> Recipe:
    known = diffusion.weight_hooks.hooks_of(previous)
    if hook.model == 0 and hook.clip == 0:
        return diffusion.weight_hooks.recipe(known)
    return diffusion.weight_hooks.recipe(diffusion.weight_hooks.appended(known, hook))


def _with_lora(file: FileRef, model: float, clip: float, previous: Recipe | None) -> Recipe:
    """``previous`` and a LoRA, which is opened now, so that a file that is none is said of the node that names it."""
    if model or clip:
        try:
            diffusion.lora.open_lora(str(file.path))
        except InputError as error:
            error.input = "lora_name"
            raise
    return _with_hook(diffusion.weight_hooks.WeightHook("lora", file, model, clip), previous)


def _with_model(file: FileRef, model: float, clip: float, previous: Recipe | None) -> Recipe:
    """``previous`` and the difference that a checkpoint makes."""
    source = opened(file, "unet" if model else None)
    if clip:
        source.part("clip")
    return _with_hook(diffusion.weight_hooks.WeightHook("model", file, model, clip), previous)


@node("CreateHookLora", title="Create Hook LoRA", category=CREATE, outputs=_HOOKS, experimental=True)
def create_hook_lora(
    lora_name: LoraName,
    strength_model: Strength = 1.0,
    strength_clip: Strength = 1.0,
    prev_hooks: Hooks | None = None,
) -> Recipe:
    """A LoRA for some prompts alone, behind the hooks there are; which prompts, Cond Set Props and Set CLIP Hooks say."""
    return _with_lora(lora_name, strength_model, strength_clip, prev_hooks)


@node("CreateHookLoraModelOnly", title="Create Hook LoRA (MO)", category=CREATE, outputs=_HOOKS, experimental=True)
def create_hook_lora_model_only(
    lora_name: LoraName, strength_model: Strength = 1.0, prev_hooks: Hooks | None = None
) -> Recipe:
    """As Create Hook LoRA, whatever the LoRA has for text encoders left out."""
    return _with_lora(lora_name, strength_model, 0.0, prev_hooks)


@node("CreateHookModelAsLora", title="Create Hook Model as LoRA", category=CREATE, outputs=_HOOKS, experimental=True)
def create_hook_model_as_lora(
    ckpt_name: CheckpointName,
    strength_model: Strength = 1.0,
    strength_clip: Strength = 1.0,
    prev_hooks: Hooks | None = None,
) -> Recipe:
    """Another checkpoint for some prompts alone: at strength 1 they are sampled with its weights, at 0.5 half way to them."""
    return _with_model(ckpt_name, strength_model, strength_clip, prev_hooks)


@node(
    "CreateHookModelAsLoraModelOnly",
    title="Create Hook Model as LoRA (MO)",
    category=CREATE,
    outputs=_HOOKS,
    experimental=True,
)
def create_hook_model_as_lora_model_only(
    ckpt_name: CheckpointName, strength_model: Strength = 1.0, prev_hooks: Hooks | None = None
) -> Recipe:
    """As Create Hook Model as LoRA, with the text encoders left alone."""
    return _with_model(ckpt_name, strength_model, 0.0, prev_hooks)


@node("SetHookKeyframes", title="Set Hook Keyframes", category=SCHEDULING, outputs=_HOOKS, experimental=True)
def set_hook_keyframes(hooks: Hooks, hook_kf: HookKeyframes | None = None) -> Recipe:
    """The hooks as strong as the keyframes say, in place of keyframes they have."""
    if hook_kf is None:
        return hooks
    known, frames = diffusion.weight_hooks.hooks_of(hooks), diffusion.weight_hooks.frames_of(hook_kf)
    return diffusion.weight_hooks.recipe(diffusion.weight_hooks.with_keyframes(known, frames))


@node("CreateHookKeyframe", title="Create Hook Keyframe", category=SCHEDULING, outputs=_KEYFRAMES, experimental=True)
def create_hook_keyframe(
    strength_mult: Strength = 1.0, start_percent: Percent = 0.0, prev_hook_kf: HookKeyframes | None = None
) -> Recipe:
    """From this part of the sampling on, hooks are so many times as strong: 0 is pure noise, 1 the finished picture."""
    known = diffusion.weight_hooks.frames_of(prev_hook_kf)
    frame = diffusion.weight_hooks.Keyframe(start_percent, strength_mult)
    return diffusion.weight_hooks.keyframes([*known, frame])


def _spread(
    ctx: NodeContext, previous: Recipe | None, strengths: list[float], start: float, end: float, told: bool
) -> Recipe:
    """``previous`` and keyframes of ``strengths``; the user is told of them."""
    frames: list[Keyframe] = diffusion.weight_hooks.spread(strengths, start, end)
    if told:
        for frame in frames:
            ctx.warn(f"hook keyframe at {frame.start:.3f}: strength {frame.strength:.3f}")
    return diffusion.weight_hooks.keyframes([*diffusion.weight_hooks.frames_of(previous), *frames])


@node(
    "CreateHookKeyframesInterpolated",
    title="Create Hook Keyframes Interp.",
    category=SCHEDULING,
    outputs=_KEYFRAMES,
    experimental=True,
)
def create_hook_keyframes_interpolated(
    ctx: NodeContext,
    *,
    strength_start: Multiplier = 1.0,
    strength_end: Multiplier = 1.0,
    interpolation: Literal["linear", "ease_in", "ease_out", "ease_in_out"],
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
    keyframes_count: Annotated[int, Range(2, 100, step=1)] = 5,
    print_keyframes: bool = False,
    prev_hook_kf: HookKeyframes | None = None,
) -> Recipe:
    """Keyframes at even distances, whose strengths go from one to the other. Printed, they are shown as messages of the node."""
    strengths = diffusion.weight_hooks.eased(strength_start, strength_end, keyframes_count, interpolation)
    return _spread(ctx, prev_hook_kf, strengths, start_percent, end_percent, print_keyframes)


@node(
    "CreateHookKeyframesFromFloats",
    title="Create Hook Keyframes From Floats",
    category=SCHEDULING,
    outputs=_KEYFRAMES,
    experimental=True,
)
def create_hook_keyframes_from_floats(
    ctx: NodeContext,
    *,
    floats_strength: Annotated[Any, Socket("FLOATS")],
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
    print_keyframes: bool = False,
    prev_hook_kf: HookKeyframes | None = None,
) -> Recipe:
    """A keyframe for each of the strengths, at even distances. Printed, they are shown as messages of the node."""
    given = floats_strength if isinstance(floats_strength, Iterable) else [floats_strength]
    try:
        strengths = [float(strength) for strength in given]
    except (TypeError, ValueError) as error:
        raise InputError(f"expected numbers, found {floats_strength!r}", input="floats_strength") from error
    return _spread(ctx, prev_hook_kf, strengths, start_percent, end_percent, print_keyframes)


def _joined(*groups: Recipe | None) -> Recipe:
    return diffusion.weight_hooks.recipe(diffusion.weight_hooks.joined(*map(diffusion.weight_hooks.hooks_of, groups)))


@node("CombineHooks2", title="Combine Hooks [2]", category=COMBINE, outputs=_HOOKS, experimental=True)
def combine_hooks_2(hooks_A: Hooks | None = None, hooks_B: Hooks | None = None) -> Recipe:
    """All hooks together; one that comes twice counts once, as it is the first time."""
    return _joined(hooks_A, hooks_B)


@node("CombineHooks4", title="Combine Hooks [4]", category=COMBINE, outputs=_HOOKS, experimental=True)
def combine_hooks_4(
    hooks_A: Hooks | None = None,
    hooks_B: Hooks | None = None,
    hooks_C: Hooks | None = None,
    hooks_D: Hooks | None = None,
) -> Recipe:
    """All hooks together; one that comes twice counts once, as it is the first time."""
    return _joined(hooks_A, hooks_B, hooks_C, hooks_D)


@node("CombineHooks8", title="Combine Hooks [8]", category=COMBINE, outputs=_HOOKS, experimental=True)
def combine_hooks_8(
    hooks_A: Hooks | None = None,
    hooks_B: Hooks | None = None,
    hooks_C: Hooks | None = None,
    hooks_D: Hooks | None = None,
    hooks_E: Hooks | None = None,
    hooks_F: Hooks | None = None,
    hooks_G: Hooks | None = None,
    hooks_H: Hooks | None = None,
) -> Recipe:
    """All hooks together; one that comes twice counts once, as it is the first time."""
    return _joined(hooks_A, hooks_B, hooks_C, hooks_D, hooks_E, hooks_F, hooks_G, hooks_H)


@node(
    "SetClipHooks", title="Set CLIP Hooks", category="advanced/hooks/clip", outputs=[Output("CLIP")], experimental=True
)
def set_clip_hooks(
    clip: Clip, apply_to_conds: bool = True, schedule_clip: bool = False, hooks: Hooks | None = None
) -> ModelRef:
    """Prompts encoded under hooks, which they carry on to the model if they are to.

    Without a schedule the text encoder has its hooks at full strength; with one, prompts are encoded anew for each part of the sampling.
    """
    known = diffusion.weight_hooks.hooks_of(hooks)
    if not known:
        return clip
    changing = {hook: diffusion.hooked.changes_texts(hook, clip) for hook in known}
    return diffusion.weight_hooks.on_clip(clip, changing, on_conditioning=apply_to_conds, scheduled=schedule_clip)
