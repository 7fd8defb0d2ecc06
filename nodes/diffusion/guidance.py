"""From entries to one prediction: batching, weighted averages, classifier-free guidance, inpainting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from nodes.diffusion.alterations import Altered, Moment
from nodes.diffusion.batching import Group, groups, stretched
from nodes.diffusion.conditioning import Conditioning, Entry, at_sigma, for_batch, resolve
from nodes.diffusion.controlled import Steered
from nodes.diffusion.denoiser import Denoiser, per_sample
from nodes.diffusion.differential import ChangeMap
from nodes.diffusion.faster_cache import Plan
from nodes.diffusion.perturbations import Look, Notes, Side
from nodes.diffusion.predictions import Prediction
from nodes.diffusion.recall import Call, Recalls, unique
from nodes.diffusion.sides import matched
from nodes.diffusion.steering import Seen, combined, finished, prepared

Memory = Mapping[str, Tensor]
"""What guidance keeps from one evaluation to the next; a run that was cut goes on with it."""

NEGATIVE_SIDES: Final = frozenset({"negative", "second", "empty"})
"""Sides that a model is told of as it is of the negative one."""

_SIDES: Final = "sides"
"""Whose memory is that of all sides together."""

NOTHING: Final[Memory] = MappingProxyType({})


class Guidance(NamedTuple):
    """A guided prediction of the clean latent and, where it was asked for, the unconditional one beside it: zeros without a
    negative side."""

    denoised: Tensor
    unconditional: Tensor
    memory: Memory = NOTHING


class Guider(Protocol):
    """Makes the prediction a sampler asks for."""

    def look(self, x: Tensor, sigma: Tensor, memory: Memory = NOTHING, *, apart: bool = False) -> Guidance:
        """The clean latent for ``x`` [B,C,h,w] at ``sigma`` (float32 [B], on the CPU).

        With ``apart`` the unconditional prediction is wanted too, even where guidance does without it.
        """
        ...


def entries_for(
    denoiser: Denoiser, side: Conditioning, clean: Tensor, name: str, noise_mask: Tensor | None = None, seed: int = 0
) -> tuple[Entry, ...]:
    """The entries of a side of guidance called ``name``, for the latent ``clean`` [B,C,h,w] in the model's space.

    Raises InputError for text of another model's encoders.
    """
    if (hearing := denoiser.reader.hearing) is not None:
        for embedding, _ in side:
            hearing.check(embedding, name)
    entries = resolve(
        side,
        clean,
        denoiser.schedule,
        reader=denoiser.reader,
        noise_mask=noise_mask,
        is_negative=name in NEGATIVE_SIDES,
        seed=seed,
    )
    pairs = zip(entries, side, strict=True)
    named = ((replace(entry, name=f"{name}.{number}"), it) for number, (entry, it) in enumerate(pairs))
    return tuple(denoiser.reader.changes_of(entry, options) for entry, (_, options) in named)


def predictions(
    denoiser: Denoiser,
    x: Tensor,
    sigma: Tensor,
    entries: Sequence[Entry],
    most: int | None,
    recalls: Recalls | None = None,
) -> list[Tensor]:
    """What the model predicts under each entry, over the entry's area. With ``recalls`` it may know of earlier steps."""
    names = unique([entry.name for entry in entries])
    hearing = denoiser.reader.hearing
    repeats = hearing is None or not hearing.joint
    found: dict[int, Tensor] = {}
    for hooked, members in denoiser.by_weights([entry.hooks for entry in entries], sigma):
        for group in groups([entries[i] for i in members], x, most, repeats=repeats):
            places = [members[i] for i in group.members]
            own = [names[i] for i in places]
            call = None if recalls is None else recalls.call(own)
            outputs = _together(hooked, x, sigma, [entries[i] for i in places], group, call)
            if recalls is not None and call is not None:
                recalls.keep(own, call)
            found.update(zip(places, outputs, strict=True))
    return [found[i] for i in range(len(entries))]


def _together(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, entries: Sequence[Entry], group: Group, call: Call | None
) -> Sequence[Tensor]:
    """One call of the network for entries that fit together."""
    batch = len(x)
    context = torch.cat([for_batch(stretched(entry.context, group.tokens), batch) for entry in entries])
    inputs = {name: torch.cat([for_batch(entry.input(name), batch) for entry in entries]) for name in entries[0].inputs}
    crops = torch.cat([entry.crop(x) for entry in entries])
    steered = _steered(entries, batch)
    denoiser = denoiser.changed(*entries[0].shared, *entries[0].changes)
    outputs: Sequence[Tensor] = denoiser(crops, sigma.repeat(len(entries)), context, inputs, steered, call).split(batch)
    return outputs


