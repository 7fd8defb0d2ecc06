"""Looking at what goes on inside of a network while it runs, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def kept_output(module: nn.Module) -> Iterator[list[Tensor]]:
    """While open, the list holds what ``module`` gave last.

    transformers would give all layers' states by ``output_hidden_states``, and leave hooks in the module for good.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        kept[:] = [output if isinstance(output, Tensor) else output[0]]

    handle = module.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()
