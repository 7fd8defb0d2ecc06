"""Devices, precisions and amounts of memory, as people name them."""

from __future__ import annotations

import pytest
import torch

from engine.errors import UsageError, is_out_of_memory
from engine.run.settings import DeviceSettings, parse_budget
from nodes.diffusion.devices import device_policy, free_memory


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4GB", 4 * 10**9), ("3.5GiB", int(3.5 * 2**30)), ("512M", 512 * 2**20), ("6000000000", 6 * 10**9), ("80%", 800),
     (" 2 gb ", 2 * 10**9), (None, 900)],
)  # fmt: skip
def test_budget_is_read(text: str | None, expected: int) -> None:
    """Bytes, decimal and binary units and shares of the free memory are understood."""
    assert parse_budget(text, 1000) == expected


@pytest.mark.parametrize("text", ["", "much", "-4GB", "0", "4 PB", "%", "1e9", "nan"])
def test_impossible_budget_is_refused(text: str) -> None:
    """What is no positive amount is a usage error that shows the form."""
    with pytest.raises(UsageError, match="such as 4GB or 80%"):
        parse_budget(text, 1000)
    with pytest.raises(UsageError, match="such as 4GB or 80%"):
        DeviceSettings(vram_budget=text)


def test_cpu_runs_in_float32_unless_asked() -> None:
    """On the CPU all parts are float32; bfloat16 is an option for all of them, float16 spares the VAE."""
    parts = ("unet", "clip", "vae")
    assert {device_policy("cpu").dtype(part) for part in parts} == {torch.float32}  # type: ignore[arg-type]
    assert {device_policy("cpu", "bfloat16").dtype(part) for part in parts} == {torch.bfloat16}  # type: ignore[arg-type]
    assert device_policy("cpu", "float16").dtype("unet") == torch.float16
    assert device_policy("cpu", "float16").dtype("vae") == torch.float32


@pytest.mark.parametrize("device", ["gpu", "cuda:99", ""])
def test_absent_device_is_a_usage_error(device: str) -> None:
    """A device that does not exist, or is not in this machine, is refused in one line."""
    with pytest.raises(UsageError) as caught:
        device_policy(device)
    assert "\n" not in str(caught.value)


def test_free_memory_is_less_than_all_there_is() -> None:
    """The CPU's free memory is a positive number of bytes that a machine can have."""
    assert 2**20 < free_memory(torch.device("cpu")) < 2**50


def test_out_of_memory_is_told_from_other_errors() -> None:
    """An allocation that cannot succeed counts as out of memory, a wrong shape does not."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as other:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(other.value)
    assert is_out_of_memory(MemoryError())