def _steered(entries: Sequence[Entry], batch: int) -> Steered | None:
    """The control that ``entries`` have in common."""
    if (control := entries[0].control) is None:
        return None
    read = [for_batch(it, batch) for entry in entries if (it := entry.control_context) is not None]
    return Steered(control, len(entries), torch.cat(read) if read else None)


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One evaluation of guidance: what it asks the network for ``x`` at ``sigma``, and what further kinds of guidance ask then."""

    denoiser: Denoiser
    x: Tensor
    sigma: Tensor
    most: int | None = None
    recalls: Recalls = field(default_factory=Recalls)
    notes: Notes = field(default_factory=list)

    @property
    def level(self) -> float:
        return float(self.sigma[0])

    def sides(self, active: Sequence[Sequence[Entry]], negative: int | None) -> list[Tensor]:
        """The prediction of each side, from its entries that count now, all made together; ``negative`` is the number of the side that
        guidance goes away from. A FasterCache may rebuild that one from the first."""
        if (cache := self.denoiser.faster) is None:
            return self._averages(active, negative)
        call = self.recalls.call([_SIDES])
        height, width = self.x.shape[-2:]
        schedule, levels = self.denoiser.schedule, self.denoiser.levels
        moment = Moment(self.level, height, width, schedule, batch=len(self.x), levels=levels)
        plan = cache.plan(moment, call, self._told(active, negative))
        turn = replace(self, denoiser=self.denoiser.changed(*plan.changes))
        found = turn._averages(active, None) if negative is None else turn._planned(plan, active, negative)
        self.recalls.keep([_SIDES], call)
        return found

    def _planned(self, plan: Plan, active: Sequence[Sequence[Entry]], negative: int) -> list[Tensor]:
        """Where there is a negative side."""
        gain = self.denoiser.prediction.denoised(
            self.x.new_zeros(1), self.x.new_ones(1), per_sample(self.sigma, self.x)
        )
        if plan.forgets_negative:
            self.recalls.aside = frozenset(entry.name for entry in active[negative])
        if not plan.rebuilds:
            found = self._averages(active, negative)
            plan.computed(found[0], found[negative], gain)
            return found
        found = self._averages([side for number, side in enumerate(active) if number != negative], None)
        return [*found[:negative], plan.rebuilt(found[0], gain), *found[negative:]]

    def _told(self, active: Sequence[Sequence[Entry]], negative: int | None) -> list[str] | None:
        """What tells the entries of the first side and the negative one from others; None where the negative one cannot be rebuilt."""
        if negative is None or not active[negative] or self._on_negative():
            return None
        return [entry.name for side in (active[0], active[negative]) for entry in side]

    def _on_negative(self) -> list[Altered]:
        """What changes the network while it predicts the negative side."""
        schedule, kinds = self.denoiser.schedule, self.denoiser.perturbations
        return [change for kind in kinds if (change := kind.on_negative(self.notes, self.level, schedule)) is not None]

    def _averages(self, active: Sequence[Sequence[Entry]], negative: int | None) -> list[Tensor]:
        starts = [0, *accumulate(map(len, active))]
        away = range(0) if negative is None else range(starts[negative], starts[negative + 1])
        outputs = self.predictions([entry for side in active for entry in side], away)
        return [averaged(self.x, side, outputs[a:b]) for side, (a, b) in zip(active, pairwise(starts), strict=True)]

    def predictions(self, entries: Sequence[Entry], negative: range) -> list[Tensor]:
        """What the model predicts under each entry; those at ``negative`` are the side that guidance goes away from."""
        changed = self.denoiser.changed(*(self._on_negative() if len(negative) else ()))
        if changed is self.denoiser:
            return self._plain(entries)
        away = predictions(changed, self.x, self.sigma, [entries[i] for i in negative], self.most)
        found = dict(zip(negative, away, strict=True))
        others = [i for i in range(len(entries)) if i not in negative]
        found.update(zip(others, self._plain([entries[i] for i in others]), strict=True))
        return [found[i] for i in range(len(entries))]

    def _plain(self, entries: Sequence[Entry]) -> list[Tensor]:
        return predictions(self.denoiser, self.x, self.sigma, entries, self.most, self.recalls)

    def steered(self, result: Tensor, seen: Seen, positive: Sequence[Entry], negative: Sequence[Entry]) -> Tensor:
        """``result``, made of what is ``seen``, as the options of guidance change it in the end."""
        sides: Mapping[Side, Sequence[Entry]] = {"positive": positive, "negative": negative}

        def again(side: Side, x: Tensor, changes: tuple[Altered, ...]) -> Tensor:
            changed = self.denoiser.changed(*changes)
            return averaged(x, sides[side], predictions(changed, x, self.sigma, sides[side], self.most))

        toward, away = seen.positive, seen.negative
        look = Look(self.x, self.level, self.denoiser.schedule, toward, away, again, self.notes)
        further = [partial(kind.steered, look=look) for kind in self.denoiser.perturbations]
        return finished(self.denoiser.options, seen, result, further)


def averaged(x: Tensor, entries: Sequence[Entry], outputs: Sequence[Tensor]) -> Tensor:
    """``sum(w * out) / sum(w)``, cell by cell; 0 where nothing has weight. ``x`` gives the shape."""
    if len(entries) == 1 and entries[0].weight is None:
        return outputs[0]
    total = torch.zeros_like(x)
    weights = x.new_zeros((len(x), 1, *x.shape[-2:]))
    for entry, out in zip(entries, outputs, strict=True):
        weight = x.new_ones(1) if entry.weight is None else for_batch(entry.weight, len(x))
        covered, weighed = entry.crop(total), entry.crop(weights)
        covered += out * weight
        weighed += weight
    return torch.where(weights == 0, 0, total / weights)


def guided(positive: Tensor, negative: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: ``u + s * (c - u)`` (Ho and Salimans 2022, eq. 6)."""
    return negative + scale * (positive - negative)


