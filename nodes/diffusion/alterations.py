"""Changes of a network for a single call: what is put on its modules before the call is taken off after it.

What an ``Alteration`` does depends on the call's noise level and size, which a ``Moment`` says. A leased module is left as it was.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nodes.diffusion.recall import Call
from nodes.diffusion.schedules import ModelSigmas

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Of a module's call, by place and by name."""

_HIDDEN: Final = "hidden_states"
"""What diffusers calls a module's first input where it is given by name."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One call of the network: the noise level of its samples, their height and width in cells, and the model's noise levels.

    What is random in it is drawn from ``chance``, in the order in which the network comes to it.
    ``call`` is what it finds of earlier calls for its ``batch`` of samples, and may keep; None where it is not one of a row.
    ``levels`` are those at which the steps of the run begin; none where that is not known.
    """

    sigma: float
    height: int
    width: int
    schedule: ModelSigmas
    chance: torch.Generator = field(default_factory=lambda: torch.Generator("cpu"), compare=False)
    batch: int = 1
    call: Call | None = None
    levels: tuple[float, ...] = ()

    @property
    def step(self) -> int:
        """How many steps of the run began before this call's noise level: its number, 0..``steps - 1``, or that of the step after it."""
        upwards = len(self.levels) > 1 and self.levels[0] < self.levels[-1]
        # the sample's own level has come through float32 once more than those of the run
        passed = sum(_is_beyond(level, self.sigma, upwards=upwards) for level in self.levels)
        return min(passed, max(self.steps - 1, 0))

    @property
    def steps(self) -> int:
        """Of the run; 0 where that is not known."""
        return len(self.levels)

    def within(self, start_percent: float, end_percent: float) -> bool:
        """See ``is_within``."""
        return is_within(self.sigma, self.schedule, start_percent, end_percent)


def _is_beyond(level: float, sigma: float, *, upwards: bool) -> bool:
    """Whether a run comes to ``level`` before it comes to ``sigma``."""
    nearly = math.isclose(level, sigma, rel_tol=1e-6)
    return not nearly and (level < sigma if upwards else level > sigma)


def seeded(sigma: float, place: int) -> torch.Generator:
    """For what is random at a noise level, in place number ``place``."""
    seed = hashlib.blake2b(struct.pack("<dq", sigma, place), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(seed, "little"))


def is_within(sigma: float, schedule: ModelSigmas, start_percent: float, end_percent: float) -> bool:
    """Whether ``sigma`` is between these parts of a whole run, both included."""
    start, end = map(schedule.percent_to_sigma, (start_percent, end_percent))
    return end <= sigma <= start


@dataclass(slots=True)
class Wiring:
    """What is put on the modules of ``network`` for one call. Those before a module run in the order they were put on."""

    network: Any
    _undo: list[Callable[[], None]] = field(default_factory=list)

    def rewire(self, module: nn.Module, change: Callable[..., Arguments]) -> None:
        """``change(*args, **kwargs)`` says what ``module`` is called with."""

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            return change(*args, **kwargs)

        self._keep(module.register_forward_pre_hook(hook, with_kwargs=True))

    def before(self, module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        """The first input of ``module`` goes through ``change``."""

        def changed(*args: Any, **kwargs: Any) -> Arguments:
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, {**kwargs, _HIDDEN: change(kwargs[_HIDDEN])}

        self.rewire(module, changed)

    def after(self, module: nn.Module, change: Callable[[Tensor], Tensor], *, first: bool = False) -> None:
        """The output of ``module``, or the first of several, goes through ``change``; with ``first`` before all other changes."""

        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, tuple):
                return (change(output[0]), *output[1:])
            return change(output)

        self._keep(module.register_forward_hook(hook, prepend=first))

    def replace_processor(self, attention: Any, processor: Callable[..., Tensor]) -> None:
        """``processor`` computes the attention."""
        own = attention.processor
        attention.processor = processor
        self._undo.append(lambda: setattr(attention, "processor", own))

    def attach(self, module: nn.Module, name: str, value: Any) -> None:
        """``module`` has an attribute ``name``, which it lacks otherwise."""
        setattr(module, name, value)
        self._undo.append(lambda: delattr(module, name))

    def swap(self, owner: nn.Module, name: str, stand_in: nn.Module) -> None:
        """``stand_in`` is the child ``name`` of ``owner``."""
        own = owner.get_submodule(name)
        setattr(owner, name, stand_in)
        self._undo.append(lambda: setattr(owner, name, own))

    def remove(self) -> None:
        """Take everything off again."""
        while self._undo:
            self._undo.pop()()

    def _keep(self, handle: RemovableHandle) -> None:
        self._undo.append(handle.remove)


class Alteration(Protocol):
    """A change of a network."""

    def install(self, wiring: Wiring, moment: Moment) -> None:
        """Put on ``wiring.network`` what its call at ``moment`` needs."""
        ...


Altered = Callable[[Moment], AbstractContextManager[None]]
"""A network that is changed while the context is open."""


def altered(network: nn.Module, alteration: Alteration) -> Altered:
    """``network`` changed by ``alteration``."""

    @contextmanager
    def during(moment: Moment) -> Iterator[None]:
        wiring = Wiring(network)
        try:
            alteration.install(wiring, moment)
            yield
        finally:
            wiring.remove()

    return during
