"""Node types of packs as plain data, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import msgpack
import pytest

from engine.errors import DefinitionError
from engine.packs.describe import from_plain, to_plain
from engine.spec import InputSpec, NodeSpec
from tests.engine.packs.classes import Base, spec_of


@dataclass
class Hooks:
    """Answers that can be told apart, and what was asked."""

    asked: list[Any] = field(default_factory=list)

    def choices(self, type_: str, name: str) -> Sequence[str]:
        self.asked.append(("choices", type_, name))
        return ["from", "there"]

    def check(self, type_: str, arguments: Mapping[str, Any]) -> str | None:
        self.asked.append(("check", type_, dict(arguments)))
        return "checked"

    def fingerprint(self, type_: str, arguments: Mapping[str, Any]) -> Any:
        self.asked.append(("fingerprint", type_, dict(arguments)))
        return "printed"

    def describe(self, type_: str) -> dict[str, Any]:
        self.asked.append(("describe", type_))
        return {"name": "described"}


class Everything(Base):
    """Declares about all there is."""

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {
            "required": {
                "number": ("INT", {"default": 3, "min": 0, "max": 2**64 - 1, "control_after_generate": True}),
                "share": ("FLOAT", {"default": 0.5, "min": 0.0, "step": 0.1, "round": 0.01, "display": "slider"}),
                "text": ("STRING", {"multiline": True, "dynamicPrompts": True, "tooltip": "a \ud800 text"}),
                "choice": (["a", "b"], {"default": "b"}),
                "image": ("IMAGE,MASK",),
            },
            "optional": {
                "late": ("INT", {"lazy": True}),
                "link": ("*", {"rawLink": True}),
                "forced": ("STRING", {"forceInput": True, "default": None}),
            },
            "hidden": {"id": "UNIQUE_ID", "unseen": "INT"},
        }

    RETURN_TYPES = ("IMAGE", ["a", "b"])
    RETURN_NAMES = ("picture", "names")
    OUTPUT_IS_LIST = (False, True)
    OUTPUT_TOOLTIPS = ("one", None)
    OUTPUT_NODE = True
    INPUT_IS_LIST = True
    DESCRIPTION = "What it does"
    DEPRECATED = True
    EXPERIMENTAL = True
    MEZZOTINT_PURE = True

    @classmethod
    def IS_CHANGED(cls, **inputs: Any) -> Any:  # noqa: N802
        return 1

    @classmethod
    def VALIDATE_INPUTS(cls, number: Any, input_types: Any) -> Any:  # noqa: N802
        return True

    async def go(self, **inputs: Any) -> Any:
        return ()


def _sent(spec: NodeSpec, hooks: Hooks) -> NodeSpec:
    packed = msgpack.packb(to_plain(spec), unicode_errors="surrogatepass")
    return from_plain(msgpack.unpackb(packed, unicode_errors="surrogatepass"), hooks)


CALLED = {"fn", "inputs", "check", "fingerprint", "describe"}
"""What is no data: it is asked over there."""


@pytest.mark.parametrize("cls", [Base, Everything])
def test_all_that_is_data_comes_back(cls: Any) -> None:
    """Every field of the type and of its inputs, through msgpack."""
    spec = spec_of(cls, title="A title")
    again = _sent(spec, Hooks())
    for entry in fields(NodeSpec):
        if entry.init and entry.name not in CALLED:
            assert getattr(again, entry.name) == getattr(spec, entry.name), entry.name
    assert len(again.inputs) == len(spec.inputs)
    for one, other in zip(spec.inputs, again.inputs, strict=True):
        for entry in fields(InputSpec):
            if entry.name != "choices":
                assert getattr(other, entry.name) == getattr(one, entry.name), (one.name, entry.name)
        assert (other.choices is None) == (one.choices is None)
    assert (again.check is None, again.fingerprint is None) == (spec.check is None, spec.fingerprint is None)


def test_what_is_no_data_is_asked_there() -> None:
    """Choices, checks, fingerprints and the description, each for this type and with its arguments."""
    hooks = Hooks()
    again = _sent(spec_of(Everything), hooks)
    assert again.check is not None
    assert again.fingerprint is not None
    assert again.describe is not None
    choice = again.input("choice")
    assert choice is not None
    assert choice.options == ("from", "there")
    assert again.check(number=1) == "checked"
    assert again.fingerprint(number=2) == "printed"
    assert again.describe() == {"name": "described"}
    assert hooks.asked == [
        ("choices", "Everything", "choice"),
        ("check", "Everything", {"number": 1}),
        ("fingerprint", "Everything", {"number": 2}),
        ("describe", "Everything"),
    ]


def test_its_function_is_not_here() -> None:
    """Calling it says where it is."""
    with pytest.raises(DefinitionError, match="Base runs in the process that loaded pack some_pack, not in this one"):
        _sent(spec_of(Base), Hooks()).fn(value=1)


@pytest.mark.parametrize(
    ("default", "sent"),
    [
        (2**64 - 1, 2**64 - 1),
        (-(2**63), -(2**63)),
        (2**64, float(2**64)),
        (-(2**63) - 1, -float(2**63)),
        (True, True),
        (None, None),
        ([1, "a"], [1, "a"]),
        ({"a": 1}, {"a": 1}),
        (10**400, math.inf),
        (-(10**400), -math.inf),
        (object, str(object)),
        ([2**70, {"a": {"b": 2**70}}], [float(2**70), {"a": {"b": float(2**70)}}]),
        ({1: "a", ("a", 1): {3}}, {"1": "a", "('a', 1)": "{3}"}),
        ((1, (2,)), [1, [2]]),
    ],
)
def test_defaults_that_cannot_be_sent_are_sent_as_what_is_nearest(default: Any, sent: Any) -> None:
    """Numbers beyond 64 bits as floats, odd objects and keys as text, however deep; MISSING stays missing."""

    class Odd(Base):
        @classmethod
        def INPUT_TYPES(cls) -> Any:  # noqa: N802
            return {"required": {"value": ("INT", {"default": default}), "bare": ("INT",)}}

    value, bare = _sent(spec_of(Odd), Hooks()).inputs
    assert value.default == sent
    assert type(value.default) is type(sent)
    assert bare.default is spec_of(Odd).inputs[1].default
