"""What a network's attention puts out, kept for later calls in which it is not computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn

from engine.errors import InputError
from nodes.diffusion.alterations import Wiring
from nodes.diffusion.recall import Call
from nodes.diffusion.spared import InPlace

Kind = Literal["self", "cross"]
"""Whether pixels look at each other, in a transformer at the text as well, or at the text alone."""

_PARTS = {"BasicTransformerBlock": ("attn1", "attn2"), "JointTransformerBlock": ("attn", "attn2")}


class Place(NamedTuple):
    """An attention, ``number`` of its network, as the child ``name`` of ``owner``."""

    owner: nn.Module
    name: str
    number: int

    @property
    def module(self) -> Any:
        return getattr(self.owner, self.name)

    @property
    def kind(self) -> Kind:
        return "cross" if self.module.is_cross_attention else "self"


def attentions(network: nn.Module) -> list[Place]:
    """All of a UNet or transformer, in the order of its modules. Raises InputError where there is none."""
    found: list[Place] = []
    for block in network.modules():
        for name in _PARTS.get(type(block).__name__, ()):
            if getattr(block, name, None) is not None:
                found.append(Place(block, name, len(found)))
    if not found:
        raise InputError("expected a network with attention for this cache, found none; choose another", input="model")
    return found


class Policy(Protocol):
    """Says which attention is computed in a call."""

    def served(self, place: Place) -> tuple[Tensor, ...] | None:
        """What it is taken to put out; None where it has to be computed."""
        ...

    def computed(self, place: Place, outputs: tuple[Tensor, ...]) -> None:
        """What it put out: for pixels [B,T,C] and, in a transformer, for the text [B,U,C]."""
        ...


class _Kept(InPlace):
    """In the place of an attention."""

    def __init__(self, place: Place, policy: Policy) -> None:
        super().__init__(place.module)
        self.place, self.policy = place, policy

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        served = self.policy.served(self.place)
        if served is not None and _fit(served, hidden_states, kwargs.get("encoder_hidden_states")):
            return served if len(served) > 1 else served[0]
        outputs = self.module(hidden_states, *args, **kwargs)
        self.policy.computed(self.place, outputs if isinstance(outputs, tuple) else (outputs,))
        return outputs


def _fit(served: tuple[Tensor, ...], states: Tensor, text: Tensor | None) -> bool:
    """Whether they are for as many tokens as there are now."""
    asked = [states, text][: len(served)]
    return all(it is not None and out.shape[:2] == it.shape[:2] for out, it in zip(served, asked, strict=True))


def install(wiring: Wiring, policy: Policy, wanted: Callable[[Place], bool] = lambda place: True) -> None:
    """Put on all attention that is ``wanted``."""
    places = attentions(wiring.network)
    for place in filter(wanted, places):
        wiring.swap(place.owner, place.name, _Kept(place, policy))


def found(call: Call, name: str) -> tuple[Tensor, ...]:
    """What an earlier call has kept by ``name.0``, ``name.1``, ..."""
    tensors: list[Tensor] = []
    while (tensor := call.found.get(f"{name}.{len(tensors)}")) is not None:
        tensors.append(tensor)
    return tuple(tensors)


def keep(call: Call, name: str, tensors: tuple[Tensor, ...] | list[Tensor]) -> None:
    """For ``found``."""
    call.kept |= {f"{name}.{number}": tensor for number, tensor in enumerate(tensors)}
