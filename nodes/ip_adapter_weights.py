"""Weights of IP-Adapters that change from frame to frame."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from engine.run.results import Blocked
from engine.spec import Multiline, Output, Range, Socket, node
from nodes import diffusion
from nodes.sockets import Image, Tensor

if TYPE_CHECKING:
    from nodes.diffusion.ip_frames import Strategy

CATEGORY = "ipadapter/weights"

Frame = Annotated[int, Range(0, 9999, step=1)]
Part = Annotated[float, Range(0.0, 1.0, step=0.05)]
WeightsStrategy = Annotated[dict[str, Any], Socket("WEIGHTS_STRATEGY")]

_OUTPUTS: Final = [
    Output("FLOAT", "weights"),
    Output("FLOAT", "weights_invert"),
    Output("INT", "total_frames"),
    Output("IMAGE", "image_1"),
    Output("IMAGE", "image_2"),
    Output("WEIGHTS_STRATEGY", "weights_strategy"),
]


def _outputs(told: Strategy, image: Tensor | None) -> tuple[Any, ...]:
    weights, first, second = diffusion.ip_frames.frames(told, image)
    numbers = diffusion.ip_frames.as_value(weights)
    none = Blocked("IPAdapterWeights was given no pictures that go here")
    used = replace(told, frame_count=0 if image is None else len(image))
    return (
        numbers,
        numbers.flip(0),
        len(weights),
        none if first is None else first,
        none if second is None else second,
        used.to_plain(),
    )


@node("IPAdapterWeights", title="IPAdapter Weights", category=CATEGORY, outputs=_OUTPUTS, version=2)
def ip_adapter_weights(
    *,
    weights: Annotated[str, Multiline()] = "1.0, 0.0",
    timing: Literal["custom", "linear", "ease_in_out", "ease_in", "ease_out", "random"] = "linear",
    frames: Frame = 0,
    start_frame: Frame = 0,
    end_frame: Frame = 9999,
    add_starting_frames: Frame = 0,
    add_ending_frames: Frame = 0,
    method: Literal["full batch", "shift batches", "alternate batches"] = "full batch",
    image: Image | None = None,
) -> tuple[Any, ...]:
    """A weight for each frame, for the batch nodes of IP-Adapters: a curve between the first and the last number, or with custom timing
    the numbers themselves.

    Pictures are repeated frame by frame; with shift and alternate batches the second ones are those that it fades to. What is random
    follows from the inputs.
    """
    strategy = diffusion.ip_frames.Strategy(
        weights, timing, frames, start_frame, end_frame, add_starting_frames, add_ending_frames, method
    )
    return _outputs(strategy, image)


@node(
    "IPAdapterWeightsFromStrategy",
    title="IPAdapter Weights From Strategy",
    category=CATEGORY,
    outputs=_OUTPUTS,
    version=2,
)
def ip_adapter_weights_from_strategy(weights_strategy: WeightsStrategy, image: Image | None = None) -> tuple[Any, ...]:
    """The weights of another IPAdapterWeights, for other pictures."""
    return _outputs(diffusion.ip_frames.Strategy(**weights_strategy), image)


@node(
    "IPAdapterPromptScheduleFromWeightsStrategy",
    title="Prompt Schedule From Weights Strategy",
    category=CATEGORY,
    outputs=[Output("STRING", "prompt_schedule")],
)
def prompt_schedule_from_weights_strategy(
    weights_strategy: WeightsStrategy, prompt: Annotated[str, Multiline()] = ""
) -> str:
    """Prompts, one a line, by the frames at which the pictures of an IPAdapterWeights begin."""
    lines = [line for line in prompt.split("\n") if line.strip()]
    return diffusion.ip_frames.prompt_schedule(diffusion.ip_frames.Strategy(**weights_strategy), lines)


@node(
    "IPAdapterCombineWeights",
    title="IPAdapter Combine Weights",
    category="ipadapter/utils",
    outputs=[Output("FLOAT", "weights"), Output("INT", "count")],
)
def ip_adapter_combine_weights(weights_1: Part = 0.0, weights_2: Part = 0.0) -> tuple[Tensor, int]:
    """Weights behind each other, and how many they are."""
    both = diffusion.ip_frames.as_value(weights_1, weights_2)
    return both, len(both)
