"""How a process uses its machine: decided once, where the process starts, and passed to whom it concerns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from engine.errors import UsageError

_UNITS: Final[Mapping[str, int]] = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "K": 2**10, "M": 2**20, "G": 2**30, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_AMOUNT: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*|%)\s*")

BUDGET_SHARE: Final = 0.9
"""Share of the free memory that models may take when no budget is given."""


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
    checkpoint_seconds: float = 10.0
    """How much of a long node's work is lost at most when the process dies."""

    def __post_init__(self) -> None:
        """Raises UsageError for a budget that is none: long before anybody knows the device, and what is free there."""
        parse_budget(self.vram_budget, 0)


def parse_budget(text: str | None, free: int) -> int:
    """Bytes of a budget such as ``4GB``, ``3.5GiB``, ``6000000000`` or ``80%`` of the ``free`` bytes.

    None is the default share of what is free. Raises UsageError when the text is no positive amount.
    """
    if text is None:
        return int(free * BUDGET_SHARE)
    found = _AMOUNT.fullmatch(text)
    unit = found[2].upper() if found else ""
    if found is None or (unit != "%" and unit not in _UNITS) or float(found[1]) <= 0:
        raise UsageError(f"expected a memory budget such as 4GB or 80%, found {text!r}")
    return int(free * float(found[1]) / 100) if unit == "%" else int(float(found[1]) * _UNITS[unit])
