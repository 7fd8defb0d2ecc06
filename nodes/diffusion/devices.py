"""Where models run and in which precision, and how much memory there is.

Half precision on a GPU, float32 on the CPU; the autoencoder stays in float32 everywhere unless bfloat16 is asked for,
because its activations outgrow float16.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.errors import UsageError
from engine.models import Part
from engine.numerics import DEFAULT_PRECISION, Precision, device_kind
from nodes.diffusion.parts import PARTS


@dataclass(frozen=True, slots=True)
class DevicePolicy:
    """A device and the precision of each part on it."""

    device: torch.device
    dtypes: Mapping[Part, torch.dtype]

    def dtype(self, part: Part) -> torch.dtype:
        return self.dtypes[part]


def device_policy(device: str | None = None, precision: Precision | None = None) -> DevicePolicy:
    """The policy for a device by name (None or "auto": the best there is) and a precision (None: the device's default).

    Raises UsageError when the device is not there.
    """
    kind = device_kind(device)
    name = kind if device in (None, "auto") else str(device)
    _check_available(name)
    main = getattr(torch, precision or DEFAULT_PRECISION[kind])
    vae = torch.bfloat16 if precision == "bfloat16" else torch.float32
    dtypes = {"main": main, "own": vae, "full": torch.float32}
    return DevicePolicy(torch.device(name), {part: dtypes[kind.precision] for part, kind in PARTS.items()})


def _check_available(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"expected a device that torch can use, found {name}: {str(error).splitlines()[0]}") from error


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on ``device``."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "xpu":
        return int(torch.xpu.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return _free_main_memory()


def _free_main_memory() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    # elsewhere only the total is known without another package; half of it is a careful guess
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def release_unused(device: torch.device) -> None:
    """Give memory that torch keeps for later back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "xpu":
        torch.xpu.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
