"""A sampling's state as bytes: kept now and then while it runs, found again after a crash."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Final

import torch
from safetensors.torch import load, save

from nodes.diffusion.samplers import State, from_tensors, to_tensors

_NUMBERS: Final = "sampling_state"


def to_bytes(state: State) -> bytes:
    """``state`` as a safetensors file, its numbers in the metadata."""
    tensors, numbers = to_tensors(state)
    on_cpu = {name: tensor.cpu() for name, tensor in tensors.items()}
    return save(on_cpu, metadata={_NUMBERS: json.dumps(numbers)})


def from_bytes(data: bytes, device: torch.device | str = "cpu") -> State:
    """The inverse of ``to_bytes``, with the latents on ``device``."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return from_tensors(load(data), json.loads(header["__metadata__"][_NUMBERS]), device)


class Keeper:
    """Hands a run its last kept state, and keeps one every so often."""

    def __init__(
        self, kept: bytes | None, write: Callable[[bytes], None], device: torch.device, *, every: float = 10.0
    ) -> None:
        """``every``: seconds of work that are lost at most when the process dies."""
        self.found = from_bytes(kept, device) if kept is not None else None
        self._write = write
        self._every = every
        self._last = time.monotonic()

    def keep(self, state: State) -> None:
        """``state`` may be written, if the last one was long enough ago. The last step's result is the node's own to keep."""
        if state.done or time.monotonic() - self._last < self._every:
            return
        self.park(state)

    def park(self, state: State) -> None:
        """``state`` is written now: whoever stops here may go on from it."""
        self._write(to_bytes(state))
        self._last = time.monotonic()
