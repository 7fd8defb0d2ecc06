"""Modules that need not be computed in a call, and what stands in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Instead = Callable[[Tensor], Any]
"""What a module is taken to put out, for its first input."""


def corner(x: Tensor) -> Tensor:
    """One cell of ``x`` [B,C,h,w]: as good as nothing, for modules whose output nobody looks at."""
    return x[:, :1, :1, :1]


class InPlace(nn.Module):
    """In the place of ``module``, which has whatever else it is asked for."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


class Spared(InPlace):
    """In the place of ``module``: gives what ``instead`` says, or, where ``when`` says no, what the module computes."""

    def __init__(self, module: nn.Module, instead: Instead, when: Callable[[], bool] = lambda: True) -> None:
        super().__init__(module)
        self.instead, self.when = instead, when

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.when():
            return self.module(*args, **kwargs)
        value = self.instead(args[0] if args else kwargs["hidden_states"])
        return value if kwargs.get("return_dict", True) else (value,)
