"""What may be done to classifier-free guidance, as options of a model: in the order in which they were given, first what
changes the predictions, then how they are combined (the last one given decides), then what changes the result.

All of it works on predictions of the clean latent [B,C,h,w] at the sample ``x``; ``x - c`` points along the noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from engine.models import ModelRef
from nodes.diffusion import listed
from nodes.diffusion.latent_operations import operated

SETTING: Final = "guidance"
"""The setting of a model that lists its options."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option by its name in ``BEFORE``, ``COMBINE`` or ``AFTER``, or that of guidance by a worse model, with its numbers."""

    name: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


def with_option(model: ModelRef, name: str, **numbers: Any) -> ModelRef:
    """``model`` with an option of guidance behind those it has."""
    return listed.with_option(model, SETTING, name, **numbers)


def options_of(model: ModelRef) -> tuple[Option, ...]:
    """The options of a model's guidance, in their order."""
    return tuple(Option(name, numbers) for name, numbers in listed.options(model, SETTING))


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What guidance works with: the sample, its sigma [B,1,1,1], both predictions (``negative`` None where there is none)
    and the scale. ``memory`` is what options remember, by name; ``further`` is the prediction of a third side, where an
    option has one."""

    x: Tensor
    sigma: Tensor
    positive: Tensor
    negative: Tensor | None
    scale: float
    memory: Mapping[str, Tensor]
    further: Tensor | None = None


def _inner(tensor: Tensor) -> tuple[int, ...]:
    """All dimensions but the batch's."""
    return tuple(range(1, tensor.ndim))


def tangential(seen: Seen, key: str) -> Seen:
    """TCFG (Kwon et al. 2025, "TCFG: Tangential Damping Classifier-free Guidance", alg. 1): of the negative noise only what
    lies along the main direction of both."""
    if seen.negative is None:
        return seen
    away, toward = ((seen.x - side).float().flatten(1) for side in (seen.negative, seen.positive))
    main = torch.linalg.svd(torch.stack([away, toward], dim=1), full_matrices=False).Vh[:, 0]
    damped = (away * main).sum(1, keepdim=True) * main
    return replace(seen, negative=seen.x - damped.view_as(seen.x).to(seen.x.dtype))


def projected(seen: Seen, key: str, eta: float, norm_threshold: float, momentum: float) -> Seen:
    """APG (Sadat et al. 2024, "Eliminating Oversaturation and Artifacts of High Guidance Scales", alg. 1): the difference
    with (negative) momentum, no longer than ``norm_threshold``, its part along the positive prediction times ``eta``.

    The result is ``c + s * difference``, as it has become usual, where the paper takes ``s - 1``. A negative side that is not
    predicted counts as zeros."""
    negative = torch.zeros_like(seen.positive) if seen.negative is None else seen.negative
    difference, memory = seen.positive - negative, seen.memory
    if momentum != 0:
        average, before = memory.get(f"{key}.average"), memory.get(f"{key}.sigma")
        level = seen.sigma.flatten()[0]
        if average is not None and before is not None and bool(level <= before.to(level.device)):
            difference = difference + momentum * average
        memory = {**memory, f"{key}.average": difference, f"{key}.sigma": level}
    if norm_threshold > 0:
        norm = torch.linalg.vector_norm(difference, dim=_inner(difference), keepdim=True)
        difference = difference * (norm_threshold / norm).clamp(max=1)
    along = seen.positive / torch.linalg.vector_norm(seen.positive, dim=_inner(difference), keepdim=True).clamp(
        min=1e-12
    )
    parallel = (difference * along).sum(_inner(difference), keepdim=True) * along
    changed = difference - parallel + eta * parallel
    plain = (seen.positive - negative) / seen.scale
    return replace(seen, positive=negative + changed + plain, memory=memory)


def operated_on(seen: Seen, key: str, operation: Mapping[str, Any]) -> Seen:
    """A latent operation on the difference, or on the prediction where there is no negative one."""
    if seen.negative is None:
        return replace(seen, positive=operated(seen.positive, operation))
    return replace(seen, positive=operated(seen.positive - seen.negative, operation) + seen.negative)


def frequencies(seen: Seen, key: str, low: float, high: float, cutoff: int) -> Seen:
    """FreSca (Huang et al. 2025, "FreSca: Scaling in Frequency Space Enhances Diffusion Models"): the difference's
    frequencies up to ``cutoff`` times ``low``, those above times ``high``."""
    if seen.negative is None:
        return seen
    spectrum = torch.fft.fftshift(torch.fft.fft2((seen.positive - seen.negative).float()), dim=(-2, -1))
    gain = torch.full(spectrum.shape[-2:], high, device=spectrum.device)
    rows, columns = (_middle(side, cutoff) for side in gain.shape)
    gain[rows, columns] = low
    changed = torch.fft.ifft2(torch.fft.ifftshift(spectrum * gain, dim=(-2, -1))).real
    return replace(seen, positive=seen.negative + changed.to(seen.x.dtype))


