"""What steers a network from inside while it runs: the protocol between guidance and ControlNets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from torch import Tensor

from nodes.diffusion.tiles import Box

DOWN: Final = "down_block_additional_residuals"
MID: Final = "mid_block_additional_residual"
WITHIN: Final = "down_intrablock_additional_residuals"
BLOCKS: Final = "block_controlnet_hidden_states"
"""What diffusers calls that which is added inside of its networks: behind a UNet's way down, in its middle, on its way down, and behind
a transformer's layers."""


@dataclass(frozen=True, slots=True)
class View:
    """Which windows of a sample of ``height`` x ``width`` cells a call shows, one after the other; ``shift`` rows and columns is what the
    sample was rolled by before."""

    height: int
    width: int
    boxes: tuple[Box, ...]
    shift: tuple[int, int] = (0, 0)

    def parts(self, picture: Tensor) -> list[Tensor]:
        """The windows of a picture [B,C,H,W] that lies over the whole sample, some times larger."""
        times = picture.shape[-1] // self.width
        rolled = picture.roll((self.shift[0] * times, self.shift[1] * times), (-2, -1)) if any(self.shift) else picture
        return [box.scaled(times, 1).of(rolled) for box in self.boxes]


@dataclass(frozen=True, slots=True, eq=False)
class ControlCall:
    """A call of the network that is about to be made, for ``entries`` entries of conditioning with as many samples each.

    ``x`` [N,C,h,w] and ``context`` [N,T,D] are what the network is given, in its dtype; ``timestep`` is float32 [N]. ``context`` is
    the text for the nets, if they have one of their own. With a ``view`` the samples are windows of larger ones, all entries of one
    window before those of the next.
    """

    x: Tensor
    timestep: Tensor
    context: Tensor
    inputs: Mapping[str, Tensor]
    sigma: float
    entries: int = 1
    view: View | None = None


class Control(Protocol):
    """The nets of an entry of conditioning."""

    def told(self, call: ControlCall) -> Mapping[str, Any]:
        """What the network is told beside its inputs: what is to be added inside of it, by the names of diffusers."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Steered:
    """The control of a call, with the text for its nets [N,T,D] if that is another than the network's."""

    control: Control
    entries: int
    context: Tensor | None = None
