"""A LoRA file: what it changes, which model it was made for, and what of it goes into a model at hand.

Only the header is read here, with checks of its own; the factors stay mapped until a weight is made. What a file's module matches is
decided by name and shape, so that a LoRA for a larger model does not go half into a smaller one without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from engine.errors import InputError, MissingFile, ModelFileError
from engine.models import ModelRef, Part
from nodes.diffusion.checkpoints import Tensors, WeightFile
from nodes.diffusion.configs import PartConfig, UNetConfig
from nodes.diffusion.convert import Shapes
from nodes.diffusion.embeddings import BUNDLE, bundled
from nodes.diffusion.instead import what_it_is
from nodes.diffusion.lora_family import BY_WIDTH, context_width, family_of, marked_family
from nodes.diffusion.lora_forms import BIAS_FORMS, WEIGHT_FORMS, Factors, Form, attempt
from nodes.diffusion.lora_keys import Group, fused_spellings, grouped, is_text, spellings
from nodes.diffusion.parts import PARTS
from nodes.diffusion.sources import open_source

_LISTED: Final = 8


@dataclass(frozen=True, slots=True)
class Change:
    """What one module's keys do to one tensor of the network."""

    form: Form
    keys: Group
    piece: int = 0
    pieces: int = 1
    """The tensor is number ``piece`` of so many equal ones along the outputs of what the file changes."""

    def apply(self, weight: Tensor, factors: Factors, strength: float) -> Tensor:
        """The changed weight, a new tensor."""
        if self.pieces == 1:
            return self.form.apply(weight, factors, strength)
        nothing = weight.new_zeros(len(weight) * self.pieces, *weight.shape[1:])
        return weight + self.form.apply(nothing, factors, strength).chunk(self.pieces)[self.piece]

    def fits(self, weight: Tensor, factors: Factors) -> Tensor | None:
        """What it makes of ``weight``, None where it cannot be done; only sums can be done to a part of a weight."""
        if self.pieces > 1 and ("dora_scale" in self.keys or not self.form.is_sum):
            return None
        return attempt(partial(self.apply, weight, factors, 1.0))


@dataclass(frozen=True, slots=True)
class Match:
    """A file's modules held against a network: changes by the tensor's name, in order, and the modules that found no place."""

    changes: Mapping[str, tuple[Change, ...]]
    matched: frozenset[str]


