"""The loop that every network of the set is trained in: the rate's course, averaged weights, a state to go on from."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from training.config import Share, UnetPhase, UnetRecipe
from training.steps import Average, Meter, cosine

Loss: TypeAlias = Callable[[Share], Tensor]
"""A step's loss on latents of this set, in a batch of this size."""
Module = TypeVar("Module", bound=nn.Module)


class Course:
    """Which rate and which latent set hold at a step of the whole training, phase after phase."""

    def __init__(self, recipe: UnetRecipe) -> None:
        self._recipe = recipe
        self.total = sum(phase.steps for phase in recipe.phases)

    def _at(self, step: int) -> tuple[UnetPhase, int]:
        """The phase of a step, and the step's number in it."""
        for phase in self._recipe.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        raise ValueError(f"expected a step below {self.total}, found one {step} beyond; lengthen the last phase")

    def rate(self, step: int) -> float:
        """Half a cosine from each phase's first rate to its last, and one ramp at the very beginning."""
        phase, own = self._at(step)
        ramp = min(1.0, (step + 1) / self._recipe.warm)
        return ramp * phase.rate * cosine(own, phase.steps, warm=1, floor=phase.last_rate / phase.rate)

    def draw(self, step: int) -> Share:
        """Which latents this step trains on, and the batch; the same at every run."""
        phase, own = self._at(step)
        chance = random.Random(f"{self._recipe.seed} {phase.name} {own}")
        return chance.choices(phase.shares, [share.weight for share in phase.shares])[0]


def train(name: str, module: nn.Module, recipe: UnetRecipe, begin: Callable[[int], Loss], path: Path) -> None:
    """Train those weights of `module` that ask for gradients, going on from the state at `path` where there is one.

    begin: gives the loss for a seed, which differs with the step that the training goes on from. The final state is left at `path`.
    """
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    average, course = Average(module, recipe.decay), Course(recipe)
    first = _restore(path, module, optimizer, average) if path.exists() else 0
    torch.manual_seed(recipe.seed + first)
    loss_of, meter = begin(recipe.seed + first), Meter(name, every=50)
    for step in range(first, course.total):
        for group in optimizer.param_groups:
            group["lr"] = course.rate(step)
        loss = loss_of(course.draw(step))
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        meter.note(loss=loss.item())
        if (step + 1) % recipe.save_every == 0 or step + 1 == course.total:
            _save(path, step + 1, module, optimizer, average)


def _save(path: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, average: Average) -> None:
    state = {"step": step, "weights": module.state_dict(), "average": average.values}
    torch.save(state | {"optimizer": optimizer.state_dict()}, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def _restore(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, average: Average) -> int:
    """Put a saved state back and return its step; a state without an optimizer's is a start from known weights."""
    state = torch.load(path)
    module.load_state_dict(state["weights"])
    average.restore(state["average"], state["step"])
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def start_from(module: nn.Module, path: Path) -> None:
    """Save known weights as the state to train on from."""
    torch.save({"step": 0, "weights": module.state_dict(), "average": [p.detach() for p in module.parameters()]}, path)


def load_averaged(module: Module, path: Path) -> Module:
    """`module`, of which all or some weights were trained, with the averaged weights of a training state; for use alone."""
    state = torch.load(path)
    module.load_state_dict(state["weights"])
    with torch.no_grad():
        trained = (weight for weight in module.parameters() if weight.requires_grad)
        for weight, value in zip(trained, state["average"], strict=True):
            weight.copy_(value)
    return module.eval().requires_grad_(False)
