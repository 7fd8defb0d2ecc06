"""Weights that change from frame to frame of a film, and the pictures between which it fades."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from engine.errors import InputError

_MOST: Final = 100_000

_CURVES: Final[Mapping[str, Callable[[float], float]]] = {
    "linear": lambda part: part,
    "ease_in_out": lambda part: (1 - math.cos(part * math.pi)) / 2,
    "ease_in": lambda part: math.sin(part * math.pi / 2),
    "ease_out": lambda part: 1 - math.cos(part * math.pi / 2),
}


@dataclass(frozen=True, slots=True)
class Strategy:
    """How weights change. ``weights`` are numbers between commas or on lines: all of them with ``custom`` timing, else the first and the
    last of a curve over ``frames``, which moves from ``start_frame`` to ``end_frame``. ``method`` is how pictures follow each other."""

    weights: str
    timing: str
    frames: int = 0
    start_frame: int = 0
    end_frame: int = 9999
    add_starting_frames: int = 0
    add_ending_frames: int = 0
    method: str = "full batch"
    frame_count: int = 0
    """Pictures that it was last used for."""

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)


class Frames(NamedTuple):
    """A weight for each frame, and the pictures that each frame sees, where there are some."""

    weights: list[float]
    first: Tensor | None
    second: Tensor | None


def curve(told: Strategy) -> list[float]:
    """The weights from one picture to the next. Raises InputError for what are no numbers."""
    try:
        given = [float(item) for item in told.weights.replace("\n", ",").split(",") if item.strip()]
    except ValueError as error:
        raise InputError(f"expected numbers between commas, found {told.weights!r}", input="weights") from error
    if told.timing == "custom":
        return given or [0.0]
    frames = max(told.frames, 2)
    start, end = (given[0], given[-1]) if given else (0.0, 1.0)
    stop = min(told.end_frame, frames)
    length = stop - told.start_frame
    if length < 1:
        raise InputError(
            f"expected a start_frame before frame {stop}, where the change ends, found {told.start_frame}",
            input="start_frame",
        )
    draw = random.Random(repr(told))
    between = [
        draw.uniform(start, end)
        if told.timing == "random"
        else start + (end - start) * _CURVES[told.timing](number / max(length - 1, 1))
        for number in range(length)
    ]
    if told.timing != "random":
        between[-1] = end
    return [start] * told.start_frame + between + [end] * (frames - stop)


def frames(told: Strategy, pictures: Tensor | None) -> Frames:
    """The weights of all frames, and the pictures [frames,H,W,C].

    ``full batch`` gives each picture the whole curve; ``shift batches`` fades from each to the next; ``alternate batches`` does it with
    every other curve upside down. Raises InputError for more frames than there can be.
    """
    weights = curve(told)
    if pictures is None:
        return Frames(weights, None, None)
    count = len(weights)
    if len(pictures) * count + told.add_starting_frames + told.add_ending_frames > _MOST:
        raise InputError(
            f"expected at most {_MOST} frames, found {len(pictures)} pictures of {count}; take fewer", input="frames"
        )
    second: Tensor | None
    if told.method == "full batch":
        weights, first, second = weights * len(pictures), pictures, None
    else:
        if len(pictures) < 2:
            raise InputError(f"expected two pictures or more for {told.method}, found {len(pictures)}", input="image")
        weights, first, second = _faded(told.method, weights, pictures)
        second = second.repeat_interleave(count, 0)
    first = first.repeat_interleave(count, 0)
    weights = [weights[0]] * told.add_starting_frames + weights + [weights[-1]] * told.add_ending_frames
    ends = pictures[:1], pictures[-1:]
    return Frames(weights, _extended(first, told, *ends), None if second is None else _extended(second, told, *ends))


def _faded(method: str, weights: list[float], pictures: Tensor) -> tuple[list[float], Tensor, Tensor]:
    """Weights of all frames between pictures, and of each step from a picture to the next the two it is between.

    The weight is that of the second one. With ``alternate batches`` a picture stays where it is for two steps, every other one as the first
    of the two: so every other step goes backwards, and its weights are upside down.
    """
    steps = torch.arange(len(pictures) - 1)
    back = steps % 2 if method == "alternate batches" else torch.zeros_like(steps)
    whole = min(weights) + max(weights)
    upside_down = [whole - weight for weight in weights]
    all_weights = [weight for goes_back in back.tolist() for weight in (upside_down if goes_back else weights)]
    return all_weights, pictures[steps + back], pictures[steps + 1 - back]


def _extended(shown: Tensor, told: Strategy, first: Tensor, last: Tensor) -> Tensor:
    return torch.cat(
        [first.expand(told.add_starting_frames, -1, -1, -1), shown, last.expand(told.add_ending_frames, -1, -1, -1)]
    )


def prompt_schedule(told: Strategy, prompts: Sequence[str]) -> str:
    """Prompts by the frame that each begins at, as lines such as ``"16": "a cat",``; the last is repeated where there are fewer than
    pictures."""
    if not prompts or told.frame_count < 1:
        return ""
    each = len(curve(told))
    lines = [(0, prompts[0])] if told.add_starting_frames else []
    for number in range(told.frame_count):
        lines.append((number * each + told.add_starting_frames, prompts[min(number, len(prompts) - 1)]))
    if told.add_ending_frames:
        lines.append((told.frame_count * each + told.add_starting_frames, lines[-1][1]))
    return "".join(f'"{frame}": "{prompt}",\n' for frame, prompt in lines)


def as_value(*weights: Any) -> Tensor:
    """Weights, single ones and lists, as the value of one FLOAT: float64 [n]."""
    return torch.cat([torch.as_tensor(it, dtype=torch.float64).reshape(-1) for it in weights])
