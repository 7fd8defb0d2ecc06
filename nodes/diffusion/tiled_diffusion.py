"""A picture larger than the model knows, denoised in windows of a size that it does know, of which every step takes the average.

MultiDiffusion (Bar-Tal et al. 2023, "MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation", eq. 5, all weights 1);
Mixture of Diffusers (Jiménez 2023, "Mixture of Diffusers for scene composition and high resolution image generation"), whose windows weigh
the more the nearer a cell is to their middle; SpotDiffusion (Frolov et al. 2024), whose windows do not overlap and are moved about from
step to step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from engine.errors import InputError
from engine.models import ModelRef
from nodes.diffusion.alterations import seeded
from nodes.diffusion.controlled import View
from nodes.diffusion.listed import options, with_option
from nodes.diffusion.recall import Call
from nodes.diffusion.tiles import Box

Method = Literal["MultiDiffusion", "Mixture of Diffusers", "SpotDiffusion"]

SETTING: Final = "tiled_diffusion"
"""The setting of a recipe that lists its windows; the last ones count."""

_VARIANCE: Final = 0.01
"""Of the bell over a window of width 1."""
_LEAST_STEP: Final = 4
"""Cells by which one window is at least beside the next."""
_PICTURE: Final = 4

Run = Callable[[Tensor, Tensor, Tensor, Mapping[str, Tensor], View | None, Call | None], Tensor]
"""A denoiser of ``x`` [B,C,h,w] at sigma [B] under context [B,T,D] with further inputs [B,...]; the view says of what windows are, the
call what is known of them."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of ``width`` x ``height`` cells that share ``overlap``, ``at_once`` of them in one call of the network."""

    method: Method
    width: int
    height: int
    overlap: int
    at_once: int

    def boxes(self, height: int, width: int) -> list[Box]:
        """The windows over so many cells, all of one size, evenly spread."""
        high, wide = min(self.height, height), min(self.width, width)
        shared = 0 if self.method == "SpotDiffusion" else max(0, min(self.overlap, min(high, wide) - _LEAST_STEP))
        rows, columns = _starts(height, high, shared), _starts(width, wide, shared)
        return [Box(top, top + high, left, left + wide) for top in rows for left in columns]

    def denoised(
        self,
        x: Tensor,
        sigma: Tensor,
        context: Tensor,
        inputs: Mapping[str, Tensor],
        run: Run,
        call: Call | None = None,
    ) -> Tensor:
        """What ``run`` says of ``x`` window by window, averaged. Windows that are moved about know nothing of earlier calls."""
        boxes = self.boxes(*x.shape[-2:])
        if len(boxes) == 1:
            return run(x, sigma, context, inputs, None, call)
        if self.method != "SpotDiffusion":
            return self._averaged(boxes, x, sigma, context, inputs, run, (0, 0), call)
        shift = self._shift(float(sigma[0]))
        moved = {name: _rolled(value, x, shift) for name, value in inputs.items()}
        made = self._averaged(boxes, x.roll(shift, (-2, -1)), sigma, context, moved, run, shift)
        return made.roll((-shift[0], -shift[1]), (-2, -1))

    def _shift(self, sigma: float) -> tuple[int, int]:
        """By how much the windows are moved at this noise level: the same whenever it comes again."""
        generator = seeded(sigma, 0)
        high, wide = (int(torch.randint(0, side, (), generator=generator)) for side in (self.height, self.width))
        return high, wide

    def _averaged(
        self,
        boxes: list[Box],
        x: Tensor,
        sigma: Tensor,
        context: Tensor,
        inputs: Mapping[str, Tensor],
        run: Run,
        shift: tuple[int, int],
        call: Call | None = None,
    ) -> Tensor:
        weight = self._weight(boxes[0]).to(x.device)
        total, weights = torch.zeros_like(x), torch.zeros_like(x[:1, :1])
        for first in range(0, len(boxes), self.at_once):
            group = boxes[first : first + self.at_once]
            count = len(group)
            seen = {name: torch.cat([_part(value, x, box) for box in group]) for name, value in inputs.items()}
            crops = torch.cat([box.of(x) for box in group])
            height, width = x.shape[-2:]
            view = View(height, width, tuple(group), shift)
            own = None if call is None else call.of_pieces(f"windows {first}")
            made = run(crops, sigma.repeat(count), context.repeat(count, 1, 1), seen, view, own)
            if call is not None and own is not None:
                call.keep_pieces(f"windows {first}", own, count)
            for box, part in zip(group, made.split(len(x)), strict=True):
                box.of(total).add_(part * weight)
                box.of(weights).add_(weight)
        return total / weights

    def _weight(self, box: Box) -> Tensor:
        """How much each cell of a window counts, [h,w]."""
        if self.method != "Mixture of Diffusers":
            return torch.ones(box.height, box.width)
        return _bell(box.height)[:, None] * _bell(box.width)


def _bell(size: int) -> Tensor:
    place = (torch.arange(size) - (size - 1) / 2) / size
    return torch.exp(-(place**2) / (2 * _VARIANCE))


def _starts(size: int, window: int, shared: int) -> list[int]:
    count = math.ceil((size - shared) / (window - shared)) if size > window else 1
    return [0] if count < 2 else [(size - window) * number // (count - 1) for number in range(count)]


def _over(value: Tensor, x: Tensor) -> int | None:
    """How many times larger than the sample ``value`` lies over it; None for what is not a picture."""
    if value.ndim != _PICTURE or value.shape[-1] % x.shape[-1] or value.shape[-2] % x.shape[-2]:
        return None
    return value.shape[-1] // x.shape[-1]


def _part(value: Tensor, x: Tensor, box: Box) -> Tensor:
    times = _over(value, x)
    return value if times is None else box.scaled(times, 1).of(value)


def _rolled(value: Tensor, x: Tensor, shift: tuple[int, int]) -> Tensor:
    times = _over(value, x)
    return value if times is None else value.roll((shift[0] * times, shift[1] * times), (-2, -1))


def with_windows(model: ModelRef, method: str, *, width: int, height: int, overlap: int, at_once: int) -> ModelRef:
    """``model`` with windows of so many pixels; they count as whole latent cells."""
    return with_option(model, SETTING, method, width=width, height=height, overlap=overlap, at_once=at_once)


def windows(model: ModelRef, downscale: int) -> Windows | None:
    """The windows of a recipe, for latents of ``downscale`` pixels a cell; None where it has none.

    Raises InputError where they are smaller than a cell.
    """
    listed = options(model, SETTING)
    if not listed:
        return None
    method, values = listed[-1]
    wide, high, shared = (values[name] // downscale for name in ("width", "height", "overlap"))
    if min(wide, high) < _LEAST_STEP:
        raise InputError(
            f"expected tiles of at least {_LEAST_STEP * downscale} pixels a side, found {values['width']} x {values['height']}; "
            "enlarge tile_width and tile_height",
            input="model",
        )
    return Windows(method, wide, high, shared, values["at_once"])  # type: ignore[arg-type]  # one of the node's choices
