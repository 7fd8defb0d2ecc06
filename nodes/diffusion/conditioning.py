"""What the model is told, where in the picture, when, and how strongly.

A CONDITIONING value is a list of ``[embedding [B,T,D], options]``. Before a run its entries are resolved once against
the latent's size and the model's noise levels; what is left to do in a step is to take the active ones, batch those of
equal shape, and average."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from engine.errors import InputError
from nodes.diffusion.alterations import Altered
from nodes.diffusion.controlled import Control
from nodes.diffusion.schedules import BEYOND_NOISE, ModelSigmas
from nodes.diffusion.weight_hooks import HOOKS, TEXT_END, TEXT_START, Hooks, hooks_of

Conditioning = Sequence[Sequence[Any]]
"""Entries ``[embedding, options]``."""

MOST_REPEATS: Final = 4
"""How often the tokens of an entry may be repeated to be batched with a longer one."""

_PICTURE: Final = 4
"""Dimensions of an input that lies over the picture."""

FADE: Final = 8
"""Latent cells over which an area fades at its inner edges."""


class Area(NamedTuple):
    """A rectangle of the latent, in cells."""

    height: int
    width: int
    y: int
    x: int

    def of(self, picture: Tensor) -> Tensor:
        """The part of ``picture`` [...,h,w] that it covers."""
        return picture[..., self.y : self.y + self.height, self.x : self.x + self.width]

    def contains(self, other: Area) -> bool:
        below = other.y + other.height <= self.y + self.height and other.x + other.width <= self.x + self.width
        return self.y <= other.y and self.x <= other.x and below

    @property
    def size(self) -> int:
        return self.height * self.width


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One resolved entry.

    ``context`` is [1 or B,T,D]; ``weight`` is [1 or B,1,h,w] over the area, None for 1 everywhere; it holds while
    ``sigma_start >= sigma >= sigma_end``. ``inputs`` are what else the network takes, each [1 or B,...], those of four dimensions over
    the whole picture. A ``default`` entry fills what the others leave uncovered. ``control`` steers the network in calls for the entry;
    its nets read ``control_context`` [1 or B,T,D] if there is one."""

    context: Tensor
    weight: Tensor | None = None
    area: Area | None = None
    sigma_start: float = BEYOND_NOISE
    sigma_end: float = 0.0
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    default: bool = False
    hooks: Hooks = ()
    """What changes the model's weights while it is predicted."""
    control: Control | None = None
    control_context: Tensor | None = None
    shares_control: bool = False
    """Whether the other sides of guidance get the control as well, see ``with_controls``."""
    name: str = ""
    """Tells it from the others of a sampling."""
    changes: tuple[Altered, ...] = ()
    """What changes the network while it predicts this entry."""
    shared: tuple[Altered, ...] = ()
    """More of that, which the other sides of guidance are given, too, so that it leads along the prompt alone."""

    def active(self, sigma: float) -> bool:
        return self.sigma_start >= sigma >= self.sigma_end

    def crop(self, picture: Tensor) -> Tensor:
        return picture if self.area is None else self.area.of(picture)

    def input(self, name: str) -> Tensor:
        """What the network takes by this name for the entry's area."""
        value = self.inputs[name]
        return self.crop(value) if value.ndim == _PICTURE else value


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """What an entry is resolved for: ``latent`` [B,C,h,w] in the model's space, and the mask of an inpainting, if it is one."""

    latent: Tensor
    noise_mask: Tensor | None = None
    is_negative: bool = False
    """Whether it is the side that guidance leads away from."""
    seed: int = 0
    """Of the sampling."""


InputsOf = Callable[[Mapping[str, Any], Surroundings], Mapping[str, Tensor]]
"""Makes a model family's further inputs (SDXL's vector, say) from an entry's options."""


ControlOf = Callable[[Mapping[str, Any], int, int], Control | None]
"""Makes the control that an entry's options ask for, on an area of so many rows and columns of cells."""


def no_control(options: Mapping[str, Any], height: int, width: int) -> None:
    return None


def no_inputs(options: Mapping[str, Any], around: Surroundings) -> Mapping[str, Tensor]:
    return {}


ChangesOf = Callable[[Entry, Mapping[str, Any]], Entry]
"""Gives an entry the changes of the network that its options ask for."""


def no_changes(entry: Entry, options: Mapping[str, Any]) -> Entry:
    return entry


def resolve(
    conditioning: Conditioning,
    latent: Tensor,
    schedule: ModelSigmas,
    *,
    inputs_of: InputsOf = no_inputs,
    control_of: ControlOf = no_control,
    noise_mask: Tensor | None = None,
    is_negative: bool = False,
    seed: int = 0,
) -> tuple[Entry, ...]:
    """The entries of ``conditioning`` for ``latent`` [B,C,h,w], on its device."""
    around = Surroundings(latent, noise_mask, is_negative, seed)
    return tuple(
        _resolved(embedding, options, around, schedule, inputs_of, control_of) for embedding, options in conditioning
    )


