"""The explicit state of a sampling, and the protocol of samplers over it.

A sampler never calls the model. ``query`` says where the denoiser must be evaluated next, ``advance`` takes the
prediction made there. All a solver knows is in its ``State``: tensors, ints and strings, so a run can be cut anywhere,
stored, and continued elsewhere with the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from nodes.diffusion.noise import Numbers, StepNoise, step_noise_from_plain
from nodes.diffusion.samplers.laws import Law


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A step that needs one more evaluation, at ``x`` and ``sigma``; ``evaluated`` are its predictions so far."""

    x: Tensor
    sigma: Tensor
    evaluated: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Where a sampling is.

    ``x`` [B,C,...] is the sample at ``sigmas[step]``. ``sigmas`` [n + 1] float32 falls and lives on the CPU, so that
    decisions never wait for a device. ``history`` is what a multistep solver remembers, newest first. ``extra`` (on the
    CPU) and ``note`` are a solver's own: a step width, what a library keeps. ``memory`` is what guidance remembers from
    one evaluation to the next. ``first`` is what was predicted at ``x`` itself, while the step waits for more."""

    x: Tensor
    sigmas: Tensor
    noise: StepNoise
    step: int = 0
    history: tuple[Tensor, ...] = ()
    pending: Pending | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    note: str = ""
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    first: Tensor | None = None

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def done(self) -> bool:
        return self.step >= self.steps

    @property
    def sigma(self) -> Tensor:
        """The noise level of ``x``, 0-dim on the CPU."""
        return self.sigmas[self.step]

    @property
    def sigma_next(self) -> Tensor:
        """The noise level at the end of the step, 0-dim on the CPU."""
        return self.sigmas[self.step + 1]

    @property
    def ends_clean(self) -> bool:
        """Whether the step ends at sigma 0."""
        return bool(self.sigma_next == 0)

    def stepped(self, x: Tensor, *, noise: StepNoise | None = None, history: tuple[Tensor, ...] = ()) -> State:
        """The state after the step, with ``x`` at the next sigma."""
        return replace(self, x=x, step=self.step + 1, noise=noise or self.noise, history=history, pending=None)

    def waiting(self, x: Tensor, sigma: Tensor, *evaluated: Tensor, noise: StepNoise | None = None) -> State:
        """The state within a step that asks for one more evaluation at ``x``, ``sigma``."""
        return replace(self, pending=Pending(x, sigma, evaluated), noise=noise or self.noise)

    def draw(self, sigma: Tensor | None = None, sigma_next: Tensor | None = None) -> tuple[Tensor, StepNoise]:
        """Noise for the way from ``sigma`` to ``sigma_next`` (default: the whole step), and the source after the
        draw."""
        start = self.sigma if sigma is None else sigma
        end = self.sigma_next if sigma_next is None else sigma_next
        return self.noise.draw(self.x, start, end)


class Sampler(Protocol):
    """A solver as three pure functions over its state."""

    def start(self, x: Tensor, sigmas: Tensor, noise: StepNoise) -> State:
        """The state before the first step: ``x`` at ``sigmas[0]``; ``sigmas`` [n + 1], n >= 1."""
        ...

    def query(self, state: State) -> tuple[Tensor, Tensor]:
        """Where the denoiser must be evaluated: ``x`` [B,C,...] and sigma per sample, float32 [B] on the CPU."""
        ...

    def advance(self, state: State, denoised: Tensor) -> State:
        """The state after ``denoised`` [B,C,...], the prediction of the clean latent at the query, is known."""
        ...


@runtime_checkable
class ApartSampler(Sampler, Protocol):
    """A sampler that needs the unconditional prediction beside the guided one."""

    def advance_apart(self, state: State, denoised: Tensor, unconditional: Tensor) -> State:
        """``advance`` with both predictions at the query."""
        ...


class Solver:
    """What every solver of this package shares: how it starts and where it asks."""

    def start(self, x: Tensor, sigmas: Tensor, noise: StepNoise) -> State:
        return State(x, sigmas.detach().to("cpu", torch.float32), noise)

    def query(self, state: State) -> tuple[Tensor, Tensor]:
        asked, sigma = (state.x, state.sigma) if state.pending is None else (state.pending.x, state.pending.sigma)
        return asked, sigma.expand(len(asked))


@dataclass(frozen=True, slots=True)
class LawSolver(Solver):
    """A solver that steps in the ``lam`` of a noise law, and starts where that is finite."""

    law: Law

    def start(self, x: Tensor, sigmas: Tensor, noise: StepNoise) -> State:
        # Explicit base: a slotted dataclass is a new class, which zero-argument super() would miss.
        return Solver.start(self, x, self.law.solvable(sigmas), noise)


def to_tensors(state: State) -> tuple[dict[str, Tensor], Numbers]:
    """A state as a flat dict of tensors and one of numbers and strings, fit for safetensors and its metadata."""
    noise_tensors, noise_numbers = state.noise.to_plain()
    tensors = {"x": state.x, "sigmas": state.sigmas}
    tensors |= {f"history.{i}": tensor for i, tensor in enumerate(state.history)}
    tensors |= {f"extra.{name}": tensor for name, tensor in state.extra.items()}
    tensors |= {f"memory.{name}": tensor for name, tensor in state.memory.items()}
    tensors |= {f"noise.{name}": tensor for name, tensor in noise_tensors.items()}
    if state.pending is not None:
        tensors |= {"pending.x": state.pending.x, "pending.sigma": state.pending.sigma}
        tensors |= {f"pending.evaluated.{i}": tensor for i, tensor in enumerate(state.pending.evaluated)}
    if state.first is not None:
        tensors["first"] = state.first
    numbers: Numbers = {"step": state.step, "note": state.note}
    numbers |= {f"noise.{name}": value for name, value in noise_numbers.items()}
    # A file stores every tensor by itself, so no two may share memory (history may hold what is also pending).
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, numbers


def _below(items: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in items.items() if name.startswith(prefix)}


def _listed(items: Mapping[str, Tensor], prefix: str, device: torch.device | str) -> tuple[Tensor, ...]:
    found = _below(items, prefix)
    return tuple(found[str(i)].to(device) for i in range(len(found)))


def from_tensors(
    tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], device: torch.device | str = "cpu"
) -> State:
    """The inverse of ``to_tensors``, with the latents on ``device``. Numbers may come back as strings, as in
    metadata."""
    pending = None
    if "pending.x" in tensors:
        evaluated = _listed(tensors, "pending.evaluated.", device)
        pending = Pending(tensors["pending.x"].to(device), tensors["pending.sigma"], evaluated)
    return State(
        x=tensors["x"].to(device),
        sigmas=tensors["sigmas"],
        noise=step_noise_from_plain(_below(tensors, "noise."), _below(numbers, "noise.")),
        step=int(numbers["step"]),
        history=_listed(tensors, "history.", device),
        pending=pending,
        extra=_below(tensors, "extra."),
        note=str(numbers["note"]),
        memory={name: tensor.to(device) for name, tensor in _below(tensors, "memory.").items()},
        first=tensors["first"].to(device) if "first" in tensors else None,
    )
