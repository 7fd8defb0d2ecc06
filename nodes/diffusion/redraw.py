"""A large picture painted anew part by part, each part sampled on its own with some of what is around it.

The order and the masks of the parts are those of the Ultimate SD Upscale script: tiles side by side, row by row or as the squares of a
chess board; then, if wanted, what lies across the seams between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from engine.models import Recipe
from nodes.diffusion.resize import resize
from nodes.diffusion.tiles import Box

CELL: Final = 8
Order = Literal["Linear", "Chess", "None"]
SeamFix = Literal["None", "Band Pass", "Half Tile", "Half Tile + Intersections"]
Fade = Literal["full", "rows", "columns", "round"]
"""Where a part counts wholly: everywhere, or along its middle row, its middle column, at its middle, and less towards its edges."""


@dataclass(frozen=True, slots=True)
class Seams:
    """How what lies across the seams of tiles is painted again; see ``Plan``."""

    mode: SeamFix = "None"
    denoise: float = 1.0
    width: int = 64
    mask_blur: int = 8
    padding: int = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """Tiles of ``width`` x ``height`` pixels, each sampled with ``padding`` more, put back through a mask blurred by ``mask_blur`` pixels.

    With ``uniform`` all are sampled at one size, however much of the picture that takes.
    """

    width: int
    height: int
    order: Order = "Linear"
    denoise: float = 0.2
    mask_blur: int = 8
    padding: int = 32
    uniform: bool = True
    seams: Seams = Seams()


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the picture: what is replaced, how much of the picture is sampled, and at how many pixels."""

    box: Box
    fade: Fade
    blur: int
    region: Box
    height: int
    width: int
    denoise: float


def target_size(height: int, width: int, by: float) -> tuple[int, int]:
    """Height and width of a picture ``by`` times as large, in whole latent cells, rounded up."""
    return _up(math.ceil(height * by)), _up(math.ceil(width * by))