def _resolved(
    embedding: Tensor,
    options: Mapping[str, Any],
    around: Surroundings,
    schedule: ModelSigmas,
    inputs_of: InputsOf,
    control_of: ControlOf,
) -> Entry:
    latent = around.latent
    height, width = latent.shape[-2:]
    mask = _mask(options, height, width, latent.device)
    area = _area(options, mask, height, width)
    start = max(options.get("start_percent", 0.0), options.get(TEXT_START, 0.0))
    end = min(options.get("end_percent", 1.0), options.get(TEXT_END, 1.0))
    read: Tensor | None = options.get("cross_attn_controlnet")
    return Entry(
        context=embedding.to(latent.device),
        weight=_weight(options, mask, area, height, width, latent.device),
        area=area,
        # A range that is the whole run holds at every sigma, also at those above the model's highest.
        sigma_start=schedule.percent_to_sigma(start) if start > 0 else BEYOND_NOISE,
        sigma_end=schedule.percent_to_sigma(end) if end < 1 else 0.0,
        inputs={name: value.to(latent.device) for name, value in inputs_of(options, around).items()},
        default=bool(options.get("default", False)),
        hooks=hooks_of(options.get(HOOKS)),
        control=control_of(options, *((height, width) if area is None else (area.height, area.width))),
        control_context=None if read is None else read.to(latent.device),
        shares_control=bool(options.get("control_apply_to_uncond", False)),
    )


def _mask(options: Mapping[str, Any], height: int, width: int, device: torch.device) -> Tensor | None:
    """The entry's mask, [1 or B,h,w], at the latent's size."""
    mask: Tensor | None = options.get("mask")
    if mask is None:
        return None
    mask = mask.to(device, torch.float32)
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.shape[-2:] == (height, width):
        return mask
    return interpolate(mask[:, None], size=(height, width), mode="bilinear")[:, 0]


def _area(options: Mapping[str, Any], mask: Tensor | None, height: int, width: int) -> Area | None:
    if mask is not None and options.get("set_area_to_bounds", False):
        return _fitted(bounds(mask), height, width)
    given = options.get("area")
    if given is None:
        return None
    if given[0] == "percentage":
        h, w, y, x = given[1:]
        given = (max(1, round(h * height)), max(1, round(w * width)), round(y * height), round(x * width))
    elif given[2] >= height or given[3] >= width:
        raise InputError(
            f"expected the area of a prompt to begin inside the picture of {width} x {height} latent cells, "
            f"found one that begins at cell ({given[3]}, {given[2]}); a cell is 8 pixels, move the area or enlarge the picture"
        )
    return _fitted(Area(*given), height, width)


def _fitted(area: Area, height: int, width: int) -> Area:
    """``area`` moved and cut so that it lies in the latent and is not empty."""
    y, x = min(area.y, height - 1), min(area.x, width - 1)
    return Area(min(area.height, height - y), min(area.width, width - x), y, x)


def bounds(mask: Tensor) -> Area:
    """The bounding box of what is not zero in ``mask`` [B,h,w], at least 8 cells wide and high."""
    marked = mask.abs().amax(dim=0) > 0
    rows, columns = marked.any(dim=1).nonzero(), marked.any(dim=0).nonzero()
    if len(rows) == 0:
        return Area(8, 8, 0, 0)
    y, x = int(rows[0]), int(columns[0])
    return Area(max(8, int(rows[-1]) - y + 1), max(8, int(columns[-1]) - x + 1), y, x)


def _weight(
    options: Mapping[str, Any], mask: Tensor | None, area: Area | None, height: int, width: int, device: torch.device
) -> Tensor | None:
    strength = float(options.get("strength", 1.0))
    if mask is not None:
        inside = mask if area is None else area.of(mask)
        return inside[:, None] * (float(options.get("mask_strength", 1.0)) * strength)
    if area is not None:
        return faded(area, height, width).to(device)[None, None] * strength
    return None if strength == 1.0 else torch.full((1, 1, height, width), strength, device=device)


def faded(area: Area, height: int, width: int) -> Tensor:
    """Ones over ``area`` [h,w] that fall linearly over at most 8 cells, or a quarter of it, at edges inside the
    picture."""
    rows = _ramp(area.height, before=area.y != 0, after=area.y + area.height < height)
    columns = _ramp(area.width, before=area.x != 0, after=area.x + area.width < width)
    return rows[:, None] * columns[None, :]


