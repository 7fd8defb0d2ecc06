"""How a process uses its machine: decided once, where the process starts, and passed to whom it concerns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """``None`` leaves a choice to the machine at hand."""

    device: str | None = None
    """``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"xpu"`` or ``"cpu"``."""
    dtype: str | None = None
    """``"float32"``, ``"float16"`` or ``"bfloat16"``: what models run in."""
    vram_budget: str | None = None
    """Bytes, ``"4GB"`` or ``"80%"`` of the device's memory that models may hold."""
    noise_device: str | None = None
    """``"cpu"`` draws every noise on the CPU, so that a picture does not depend on the device."""
