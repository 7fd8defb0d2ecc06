"""Compiled networks: when they are used, that they compute the same, and what is said where they cannot be made.

The demo model's compilation takes minutes; a few layers show the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.errors import InputError
from engine.models import ModelRef
from nodes.diffusion import networks
from nodes.diffusion.alterations import Moment, Wiring, altered
from nodes.diffusion.compiled import compiled, compiled_module
from nodes.diffusion.denoiser import Denoiser
from nodes.diffusion.predictions import Epsilon
from nodes.diffusion.schedules import stable_diffusion
from nodes.unet_options import torch_compile_model
from tests.nodes.contexts import demo, demo_store


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 4, 1)).requires_grad_(False)


def test_a_compiled_network_computes_the_same_and_leaves_the_module_as_it_was() -> None:
    """For another size too, and with other weights in it; dynamo's own backend is the quickest."""
    module = layers()
    before = networks.trace(module, tensors=True)
    network = compiled_module(module, "eager")
    with torch.no_grad():
        for side in (4, 6):
            x = torch.randn(2, 4, side, side)
            torch.testing.assert_close(network(x), module(x))
        assert networks.trace(module, tensors=True) == before
        networks.assign(module, [("2.weight", torch.ones(4, 8, 1, 1))])
        torch.testing.assert_close(network(x), module(x))


def test_what_the_backend_says_is_said() -> None:
    def broken(_graph: Any, _inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler was found\nmore of it")

    with (
        pytest.raises(InputError, match="found: no C\\+\\+ compiler was found; install what that needs"),
        torch.no_grad(),
    ):
        compiled_module(layers(), broken)(torch.zeros(1, 4, 2, 2))


class _Doubled:
    def install(self, wiring: Wiring, moment: Moment) -> None:
        wiring.after(wiring.network, lambda features: features * 2)


def test_a_call_that_is_changed_is_not_one_of_the_compiled_network() -> None:
    """Epsilon 1 at sigma 2 is x - 2; the compiled network says 3, the plain one 1, and doubled 2."""

    def says(value: float) -> nn.Module:
        class Says(nn.Module):
            def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
                return torch.full_like(x, value)

        return Says()

    plain = says(1.0)
    denoiser = Denoiser(plain, stable_diffusion(), Epsilon(), compiled=says(3.0))
    asked = torch.zeros(1, 4, 2, 2), torch.tensor([2.0]), torch.zeros(1, 1, 1)
    assert float(denoiser(*asked).mean()) == -6
    assert float(denoiser.changed(altered(plain, _Doubled()))(*asked).mean()) == -4
    assert float(replace(denoiser, compiled=None)(*asked).mean()) == -2


def test_a_model_is_compiled_once() -> None:
    """Nothing happens before it is called; a recipe without the setting compiles nothing."""
    model: ModelRef = torch_compile_model(demo("unet"), "inductor")
    found = []
    for _ in range(2):
        with demo_store().lease(model) as loaded:
            found.append(compiled(loaded))
    assert found[0] is found[1] is not None
    with demo_store().lease(demo("unet")) as loaded:
        assert compiled(loaded) is None
        with pytest.raises(InputError, match="expected a CUDA device for the backend cudagraphs, found cpu"):
            compiled(replace(loaded, ref=torch_compile_model(demo("unet"), "cudagraphs")))
        streamed = replace(loaded, ref=model, module=networks.build(loaded.config))
    with pytest.raises(InputError, match="found one that is streamed; give a larger --vram-budget"):
        compiled(streamed)
