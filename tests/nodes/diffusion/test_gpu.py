"""What only a CUDA device can show: that pictures are the CPU's, and that memory is what the budget says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from nodes.diffusion import sample, text, unet, vae
from nodes.diffusion.budget import Budget
from nodes.diffusion.devices import device_policy
from nodes.diffusion.store import LocalModelStore
from tests.nodes.diffusion.conftest import MakeRef

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PLENTY = Budget(1 << 40)


@pytest.fixture
def empty_device() -> Iterator[None]:
    """A device on which nothing of earlier tests is left to be counted."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.cuda.empty_cache()


def picture(store: LocalModelStore, demo: MakeRef, side: int = 16) -> Tensor:
    """A red circle on blue, [H,W,3], ten steps of dpmpp_2m."""
    with store.lease(demo("clip")) as clip:
        positive = text.encode("a red circle on a blue background", clip)
        negative = text.encode("", clip)
    latent: Any = {"samples": torch.zeros(1, 4, side, side)}
    settings = sample.Settings(seed=7, steps=10, cfg=5.0, sampler="dpmpp_2m", scheduler="karras")
    with store.lease(demo("unet"), working_bytes=unet.working_bytes(latent["samples"].shape)) as model:
        latent = sample.sample_latent(unet.denoiser(model), settings, positive, negative, latent)
    with store.lease(demo("vae")) as model:
        return vae.decode(latent["samples"], model)[0]


@pytest.mark.parametrize(("precision", "most"), [("float32", 0.01), ("float16", 0.03), ("bfloat16", 0.06)])
def test_pictures_are_those_of_the_cpu(demo: MakeRef, precision: Any, most: float) -> None:
    """The same seed gives the same picture on both, but for rounding."""
    expected = picture(LocalModelStore(device_policy("cpu"), PLENTY), demo)
    found = picture(LocalModelStore(device_policy("cuda", precision), PLENTY), demo)
    assert float((found - expected).abs().mean()) < most


def test_a_streamed_picture_is_the_resident_one(demo: MakeRef) -> None:
    """With a budget of one byte every block visits the device in turn, and nothing else changes."""
    resident = picture(LocalModelStore(device_policy("cuda", "float32"), PLENTY), demo)
    streamed = picture(LocalModelStore(device_policy("cuda", "float32"), Budget(1)), demo)
    assert float((streamed - resident).abs().max()) < 2 / 255


def test_evicted_models_leave_the_device(empty_device: None, demo: MakeRef) -> None:
    """After an eviction the device holds what it held before, to within a megabyte."""
    before = torch.cuda.memory_allocated()
    store = LocalModelStore(device_policy("cuda"), PLENTY)
    picture(store, demo)
    assert torch.cuda.memory_allocated() - before > 5_000_000
    store.evict_all()
    assert abs(torch.cuda.memory_allocated() - before) < 1 << 20


@pytest.mark.parametrize("side", [16, 32, 64])
def test_a_step_takes_no_more_than_was_asked_for(empty_device: None, demo: MakeRef, side: int) -> None:
    """The working memory that a sampling announces covers the peak of its steps."""
    store = LocalModelStore(device_policy("cuda", "float32"), PLENTY)
    with store.lease(demo("unet")) as model:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with torch.no_grad():
            x, context = torch.randn(2, 4, side, side, device="cuda"), torch.randn(2, 77, 64, device="cuda")
            model.module(x, torch.tensor([500.0] * 2, device="cuda"), context, return_dict=False)
        peak = torch.cuda.max_memory_allocated() - before
    assert peak < unet.working_bytes((1, 4, side, side))