def _ramp(size: int, *, before: bool, after: bool) -> Tensor:
    ramp = torch.ones(size)
    cells = min(FADE, size // 4)
    rise = torch.arange(1, cells + 1) / max(cells, 1)
    if before:
        ramp[:cells] *= rise
    if after:
        ramp[size - cells :] *= rise.flip(0)
    return ramp


def match_areas(side: Sequence[Entry], other: Sequence[Entry]) -> tuple[Entry, ...]:
    """``other`` with an entry added for every area of ``side``: what encloses it most closely, told for that area.

    So that both sides of guidance see the same crops of the picture.
    """
    matched = list(other)
    for entry in side:
        if entry.area is None:
            continue
        enclosing = [e for e in matched if e.area is None or e.area.contains(entry.area)]
        if not enclosing:
            continue
        closest = min(enclosing, key=lambda e: math.inf if e.area is None else e.area.size)
        if closest.area != entry.area:
            context, read = closest.context, closest.control_context
            matched.append(replace(entry, context=context, inputs=closest.inputs, control_context=read))
    return tuple(matched)


def with_controls(side: Sequence[Entry], other: Sequence[Entry]) -> tuple[Entry, ...]:
    """``other`` with the controls that ``side`` shares, each given to the next entry in turn; as it is where it has some of its own.

    Entries with an area neither give nor take.
    """
    shared = [
        entry.control for entry in side if entry.shares_control and entry.control is not None and entry.area is None
    ]
    places = [place for place, entry in enumerate(other) if entry.area is None]
    if not places or any(other[place].control is not None for place in places):
        return tuple(other)
    found = list(other)
    for number, control in enumerate(shared):
        place = places[number % len(places)]
        found[place] = replace(found[place], control=control)
    return tuple(found)


def matched(*sides: Sequence[Entry]) -> tuple[tuple[Entry, ...], ...]:
    """The sides of guidance, each with the areas of the others, and with the controls that the first one shares."""
    found = [tuple(side) for side in sides]
    for one in range(len(found)):
        for other in range(len(found)):
            if one != other:
                found[other] = match_areas(found[one], found[other])
    controlled = (found[0], *(with_controls(found[0], side) for side in found[1:]))
    return (*controlled[:1], *(match_changes(found[0], side) for side in controlled[1:]))


def match_changes(side: Sequence[Entry], other: Sequence[Entry]) -> tuple[Entry, ...]:
    """``other`` with the shared changes of ``side``, entry by entry, where it has none of its own; those of areas are left to
    ``match_areas``."""
    changes = [entry.shared for entry in side if entry.area is None and entry.shared]
    places = [place for place, entry in enumerate(other) if entry.area is None]
    if any(other[place].shared for place in places):
        return tuple(other)
    given = dict(zip(places, changes, strict=False))
    return tuple(replace(it, shared=given[place]) if place in given else it for place, it in enumerate(other))


def at_sigma(entries: Iterable[Entry], sigma: float, latent: Tensor) -> list[Entry]:
    """The entries that hold at ``sigma``. Default entries share what the others leave uncovered, if anything is."""
    active = [entry for entry in entries if entry.active(sigma)]
    default = [entry for entry in active if entry.default]
    if not default:
        return active
    given = [entry for entry in active if not entry.default]
    uncovered = (1 - _coverage(given, latent)).relu()
    return given + (
        [replace(entry, weight=entry.crop(uncovered)) for entry in default] if bool(uncovered.any()) else []
    )


def _coverage(entries: Sequence[Entry], latent: Tensor) -> Tensor:
    covered = latent.new_zeros((len(latent), 1, *latent.shape[-2:]))
    for entry in entries:
        part = entry.crop(covered)
        part += 1 if entry.weight is None else entry.weight
    return covered


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Entries that go through the network in one call: indices into the list they come from, and their token count."""

    members: tuple[int, ...]
    tokens: int


def groups(entries: Sequence[Entry], latent: Tensor, most: int | None = None) -> list[Group]:
    """How to batch ``entries``: those that see crops of one size, have inputs of one shape and one control, and change the network alike
    go together, at most ``most`` at a time; token counts that differ must have a common multiple of at most four times the fewest."""
    found: list[Group] = []
    for index, entry in enumerate(entries):
        for place, group in enumerate(found):
            tokens = math.lcm(group.tokens, entry.context.shape[1])
            fewest = min(entries[i].context.shape[1] for i in (*group.members, index))
            full = most is not None and len(group.members) >= most
            if not full and tokens <= MOST_REPEATS * fewest and _alike(entries[group.members[0]], entry, latent):
                found[place] = Group((*group.members, index), tokens)
                break
        else:
            found.append(Group((index,), entry.context.shape[1]))
    return found


def _alike(a: Entry, b: Entry, latent: Tensor) -> bool:
    def shapes(entry: Entry) -> tuple[Any, ...]:
        inputs = {name: entry.input(name).shape[1:] for name in entry.inputs}
        read = None if entry.control_context is None else entry.control_context.shape[1:]
        return entry.crop(latent).shape, entry.context.shape[2:], inputs, read

    alike = a.control is b.control and (a.shared, a.changes) == (b.shared, b.changes)
    return alike and shapes(a) == shapes(b)


def for_batch(value: Tensor, count: int) -> Tensor:
    """``value`` [n,...] repeated in turn, or cut, to ``count`` samples."""
    if len(value) == count:
        return value
    repeats = -(-count // len(value))
    return value.repeat(repeats, *[1] * (value.ndim - 1))[:count]


def stretched(context: Tensor, tokens: int) -> Tensor:
    """``context`` [B,T,D] with its tokens repeated to ``tokens``; attention does not see the difference."""
    return context if context.shape[1] == tokens else context.repeat(1, tokens // context.shape[1], 1)