@dataclass(frozen=True, slots=True, eq=False)
class CfgGuider:
    """Classifier-free guidance between two lists of entries. At scale 1 the negative side is not computed.

    ``most`` limits how many entries share one call of the network, where memory is short. ``further`` is the side of an
    option that needs a third one.
    """

    denoiser: Denoiser
    positive: tuple[Entry, ...]
    negative: tuple[Entry, ...]
    scale: float
    most: int | None = None
    further: tuple[Entry, ...] = ()

    @classmethod
    def between(
        cls,
        denoiser: Denoiser,
        positive: Sequence[Entry],
        negative: Sequence[Entry],
        scale: float,
        most: int | None = None,
        further: Sequence[Entry] = (),
    ) -> CfgGuider:
        """With the areas of each side made known to the others."""
        toward, away, third = matched(positive, negative, further)
        return cls(denoiser, toward, away, scale, most, third)

    def look(self, x: Tensor, sigma: Tensor, memory: Memory = NOTHING, *, apart: bool = False) -> Guidance:
        turn = Turn(self.denoiser, x, sigma, self.most, Recalls(memory))
        wanted = apart or any(kind.needs_negative for kind in self.denoiser.perturbations)
        alone = math.isclose(self.scale, 1.0) and not (wanted and self.negative)
        positive = at_sigma(self.positive, turn.level, x)
        negative = [] if alone else at_sigma(self.negative, turn.level, x)
        further = at_sigma(self.further, turn.level, x)
        sides = [positive, *([] if alone else [negative]), *([further] if further else [])]
        toward, *others = turn.sides(sides, None if alone else 1)
        away = None if alone else others[0]
        third = others[-1] if further else None
        seen = Seen(x, per_sample(sigma, x), toward, away, self.scale, memory, third)
        seen = prepared(self.denoiser.options, seen)
        denoised = turn.steered(combined(self.denoiser.options, seen), seen, positive, negative)
        unconditional = torch.zeros_like(denoised) if seen.negative is None else seen.negative
        return Guidance(denoised, unconditional, turn.recalls.remembered(seen.memory))


def latent_mask(mask: Tensor, latent: Tensor) -> Tensor:
    """A noise mask ([h,w], [B,h,w] or [B,1,h,w], 1 = repaint, any size) as [B,1,h,w] for ``latent`` [B,C,h,w]."""
    pictures = mask.reshape(-1, 1, *mask.shape[-2:]).to(latent.device, torch.float32)
    sized = interpolate(pictures, size=latent.shape[-2:], mode="bilinear")
    return for_batch(sized, len(latent))


@dataclass(frozen=True, slots=True, eq=False)
class InpaintGuider:
    """Keeps ``latent`` where ``mask`` is 0: the model sees it at the sample's noise level there, and the prediction is
    replaced by it.

    ``mask`` is [B,1,h,w]; ``noise`` and ``latent`` are [B,C,h,w] in the model's space. With ``change`` the mask is what that makes
    of it at each noise level.
    """

    inner: Guider
    mask: Tensor
    latent: Tensor
    noise: Tensor
    prediction: Prediction
    change: ChangeMap | None = None

    def look(self, x: Tensor, sigma: Tensor, memory: Memory = NOTHING, *, apart: bool = False) -> Guidance:
        mask = self.mask if self.change is None else self.change.at(self.mask, float(sigma[0]))
        kept = self.prediction.noised(self.latent, self.noise, per_sample(sigma, x))
        seen = self.inner.look(x * mask + kept * (1 - mask), sigma, memory, apart=apart)
        return seen._replace(denoised=seen.denoised * mask + self.latent * (1 - mask))


CHANCE: Final = "chance"
"""Where the memory of guidance holds the state of a generator, uint8 [n]."""


@dataclass(frozen=True, slots=True, eq=False)
class DrawingGuider:
    """For networks that are changed at random: what they draw from ``chance`` goes on from one evaluation to the next, in a run that
    was cut as well."""

    inner: Guider
    chance: torch.Generator

    def look(self, x: Tensor, sigma: Tensor, memory: Memory = NOTHING, *, apart: bool = False) -> Guidance:
        self.chance.set_state(memory[CHANCE].cpu())
        seen = self.inner.look(x, sigma, memory, apart=apart)
        return seen._replace(memory={**seen.memory, CHANCE: self.chance.get_state()})
