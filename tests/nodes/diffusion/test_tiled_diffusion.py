"""Windows over a large latent: which there are, and what their average is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.controlled import View
from nodes.diffusion.recall import Call, Recalls
from nodes.diffusion.sample import Settings, sample_latent
from nodes.diffusion.store import LocalModelStore
from nodes.diffusion.tiled_diffusion import Method, Windows, windows, with_windows
from nodes.diffusion.unet import denoiser
from tests.nodes.diffusion.conftest import MakeRef

METHODS: tuple[Method, ...] = ("MultiDiffusion", "Mixture of Diffusers", "SpotDiffusion")
SIGMA = torch.tensor([2.0, 2.0])
NO_CONTEXT = torch.zeros(2, 1, 1)


def local(
    x: Tensor, sigma: Tensor, context: Tensor, inputs: Mapping[str, Tensor], view: View | None, call: Call | None
) -> Tensor:
    """A denoiser that looks at one cell at a time, and at what lies over it."""
    over = inputs["over"].unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-1, -3))
    made: Tensor = x * 2 + over + context.mean() + sigma.view(-1, 1, 1, 1)
    return made


@pytest.mark.parametrize("method", METHODS)
def test_windows_of_a_local_denoiser_are_the_whole(method: Method) -> None:
    """Whatever their weights; inputs twice as fine as the latent follow them; so many are seen at once as was said."""
    x, over = torch.randn(2, 4, 21, 30), torch.randn(2, 1, 42, 60)
    seen: list[tuple[int, ...]] = []

    def run(
        x: Tensor, sigma: Tensor, context: Tensor, inputs: Mapping[str, Tensor], view: View | None, call: Call | None
    ) -> Tensor:
        seen.append(tuple(x.shape))
        assert view is not None
        assert torch.equal(torch.cat(view.parts(over)), inputs["over"])
        return local(x, sigma, context, inputs, view, None)

    made = Windows(method, 12, 9, 4, 3).denoised(x, SIGMA, NO_CONTEXT, {"over": over}, run)
    assert torch.allclose(made, local(x, SIGMA, NO_CONTEXT, {"over": over}, None, None), atol=1e-5)
    assert {shape[2:] for shape in seen} == {(9, 12)}
    assert {shape[0] for shape in seen} <= {2, 4, 6}
    assert max(shape[0] for shape in seen) == 6


@pytest.mark.parametrize("method", METHODS)
def test_windows_know_their_own_earlier_calls(method: Method) -> None:
    """Each finds what it kept, for its own samples, whoever they are batched with; windows that move find nothing."""
    x = torch.randn(2, 4, 21, 30)
    found: list[Tensor | None] = []

    def run(
        x: Tensor, sigma: Tensor, context: Tensor, inputs: Mapping[str, Tensor], view: View | None, call: Call | None
    ) -> Tensor:
        if call is not None:
            found.append(call.found.get("seen"))
            call.kept["seen"] = x
        return x

    def seen(samples: Tensor, names: list[str], memory: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        recalls = Recalls(memory)
        call = recalls.call(names)
        sigma, context = SIGMA[:1].repeat(len(samples)), NO_CONTEXT[:1].repeat(len(samples), 1, 1)
        Windows(method, 12, 9, 4, 5).denoised(samples, sigma, context, {}, run, call)
        recalls.keep(names, call)
        return recalls.remembered({})

    memory = seen(x, ["first", "second"], {})
    assert all(tensor is None for tensor in found)
    found.clear()
    seen(x[1:], ["second"], memory)
    boxes = Windows(method, 12, 9, 4, 5).boxes(21, 30)
    if method == "SpotDiffusion":
        assert not found
    else:
        own = [tensor for tensor in found if tensor is not None]
        assert torch.equal(torch.cat(own), torch.cat([box.of(x[1:]) for box in boxes]))


def test_overlapping_windows_are_averaged() -> None:
    """By hand: a denoiser that says the mean of what it sees, two windows of four cells that share two."""
    x = torch.tensor([0.0, 0.0, 2.0, 2.0, 8.0, 8.0]).reshape(1, 1, 1, 6).repeat(1, 1, 4, 1)

    def mean(
        x: Tensor, sigma: Tensor, context: Tensor, inputs: Mapping[str, Tensor], view: View | None, call: Call | None
    ) -> Tensor:
        return x.mean((-1, -2), keepdim=True).expand_as(x)

    def made(method: Method) -> Tensor:
        found = Windows(method, 4, 4, 2, 1)
        assert [(box.left, box.right) for box in found.boxes(4, 6)] == [(0, 4), (2, 6)]
        return found.denoised(x, SIGMA[:1], NO_CONTEXT[:1], {}, mean)[0, 0, 0]

    assert made("MultiDiffusion").tolist() == [1, 1, 3, 3, 5, 5]
    mixed = made("Mixture of Diffusers")
    # exp(-d^2 / (2 * 0.01)) at distances of 1/8 and 3/8 of a window from its middle
    near, far = (torch.exp(torch.tensor(-(d**2) / 0.02)) for d in (1 / 8, 3 / 8))
    assert mixed[2].item() == pytest.approx(float((1 * near + 5 * far) / (near + far)))
    assert mixed[3].item() == pytest.approx(float((1 * far + 5 * near) / (near + far)))


def test_spots_move_from_step_to_step() -> None:
    """And are where they were when a step comes again."""
    found = Windows("SpotDiffusion", 8, 8, 4, 1)
    x = torch.randn(1, 4, 16, 16)

    def mean(
        x: Tensor, sigma: Tensor, context: Tensor, inputs: Mapping[str, Tensor], view: View | None, call: Call | None
    ) -> Tensor:
        return x.mean((-1, -2), keepdim=True).expand_as(x)

    first, again, later = (
        found.denoised(x, torch.tensor([sigma]), NO_CONTEXT[:1], {}, mean) for sigma in (2.0, 2.0, 1.0)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_a_model_in_windows(demo: MakeRef, demo_store: LocalModelStore) -> None:
    """Windows as large as the picture change nothing, smaller ones do; areas, masks and inpainting work beside them, and a lease leaves no
    trace."""
    latent = torch.zeros(1, 4, 8, 12)
    settings = Settings(seed=1, steps=1, cfg=2.0, sampler="euler", scheduler="normal")
    with demo_store.lease(demo("unet")) as loaded:
        plain = denoiser(loaded)
        width = plain.reader.hearing.width if plain.reader.hearing else 0
        text = torch.randn(1, 8, width, generator=torch.Generator().manual_seed(0))
        mask = torch.zeros(1, 1, 8, 12)
        mask[..., :6] = 1

        def sampled(size: int) -> Tensor:
            ref = with_windows(loaded.ref, "MultiDiffusion", width=size, height=size, overlap=32, at_once=2)
            tiled = denoiser(replace(loaded, ref=ref))
            positive = [[text, {}], [text * 2, {"area": (4, 4, 2, 4), "strength": 0.5}]]
            given = {"samples": latent + 1, "noise_mask": mask}
            result: Tensor = sample_latent(tiled, settings, positive, [[text * 0, {}]], given)["samples"]
            return result

        whole, small = sampled(512), sampled(64)
    assert torch.isfinite(small).all()
    assert not torch.allclose(whole, small)
    assert torch.allclose(small[..., 6:], torch.ones(1, 4, 8, 6), atol=1e-5)
    assert windows(loaded.ref, 8) is None
    with pytest.raises(InputError, match="at least 32 pixels a side, found 16 x 64"):
        windows(with_windows(loaded.ref, "MultiDiffusion", width=16, height=64, overlap=0, at_once=1), 8)
