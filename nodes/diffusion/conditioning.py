"""What the model is told, where in the picture, when, and how strongly.

A CONDITIONING value is a list of ``[embedding [B,T,D], options]``. Before a run its entries are resolved once against
the latent's size and the model's noise levels; what is left to do in a step is to take the active ones, batch those of
equal shape, and average."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.alterations import Altered
from nodes.diffusion.areas import Area, area_of, mask_of, weight_of
from nodes.diffusion.controlled import Control
from nodes.diffusion.schedules import BEYOND_NOISE, ModelSigmas
from nodes.diffusion.weight_hooks import HOOKS, TEXT_END, TEXT_START, WeightHooks, hooks_of

Conditioning = Sequence[Sequence[Any]]
"""Entries ``[embedding, options]``."""


_PICTURE: Final = 4
"""Dimensions of an input that lies over the picture."""


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
    hooks: WeightHooks = ()
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


@dataclass(frozen=True, slots=True)
class Hearing:
    """What text a model listens to: states ``width`` wide; ``model`` names it in messages."""

    model: str
    width: int
    takes_narrower: bool = False
    joint: bool = False
    """Whether text and picture are attended to as one: a text that is repeated then counts more."""

    def check(self, embedding: Tensor, input: str) -> None:
        """Raise InputError for text of another model's encoder."""
        found = embedding.shape[-1]
        if found == self.width or (self.takes_narrower and found < self.width):
            return
        raise InputError(
            f"expected text {self.width} wide for this {self.model} model, found one {found} wide; "
            "encode the prompt with the text encoders that belong to the model",
            input=input,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """How a model reads conditioning: which text it takes, and what an entry's options ask of it."""

    hearing: Hearing | None = None
    inputs_of: InputsOf = no_inputs
    control_of: ControlOf = no_control
    changes_of: ChangesOf = no_changes


def resolve(
    conditioning: Conditioning,
    latent: Tensor,
    schedule: ModelSigmas,
    *,
    reader: Reader | None = None,
    noise_mask: Tensor | None = None,
    is_negative: bool = False,
    seed: int = 0,
) -> tuple[Entry, ...]:
    """The entries of ``conditioning`` for ``latent`` [B,C,h,w], on its device."""
    around, reader = Surroundings(latent, noise_mask, is_negative, seed), reader or Reader()
    return tuple(_resolved(embedding, options, around, schedule, reader) for embedding, options in conditioning)


def _resolved(
    embedding: Tensor,
    options: Mapping[str, Any],
    around: Surroundings,
    schedule: ModelSigmas,
    reader: Reader,
) -> Entry:
    latent = around.latent
    height, width = latent.shape[-2:]
    mask = mask_of(options, height, width, latent.device)
    area = area_of(options, mask, height, width)
    start = max(options.get("start_percent", 0.0), options.get(TEXT_START, 0.0))
    end = min(options.get("end_percent", 1.0), options.get(TEXT_END, 1.0))
    read: Tensor | None = options.get("cross_attn_controlnet")
    return Entry(
        context=embedding.to(latent.device),
        weight=weight_of(options, mask, area, height, width, latent.device),
        area=area,
        # A range that is the whole run holds at every sigma, also at those above the model's highest.
        sigma_start=schedule.percent_to_sigma(start) if start > 0 else BEYOND_NOISE,
        sigma_end=schedule.percent_to_sigma(end) if end < 1 else 0.0,
        inputs={name: value.to(latent.device) for name, value in reader.inputs_of(options, around).items()},
        default=bool(options.get("default", False)),
        hooks=hooks_of(options.get(HOOKS)),
        control=reader.control_of(options, *((height, width) if area is None else (area.height, area.width))),
        control_context=None if read is None else read.to(latent.device),
        shares_control=bool(options.get("control_apply_to_uncond", False)),
    )


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


def for_batch(value: Tensor, count: int) -> Tensor:
    """``value`` [n,...] repeated in turn, or cut, to ``count`` samples."""
    if len(value) == count:
        return value
    repeats = -(-count // len(value))
    return value.repeat(repeats, *[1] * (value.ndim - 1))[:count]
