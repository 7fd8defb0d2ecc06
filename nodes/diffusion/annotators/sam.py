"""Segment Anything (Kirillov et al. 2023) and its second version (Ravi et al. 2024): from points and boxes to masks.

A picture is seen once, at the network's own size; each object that is pointed at then costs little.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from engine.errors import InputError
from nodes.diffusion.annotators.frames import Numbers, Pixels
from nodes.diffusion.annotators.segments import MEAN, STD

Choice = Literal["best", "1", "2", "3", "single"]
"""Which of the three masks that an ambiguous prompt may mean: the one that is rated best, one by its number, or the one mask the network
has for prompts that are clear."""

WORKING: Final = 2**31
"""About what the network makes on the way when it sees a picture, in bytes."""
_BATCH: Final = 64
_OFFSET: Final = 1.0
"""How much more or less a mask is asked for, to see whether it is steady."""
_NUMBERS: Final = 2**26
"""Of the masks of one batch of points, before they are sorted out."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """An object: points ``x, y, label`` in pixels, 1 on it and 0 beside it, and a box ``left, top, right, bottom``."""

    points: tuple[tuple[float, float, int], ...] = ()
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture as the network has seen it: its size, how that became the network's, and the states."""

    height: int
    width: int
    to: tuple[int, int]
    side: int
    states: Any


def read_points(text: str | Sequence[Any], label: int, name: str) -> list[tuple[float, float, int]]:
    """Points of JSON: ``[x, y]``, ``[x, y, label]`` or ``{"x": .., "y": .., "label": ..}``, one or a list. Raises InputError.

    Without a label of their own they have ``label``.
    """
    found = _read(text, name)
    entries = [found] if isinstance(found, dict) or (found and not isinstance(found[0], list | tuple | dict)) else found
    points: list[tuple[float, float, int]] = []
    for entry in entries:
        numbers = _of_point(entry, label)
        if len(numbers) != 3 or not all(_is_number(number) for number in numbers) or numbers[2] not in (0, 1):
            raise InputError(
                f"expected points as [x, y] or [x, y, label] with a label of 0 or 1, found {entry!r}", input=name
            )
        points.append((float(numbers[0]), float(numbers[1]), int(numbers[2])))
    return points


def _of_point(entry: Any, label: int) -> list[Any]:
    if isinstance(entry, dict):
        return [entry.get("x"), entry.get("y"), entry.get("label", label)]
    numbers = [*entry] if isinstance(entry, list | tuple) else []
    return [*numbers, label] if len(numbers) == 2 else numbers


def read_boxes(given: str | Sequence[Any], name: str) -> list[tuple[float, float, float, float]]:
    """Boxes ``[left, top, right, bottom]``, one or a list, in lists of any depth. Raises InputError."""
    return list(_boxes(_read(given, name), name))


def _boxes(found: Any, name: str) -> Iterable[tuple[float, float, float, float]]:
    if isinstance(found, list | tuple) and len(found) == 4 and all(_is_number(number) for number in found):
        left, top, right, bottom = map(float, found)
        if right <= left or bottom <= top:
            raise InputError(f"expected boxes as left, top, right, bottom, found {list(found)}", input=name)
        yield left, top, right, bottom
    elif isinstance(found, list | tuple) and all(isinstance(inner, list | tuple) for inner in found):
        for inner in found:
            yield from _boxes(inner, name)
    else:
        raise InputError(f"expected boxes of four numbers, found {found!r}", input=name)


