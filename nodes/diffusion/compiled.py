"""Networks compiled by torch (Ansel et al. 2024, "PyTorch 2"): the first call takes minutes, the later ones less than usual."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from engine.errors import InputError

if TYPE_CHECKING:
    from nodes.diffusion.store import LoadedModel

SETTING: Final = "compiled"
"""The setting of a recipe that names the backend."""

Backend = str | Callable[..., Any]


def compiled(unet: LoadedModel) -> Callable[..., Any] | None:
    """The leased network as its recipe wants it compiled, or None where it wants nothing; kept for as long as the weights are known.

    Raises InputError where it cannot be.
    """
    backend = unet.ref.setting(SETTING)
    if backend is None:
        return None
    if any(parameter.is_meta for parameter in unet.module.parameters()):
        raise InputError(
            "expected a model that is on the device as a whole to compile it, found one that is streamed; "
            "give a larger --vram-budget, or sample without TorchCompileModel",
            input="model",
        )
    if backend == "cudagraphs" and unet.device.type != "cuda":
        raise InputError(
            f"expected a CUDA device for the backend cudagraphs, found {unet.device.type}; compile with inductor",
            input="model",
        )
    name = f"{SETTING} {backend}"
    if name not in unet.derived:
        unet.derived[name] = compiled_module(unet.module, str(backend))
    found: Callable[..., Any] = unet.derived[name]
    return found


def compiled_module(module: nn.Module, backend: Backend) -> Callable[..., Any]:
    """``module`` compiled when it is first called, and again for other shapes. A call raises InputError where that fails."""
    inner = torch.compile(module, backend=backend)

    def call(*args: Any, **kwargs: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return inner(*args, **kwargs)
        except TorchDynamoException as error:
            # what the backend said, if it was the backend
            reason = str(getattr(error, "inner_exception", error)).strip().partition("\n")[0]
            raise InputError(
                f"expected torch to compile the model with {backend}, found: {reason}; "
                "install what that needs, a C++ compiler say, or sample without TorchCompileModel",
                input="model",
            ) from error

    return call