class LoraFile:
    """The LoRA at ``path``.

    Raises ModelFileError when the file is broken, or is no LoRA: the message says what it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = WeightFile(path)
        self.bundled = bundled(self.file)
        """Names of the textual inversions that came with it: ``embeddings`` reads them."""
        self.groups, self.others = grouped(key for key in self.file if not key.startswith(BUNDLE))
        if not any(list(_forms(group)) for group in self.groups.values()):
            raise ModelFileError(f"expected a LoRA in {path.name}, found {what_it_is(path.name, self.file.header)}")

    @property
    def tensors(self) -> Tensors:
        return self.file.header.tensors

    @property
    def context_width(self) -> int | None:
        """Width of the text that the cross attention reads which the file changes; None when it changes none that tells."""
        return context_width(self.groups, self.tensors)

    @property
    def marked_family(self) -> str | None:
        """The family that names of modules tell, if any do."""
        return marked_family(self.groups)

    @property
    def family(self) -> str | None:
        """The family that the file looks made for, None when nothing tells."""
        return family_of(self.groups, self.tensors, self.file.header.metadata)

    def factors(self, keys: Group, device: torch.device) -> dict[str, Tensor]:
        """The tensors of ``keys`` by role, float32 on ``device``."""
        return {role: self.file[key].to(device).float() for role, key in keys.items()}

    def match(self, config: PartConfig, shapes: Shapes) -> Match:
        """What of the file goes into the network of ``config`` with tensors of ``shapes``."""
        paths = spellings(config, shapes)
        fused = fused_spellings(config, shapes)
        changes: dict[str, tuple[Change, ...]] = {}
        matched: set[str] = set()
        for spelled, group in self.groups.items():
            modules = (paths[spelled],) if spelled in paths else fused.get(spelled, ())
            for name, more in self._changes(group, modules, shapes):
                changes[name] = (*changes.get(name, ()), *more)
                matched.add(spelled)
        return Match(changes, frozenset(matched))

    def _changes(
        self, group: Group, modules: Sequence[str], shapes: Shapes
    ) -> Iterator[tuple[str, tuple[Change, ...]]]:
        """What ``group`` does to the tensors of ``modules``, which are one in the file."""
        for leaf, forms in (("weight", WEIGHT_FORMS), ("bias", BIAS_FORMS)):
            for piece, module in enumerate(modules):
                chosen = tuple(Change(form, keys, piece, len(modules)) for form, keys in _forms(group, forms))
                name = f"{module}.{leaf}"
                if chosen and name in shapes and self._fit(chosen, shapes[name]):
                    yield name, chosen

    def _fit(self, changes: Iterable[Change], shape: tuple[int, ...]) -> bool:
        """Whether ``changes``, one after the other, leave a tensor of ``shape`` in its shape."""
        weight: Tensor | None = torch.empty(shape, device="meta")
        for change in changes:
            if weight is not None:
                weight = change.fits(weight, self._outline(change.keys))
        return weight is not None and tuple(weight.shape) == shape

    def _outline(self, keys: Group) -> dict[str, Tensor]:
        """Tensors of the right shapes without numbers; the one whose numbers are a shape has them."""
        return {
            role: self.file[key] if role == "reshape_weight" else torch.empty(self.tensors[key].shape, device="meta")
            for role, key in keys.items()
        }


def _forms(group: Group, forms: Iterable[Form] = (*WEIGHT_FORMS, *BIAS_FORMS)) -> Iterator[tuple[Form, Group]]:
    """The forms that the roles of ``group`` make up, each with its keys."""
    for form in forms:
        if form.needs <= group.keys():
            yield form, {role: key for role, key in group.items() if role in form.needs | form.may}


def open_lora(location: str) -> LoraFile:
    """The LoRA at ``location``; MissingFile when nothing is there."""
    path = Path(location)
    if not path.exists():
        raise MissingFile(f"expected a LoRA at {path}, found nothing; it was moved or deleted since it was chosen")
    return LoraFile(path)


def check(lora: LoraFile, models: Iterable[ModelRef]) -> list[str]:
    """Hold a LoRA against the recipes it is to go into.

    Returns:
        what to warn of: the modules that go into none of ``models``. Modules of a text encoder are not missed where there is none.

    Raises:
        InputError: the LoRA is made for another family, or nothing of it goes into a model.
    """
    matched: set[str] = set()
    parts: set[Part] = set()
    for ref in models:
        source = open_source(ref.location)
        config = source.part(ref.part).config
        found = lora.match(config, source.shapes(ref.part)).matched
        if ref.part != "clip":
            _check_family(lora, config, found, source.description.family.title)
        matched |= found
        parts.add(ref.part)
    if not matched:
        raise InputError(
            f"expected a LoRA for the {' and '.join(PARTS[part].noun for part in sorted(parts))}, found {_described(lora)}: "
            "none of its modules is in the model; choose a LoRA made for it",
            input="lora_name",
        )
    left = [spelled for spelled in lora.groups if spelled not in matched and ("clip" in parts or not is_text(spelled))]
    return [_left_out(lora, [*left, *lora.others])] if left or lora.others else []


def check_texts(lora: LoraFile, clip: ModelRef) -> bool:
    """Whether anything of a LoRA is for text encoders, a textual inversion say. Raises InputError where it is for others than ``clip``."""
    if not any(map(is_text, lora.groups)):
        return bool(lora.bundled)
    source = open_source(clip.location)
    if not lora.match(source.part("clip").config, source.shapes("clip")).matched:
        raise InputError(
            f"expected a LoRA for the text encoder of {source.description.family.title}, found {_described(lora)}: "
            "none of its modules is in the encoder; choose a LoRA made for this model",
            input="hooks",
        )
    return True


def _check_family(lora: LoraFile, config: PartConfig, found: frozenset[str], title: str) -> None:
    """A few layers of one family may fit another by name and shape; what the cross attention reads tells them apart."""
    reads = config.context_dim if isinstance(config, UNetConfig) else None
    known = BY_WIDTH.get(reads or 0)
    if reads is not None and lora.context_width is not None:
        other = lora.context_width != reads
    else:
        other = known is not None and lora.marked_family not in (None, known)
    if not other and (found or all(map(is_text, lora.groups))):
        return
    raise InputError(
        f"expected a LoRA for {known or title}{f', whose UNet reads texts {reads} wide' if reads else ''}, found {_described(lora)}; "
        "choose one made for this model, or load the model it was made for",
        input="lora_name",
    )


def _described(lora: LoraFile) -> str:
    made_for = f"made for {lora.family}" if lora.family else f"with modules such as {next(iter(lora.groups))}"
    return f"{lora.path.name}, {made_for}"


def _left_out(lora: LoraFile, spelled: list[str]) -> str:
    """One line for all modules that are left out."""
    more = f" and {len(spelled) - _LISTED} more" if len(spelled) > _LISTED else ""
    return (
        f"{len(spelled)} of {len(lora.groups) + len(lora.others)} modules of the LoRA {lora.path.name} fit nothing in the model and are "
        f"left out: {', '.join(sorted(spelled)[:_LISTED])}{more}"
    )