def _read(given: Any, name: str) -> Any:
    if not isinstance(given, str):
        return given.tolist() if hasattr(given, "tolist") else given
    try:
        found = json.loads(given.replace("'", '"')) if given.strip() else []
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON such as [[120, 80], [300, 200]], found: {error}", input=name) from error
    if not isinstance(found, list | dict):
        raise InputError(f"expected a list, found {found!r}", input=name)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def prompts(
    points: Sequence[tuple[float, float, int]], boxes: Sequence[tuple[float, float, float, float]], *, apart: bool
) -> list[Prompt]:
    """The objects that points and boxes mean: all of them one, or with ``apart`` each point on an object, and each box, one of its own.

    Points beside an object belong to all. Several boxes are always several objects, and points another one.
    """
    beside = tuple(point for point in points if point[2] == 0)
    if apart:
        ones = [Prompt((point, *beside)) for point in points if point[2] == 1]
        return [*ones, *(Prompt(beside, box) for box in boxes)]
    if len(boxes) > 1:
        ones = [Prompt(tuple(points))] if len(beside) < len(points) else []
        return [*ones, *(Prompt(beside, box) for box in boxes)]
    return [Prompt(tuple(points), boxes[0] if boxes else None)] if points or boxes else []


def check_inside(objects: Iterable[Prompt], height: int, width: int) -> None:
    """Raise InputError for points beyond the picture and boxes that do not touch it."""
    for each in objects:
        outside = [point for point in each.points if not (0 <= point[0] <= width and 0 <= point[1] <= height)]
        if outside:
            raise InputError(
                f"expected points in the picture, which is {width} x {height} pixels, found {outside[0][:2]}",
                input="points",
            )
        if each.box and (each.box[0] >= width or each.box[1] >= height or each.box[2] <= 0 or each.box[3] <= 0):
            raise InputError(
                f"expected boxes in the picture, {width} x {height} pixels, found {each.box}", input="boxes"
            )


def _is_second(network: Any) -> bool:
    return bool(network.config.model_type != "sam")


def look(network: nn.Module, pixels: Pixels) -> Seen:
    """See a picture: the first version keeps its shape and pads it to a square, the second stretches it to one."""
    net: Any = network
    config = net.config.vision_config
    side = int(getattr(config, "image_size", None) or config.backbone_config.image_size[0])
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    to = (side, side) if _is_second(net) else (max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1))
    picture = torch.from_numpy(np.ascontiguousarray(pixels)).movedim(-1, 0)[None].float()
    levels = interpolate(picture, size=to, mode="bilinear", antialias=True).clamp(0, 255).round()
    mean, std = (torch.tensor(numbers).reshape(3, 1, 1) * 255 for numbers in (MEAN, STD))
    square = torch.zeros(1, 3, side, side)
    square[..., : to[0], : to[1]] = (levels - mean) / std
    with torch.no_grad():
        states = net.get_image_embeddings(square.to(next(network.parameters()).device))
    return Seen(height, width, to, side, states)


