"""What steers a network from inside while it runs: the protocol between guidance and ControlNets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from torch import Tensor

DOWN: Final = "down_block_additional_residuals"
MID: Final = "mid_block_additional_residual"
WITHIN: Final = "down_intrablock_additional_residuals"
BLOCKS: Final = "block_controlnet_hidden_states"
"""What diffusers calls that which is added inside of its networks: behind a UNet's way down, in its middle, on its way down, and behind
a transformer's layers."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call of the network that is about to be made, for ``entries`` entries of conditioning with as many samples each.

    ``x`` [N,C,h,w] and ``context`` [N,T,D] are what the network is given, in its dtype; ``timestep`` is float32 [N]. ``context`` is
    the text for the nets, if they have one of their own.
    """

    x: Tensor
    timestep: Tensor
    context: Tensor
    inputs: Mapping[str, Tensor]
    sigma: float
    entries: int = 1


class Control(Protocol):
    """The nets of an entry of conditioning."""

    def told(self, call: Call) -> Mapping[str, Any]:
        """What the network is told beside its inputs: what is to be added inside of it, by the names of diffusers."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Steered:
    """The control of a call, with the text for its nets [N,T,D] if that is another than the network's."""

    control: Control
    entries: int
    context: Tensor | None = None
