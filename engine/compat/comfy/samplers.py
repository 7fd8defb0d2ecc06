"""``comfy.samplers``: names of samplers and schedulers, and the noise levels of a schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.compat.missing import NotProvidedError, message, module_getattr
from engine.compat.model_values import unwrapped
from engine.models import ModelRef
from nodes.diffusion import names

if TYPE_CHECKING:
    from torch import Tensor

    from nodes.diffusion.schedules import ModelSigmas

SAMPLER_NAMES = list(names.SAMPLER_NAMES)
SCHEDULER_NAMES = list(names.SCHEDULER_NAMES)
KSAMPLER_NAMES = SAMPLER_NAMES


@dataclass(frozen=True)
class SchedulerHandler:
    """What makes the noise levels of a scheduler."""

    handler: Callable[..., Any]
    use_ms: bool = True


def model_sigmas(model: Any) -> ModelSigmas:
    """The noise levels of a MODEL. Raises ``NotProvidedError`` for what is none of this engine's."""
    model = unwrapped(model)
    if isinstance(model, ModelRef):
        from nodes.diffusion import unet

        return unet.levels(model)
    if all(hasattr(model, name) for name in ("table", "timestep", "percent_to_sigma")):
        return model  # type: ignore[no-any-return]
    raise NotProvidedError(f"the noise levels of a {type(model).__name__} are not known; pass on the MODEL as it came")


def calculate_sigmas(model_sampling: Any, scheduler_name: str, steps: int) -> Tensor:
    """The noise levels of ``steps`` steps, float32 [steps + 1]. ``model_sampling`` is a MODEL here."""
    import torch

    from nodes.diffusion import schedules

    return torch.from_numpy(schedules.scheduled(model_sigmas(model_sampling), scheduler_name, steps))


def _handler(name: str) -> SchedulerHandler:
    return SchedulerHandler(lambda model_sampling, steps: calculate_sigmas(model_sampling, name, steps))


SCHEDULER_HANDLERS = {name: _handler(name) for name in SCHEDULER_NAMES}
"""What packs add here is theirs: core samplers know the schedulers they declare."""


class KSampler:
    """The names a sampler node offers. An instance cannot be had: ``nodes.common_ksampler`` samples."""

    SAMPLERS = SAMPLER_NAMES
    SCHEDULERS = SCHEDULER_NAMES
    DISCARD_PENULTIMATE_SIGMA_SAMPLERS = set(names.DROPS_PENULTIMATE)

    def __init__(self, *_: Any, **__: Any) -> None:
        raise NotProvidedError(f"{message('instances of comfy.samplers.KSampler')}: nodes.common_ksampler samples")


__getattr__ = module_getattr(__name__)