def masks(
    network: nn.Module, seen: Seen, each: Prompt, *, several: bool, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Masks of one object as logits [k,H,W] at the picture's size, above 0 on it, and how good they are rated [k].

    ``several`` asks for three masks instead of one; ``mask`` [h,w] is where the object was before.
    """
    net: Any = network
    device = next(network.parameters()).device
    scale = torch.tensor([seen.to[1] / seen.width, seen.to[0] / seen.height])
    given: dict[str, Any] = {}
    if each.points:
        places = torch.tensor([point[:2] for point in each.points], dtype=torch.float32) * scale
        given["input_points"] = places[None, None].to(device)
        given["input_labels"] = torch.tensor([point[2] for point in each.points])[None, None].to(device)
    if each.box is not None:
        given["input_boxes"] = (torch.tensor(each.box) * scale.repeat(2))[None, None].to(device)
    if mask is not None:
        told = net.config.prompt_encoder_config
        size = [4 * told.image_size // told.patch_size] * 2
        given["input_masks"] = interpolate(mask[None, None].float(), size=size, mode="bilinear").to(device)
    with torch.no_grad():
        found = net(image_embeddings=seen.states, multimask_output=several, **given)
    return _full(found.pred_masks[0, :1], seen)[0], found.iou_scores[0, 0].float().cpu()


def _full(low: Tensor, seen: Seen) -> Tensor:
    """Masks [n,k,h,w] as the network says them, at the picture's size."""
    square = low.float()
    if seen.to != (seen.side, seen.side):  # the first version adds to the picture, which is cut off again
        square = interpolate(square, size=(seen.side, seen.side), mode="bilinear")[..., : seen.to[0], : seen.to[1]]
    return interpolate(square, size=(seen.height, seen.width), mode="bilinear").cpu()


def chosen(network: nn.Module, seen: Seen, each: Prompt, choice: Choice, mask: Tensor | None = None) -> Tensor:
    """The mask of one object, [H,W] of 0 and 1."""
    found, scores = masks(network, seen, each, several=choice != "single", mask=mask)
    index = int(scores.argmax()) if choice in ("best", "single") else int(choice) - 1
    return (found[index] > 0).float()


def everything(
    network: nn.Module,
    pixels: Pixels,
    report: Callable[[], None] = lambda: None,
    *,
    points_per_side: int = 32,
    rating: float = 0.88,
    stability: float = 0.95,
    overlap: float = 0.7,
) -> list[Numbers]:
    """Masks [H,W] of all that a grid of points is on, the largest first. ``report`` is called before each batch of points and may raise.

    A mask counts if it is rated above ``rating``, and changes by less than 1 - ``stability`` when it is asked for a little more or less;
    of two that overlap by more than ``overlap`` the better one.
    """
    net: Any = network
    seen, device = look(network, pixels), next(network.parameters()).device
    steps = (torch.arange(points_per_side) + 0.5) / points_per_side
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).reshape(-1, 2)
    grid = grid * torch.tensor([seen.to[1], seen.to[0]], dtype=torch.float32)
    kept, scores = [], []
    for part in grid.split(max(1, min(_BATCH, _NUMBERS // (3 * seen.height * seen.width)))):
        report()
        labels = torch.ones(1, len(part), 1, dtype=torch.long, device=device)
        with torch.no_grad():
            found = net(image_embeddings=seen.states, input_points=part[None, :, None].to(device), input_labels=labels)
        logits, rated = _full(found.pred_masks[0], seen).flatten(0, 1), found.iou_scores[0].float().cpu().flatten()
        wide = (logits > -_OFFSET).flatten(1).sum(1)
        steady = (logits > _OFFSET).flatten(1).sum(1) / wide.clamp_min(1)
        good = (rated > rating) & (steady > stability) & (logits > 0).flatten(1).any(1)
        kept.append(logits[good] > 0)
        scores.append(rated[good])
    return _apart(torch.cat(kept), torch.cat(scores), overlap)


def _apart(found: Tensor, scores: Tensor, overlap: float) -> list[Numbers]:
    """Masks [n,H,W] without those whose box overlaps that of a better one by more than ``overlap``, the largest first."""
    from torchvision.ops import masks_to_boxes, nms

    if not len(found):
        return []
    whole = found[nms(masks_to_boxes(found), scores, overlap)]
    order = whole.flatten(1).sum(1).argsort(descending=True, stable=True)
    return [mask.numpy() for mask in whole[order]]


def painted(found: Sequence[Numbers], height: int, width: int) -> Numbers:
    """Masks, the largest below all others, each in a colour of its own on black."""
    colours = np.random.default_rng(0).integers(32, 256, size=(max(len(found), 1), 3), dtype=np.uint8)
    canvas = np.zeros((height, width, 3), np.uint8)
    for mask, colour in zip(found, colours, strict=False):
        canvas[mask] = colour
    return canvas


def united(found: Sequence[Sequence[Tensor]]) -> Tensor:
    """For each picture what is on any of its objects: [B,H,W]."""
    return torch.stack([torch.stack(list(objects)).amax(0) for objects in found])


def stacked(found: Sequence[Sequence[Tensor]]) -> Tensor:
    """The masks of all objects, picture by picture: [B*n,H,W]."""
    return torch.cat([torch.stack(list(objects)) for objects in found])