def parts(plan: Plan, height: int, width: int) -> list[Part]:
    """All parts of a picture of so many pixels, in their order."""
    rows, columns = -(-height // plan.height), -(-width // plan.width)
    tiles = [(y, x) for y in range(rows) for x in range(columns)]
    if plan.order == "Chess":
        tiles.sort(key=lambda place: (place[0] + place[1]) % 2)
    boxes = [] if plan.order == "None" else [_at(plan, y * plan.height, x * plan.width) for y, x in tiles]
    first = [_part(plan, box, "full", plan.mask_blur, plan.padding, plan.denoise, height, width) for box in boxes]
    seams = plan.seams
    return first + [
        _part(plan, box, fade, 0 if fade == "round" else seams.mask_blur, seams.padding, seams.denoise, height, width)
        for box, fade in _across(plan, rows, columns, height, width)
    ]


def _at(plan: Plan, top: int, left: int) -> Box:
    return Box(top, top + plan.height, left, left + plan.width)


def _across(plan: Plan, rows: int, columns: int, height: int, width: int) -> Iterator[tuple[Box, Fade]]:
    """What lies across the seams of so many tiles."""
    half_high, half_wide, band = plan.height // 2, plan.width // 2, plan.seams.width // 2
    down, right = range(1, rows), range(1, columns)
    if plan.seams.mode == "Band Pass" and band:
        yield from ((Box(0, height, x * plan.width - band, x * plan.width + band), "columns") for x in right)
        yield from ((Box(y * plan.height - band, y * plan.height + band, 0, width), "rows") for y in down)
    elif plan.seams.mode.startswith("Half Tile"):
        for y in down:
            yield from ((_at(plan, y * plan.height - half_high, x * plan.width), "rows") for x in range(columns))
        for y in range(rows):
            yield from ((_at(plan, y * plan.height, x * plan.width - half_wide), "columns") for x in right)
        if plan.seams.mode != "Half Tile":
            for y in down:
                for x in right:
                    yield _at(plan, y * plan.height - half_high, x * plan.width - half_wide), "round"


def _part(plan: Plan, whole: Box, fade: Fade, blur: int, padding: int, denoise: float, height: int, width: int) -> Part:
    box = whole.grown(0, height, width)
    region = box.grown(padding, height, width)
    if not plan.uniform:
        rows, columns = (
            _span(region.top, region.bottom, _up(region.height), height),
            _span(region.left, region.right, _up(region.width), width),
        )
        region = Box(*rows, *columns)
        return Part(box, fade, blur, region, _up(region.height), _up(region.width), denoise)
    high, wide = _up(whole.height + padding), _up(whole.width + padding)
    # as much of the picture as has the proportions of what is sampled
    tall = max(region.height, round(region.width * high / wide))
    broad = max(region.width, round(region.height * wide / high))
    region = Box(*_span(region.top, region.bottom, tall, height), *_span(region.left, region.right, broad, width))
    return Part(box, fade, blur, region, high, wide, denoise)


def _span(start: int, end: int, wanted: int, size: int) -> tuple[int, int]:
    """``wanted`` pixels around those from ``start`` to ``end``, as far as there are so many."""
    wanted = min(wanted, size)
    begin = min(max(0, start - (wanted - (end - start)) // 2), size - wanted)
    return begin, begin + wanted


def _up(size: int) -> int:
    return -(-size // CELL) * CELL


def mask(part: Part, height: int, width: int) -> Tensor:
    """How much of a part counts, pixel by pixel of its region, [h,w] in 0..1; beyond the picture's edges it goes on as at them."""
    box, region = part.box, part.region
    if part.fade == "round":
        across = torch.linspace(-1, 1, box.height)[:, None] ** 2 + torch.linspace(-1, 1, box.width)[None] ** 2
        inside = (1 - across.sqrt()).clamp(0, 1)
        around = region.left, region.top
        found = torch.zeros(region.height, region.width)
        box.beside(Box(around[1], 0, around[0], 0)).of(found).copy_(inside)
        return found
    rows = _profile(box.top, box.bottom, height, part.blur, part.fade == "rows")[region.top : region.bottom]
    columns = _profile(box.left, box.right, width, part.blur, part.fade == "columns")[region.left : region.right]
    return rows[:, None] * columns[None]


def _profile(start: int, end: int, size: int, blur: int, rises: bool) -> Tensor:
    """1 from ``start`` to ``end`` of ``size`` pixels, or rising to 1 in the middle between them; blurred with a Gaussian."""
    line = torch.zeros(size)
    count = end - start
    line[start:end] = 1 - (2 * (torch.arange(count) + 0.5) / count - 1).abs() if rises else 1.0
    if not blur:
        return line
    bell = torch.exp(-0.5 * (torch.arange(-3 * blur, 3 * blur + 1) / blur) ** 2)
    padded = pad(line[None, None], (3 * blur, 3 * blur), mode="replicate")
    return conv1d(padded, (bell / bell.sum())[None, None])[0, 0]


Paint = Callable[[Tensor, Part], Tensor]
"""Paints pictures [B,h,w,3] anew: what is around and in a part."""


def redrawn(pictures: Tensor, plan: Plan, paint: Paint) -> Tensor:
    """Pictures [B,H,W,C], their colours painted anew part by part; further channels stay."""
    result = pictures.clone()
    height, width = pictures.shape[1:3]
    for part in parts(plan, height, width):
        planes = result[..., :3].movedim(-1, 1)
        old = part.region.of(planes)
        seen = _sized(old, part.width, part.height)
        made = paint(seen.movedim(1, -1).contiguous(), part).movedim(-1, 1)
        sized = _sized(made, part.region.width, part.region.height)
        part.region.of(planes).copy_(torch.lerp(old, sized, mask(part, height, width)))
    return result


def _sized(planes: Tensor, width: int, height: int) -> Tensor:
    """[B,C,h,w] at another size; one that has it stays as it is, where Lanczos would take eight bits of it."""
    return planes if planes.shape[-2:] == (height, width) else resize(planes, width, height, "lanczos")


def filled(pictures: Tensor) -> Tensor:
    """Pictures [B,H,W,C] with their last row and column repeated until the sides are whole latent cells."""
    height, width = pictures.shape[1:3]
    more = (0, _up(width) - width, 0, _up(height) - height)
    return pad(pictures.movedim(-1, 1), more, mode="replicate").movedim(1, -1).contiguous() if any(more) else pictures


def conditioning(entries: Any, part: Part, height: int, width: int) -> list[Any]:
    """A CONDITIONING for a picture of so many pixels as it is for a part of it; what lies wholly elsewhere is left out."""
    return [
        [embedding, options]
        for embedding, known in entries
        if (options := _of_part(known, part, height, width)) is not None
    ]


def _of_part(known: Mapping[str, Any], part: Part, height: int, width: int) -> dict[str, Any] | None:
    options = dict(known)
    if "area" in options:
        area = _area(options["area"], part, height, width)
        if area is None:
            return None
        options["area"] = area
    if options.get("mask") is not None:
        options["mask"] = _cut(options["mask"].reshape(-1, 1, *options["mask"].shape[-2:]), part, height, width)[:, 0]
    for name in ("concat_latent_image", "concat_mask", "concat_image"):
        if options.get(name) is not None:
            options[name] = _cut(options[name], part, height, width)
    if "control" in options:
        options["control"] = [_control(item, part, height, width) for item in options["control"]]
    return options


def _area(given: tuple[Any, ...], part: Part, height: int, width: int) -> tuple[int, ...] | None:
    """An area in latent cells of the whole, or in shares of it, in cells of what is sampled of the part."""
    if given[0] == "percentage":
        high, wide, y, x = given[1] * height, given[2] * width, given[3] * height, given[4] * width
    else:
        high, wide, y, x = (side * CELL for side in given)
    region = part.region
    top, bottom = max(y, region.top) - region.top, min(y + high, region.bottom) - region.top
    left, right = max(x, region.left) - region.left, min(x + wide, region.right) - region.left
    down, across = part.height / region.height / CELL, part.width / region.width / CELL
    box = [round(top * down), round(bottom * down), round(left * across), round(right * across)]
    if box[1] <= box[0] or box[3] <= box[2]:
        return None
    return box[1] - box[0], box[3] - box[2], box[0], box[2]


def _cut(cells: Tensor, part: Part, height: int, width: int) -> Tensor:
    """What of ``cells`` [...,h,w], which lie over the whole picture at any size, lies over the part."""
    down, across = cells.shape[-2] / height, cells.shape[-1] / width
    region = part.region
    top, left = int(region.top * down), int(region.left * across)
    bottom, right = max(top + 1, round(region.bottom * down)), max(left + 1, round(region.right * across))
    return cells[..., top:bottom, left:right]


def _control(control: Any, part: Part, height: int, width: int) -> Any:
    """A ControlNet's picture [B,H,W,C], cut to the part."""
    if not isinstance(control, Recipe) or not isinstance(control.parts.get("image"), Tensor):
        return control
    planes = resize(control.parts["image"].movedim(-1, 1), width, height, "nearest-exact", "center")
    changed = {**control.parts, "image": part.region.of(planes).movedim(1, -1)}
    if isinstance(changed.get("mask"), Tensor):
        changed["mask"] = _cut(changed["mask"], part, height, width)
    return Recipe(control.kind, changed)