def _middle(side: int, cutoff: int) -> slice:
    reach = min(cutoff, side // 2)
    return slice(side // 2 - reach, side // 2 + reach)


def plain(seen: Seen) -> Tensor:
    """Ho and Salimans 2022, eq. 6; the positive prediction where there is no negative one."""
    if seen.negative is None:
        return seen.positive
    return seen.negative + seen.scale * (seen.positive - seen.negative)


def rescaled(seen: Seen, multiplier: float) -> Tensor:
    """Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", section 3.4: the guided velocity
    brought back to the deviation of the positive one, and mixed with itself."""
    if seen.negative is None:
        return seen.positive
    variance = seen.sigma**2 + 1
    base: Tensor = seen.x / variance
    gain: Tensor = seen.sigma / variance**0.5
    toward, away = (base - seen.positive) / gain, (base - seen.negative) / gain
    guided = away + seen.scale * (toward - away)
    every = _inner(guided)
    brought = guided * (toward.std(every, keepdim=True) / guided.std(every, keepdim=True))
    velocity: Tensor = guided.lerp(brought, multiplier)
    return base - gain * velocity


def perpendicular(seen: Seen, negative_scale: float) -> Tensor:
    """Armandpour et al. 2023, "Re-imagine the Negative Prompt Algorithm: Transform 2D Diffusion into 3D, alleviate Janus
    problem and Beyond", eq. 8: of the negative direction only what is perpendicular to the positive one is taken off.

    ``seen.further`` is what the model predicts without a prompt. A negative side that is not predicted counts as zeros. Where the positive
    prompt says nothing more than no prompt, all of the negative direction is perpendicular."""
    if seen.further is None:
        return seen.positive
    negative = torch.zeros_like(seen.positive) if seen.negative is None else seen.negative
    toward, away = seen.positive - seen.further, negative - seen.further
    length = (torch.linalg.vector_norm(toward) ** 2).clamp(min=torch.finfo(toward.dtype).tiny)
    perp: Tensor = away - (away * toward).sum() / length * toward
    return seen.further + seen.scale * (toward - negative_scale * perp)


def zero_star(seen: Seen, result: Tensor) -> Tensor:
    """CFG-Zero* (Fan et al. 2025, "CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models", eq. 7): the
    negative noise scaled to be as near to the positive one as it can."""
    if seen.negative is None:
        return result
    toward, away = ((seen.x - side).flatten(1) for side in (seen.positive, seen.negative))
    best = (toward * away).sum(1) / ((away**2).sum(1) + 1e-8)
    return result + (1 - seen.scale) * (best.view(-1, *[1] * (result.ndim - 1)) - 1) * seen.negative


def normed(seen: Seen, result: Tensor, strength: float) -> Tensor:
    """No cell's vector longer than the positive prediction's, all times ``strength``."""
    allowed: Tensor = torch.linalg.vector_norm(seen.positive, dim=1, keepdim=True)
    found: Tensor = torch.linalg.vector_norm(result, dim=1, keepdim=True)
    return result * (allowed / (found + 1e-8)).clamp(0, 1) * strength


def mahiro(seen: Seen, result: Tensor) -> Tensor:
    """The result and the scaled positive prediction, mixed the more of the former the more their middle looks like the
    scaled negative one."""
    if seen.negative is None:
        return result
    leap = seen.scale * seen.positive
    away, middle = (_rooted(side) for side in (seen.scale * seen.negative, (leap + result) / 2))
    share = (cosine_similarity(away, middle).mean() + 1) / 2
    return leap.lerp(result, share)


def _rooted(tensor: Tensor) -> Tensor:
    return tensor.abs().sqrt() * tensor.sign()


def epsilon_scaled(seen: Seen, result: Tensor, factor: float) -> Tensor:
    """Ning et al. 2023, "Elucidating the Exposure Bias in Diffusion Models", eq. 12: the predicted noise divided by
    ``factor``."""
    return seen.x - (seen.x - result) / (factor or 1e-9)


Further = Callable[[Tensor], Tensor]
"""Guides a guided prediction further."""

BEFORE: Final[Mapping[str, Callable[..., Seen]]] = MappingProxyType(
    {"tangential": tangential, "projected": projected, "operation": operated_on, "frequencies": frequencies}
)
COMBINE: Final[Mapping[str, Callable[..., Tensor]]] = MappingProxyType(
    {
        "rescaled": rescaled,
        # ``empty``, a packed conditioning, is what ``Seen.further`` is predicted from.
        "perpendicular": lambda seen, empty, negative_scale: perpendicular(seen, negative_scale),
    }
)
AFTER: Final[Mapping[str, Callable[..., Tensor]]] = MappingProxyType(
    {"zero_star": zero_star, "normed": normed, "mahiro": mahiro, "epsilon_scaled": epsilon_scaled}
)


def prepared(options: Sequence[Option], seen: Seen) -> Seen:
    """The predictions as the options change them before they are combined."""
    for number, option in enumerate(options):
        if option.name in BEFORE:
            seen = BEFORE[option.name](seen, f"{number}.{option.name}", **option.numbers)
    return seen


def combined(options: Sequence[Option], seen: Seen) -> Tensor:
    """The guided prediction, before what changes the result."""
    chosen = combination(options)
    return COMBINE[chosen.name](seen, **chosen.numbers) if chosen else plain(seen)


def combination(options: Sequence[Option]) -> Option | None:
    """The option that says how the predictions are combined; None for the plain way."""
    return next((option for option in reversed(options) if option.name in COMBINE), None)


def finished(options: Sequence[Option], seen: Seen, result: Tensor, others: Iterable[Further]) -> Tensor:
    """A guided prediction as the options change it in the end, in their order.

    ``others`` are what those options do that are none of these, one for each, as they stand among them; more than these come last.
    """
    remaining = iter(others)
    for option in options:
        if option.name in AFTER:
            result = AFTER[option.name](seen, result, **option.numbers)
        elif option.name not in BEFORE and option.name not in COMBINE:
            result = next(remaining)(result)
    for further in remaining:
        result = further(result)
    return result
