"""What INPUT_TYPES says, in all the ways packs write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from functools import partial
from typing import Any

import pytest

from engine.errors import DefinitionError
from engine.packs.hidden import hidden_inputs, unseen_inputs
from engine.packs.info import plain
from engine.packs.inputs import input_types, read_inputs, socket_type, takes_any_input
from engine.spec import MISSING, InputSpec, Range


class AnyType(str):
    """A type that is never unequal to another."""

    def __ne__(self, other: object) -> bool:
        return False


class AlwaysEqual(AnyType):
    """One that says both."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


class ContainsAny(dict[str, Any]):
    """Optional inputs of any name."""

    def __init__(self, type_: Any, data: Mapping[str, Any] | None = None) -> None:
        self.type = type_
        super().__init__(data or {})

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key) if key in list(self) else (self.type,)


class Kind(str, Enum):  # noqa: UP042 - as packs write them, and with another str() than a StrEnum
    """Types as members of an enumeration."""

    IMAGE = "IMAGE"


def _read(declared: Any, group: str = "required") -> InputSpec:
    (found,) = read_inputs(lambda: {group: {"x": declared}})
    return found


def _differences(spec: InputSpec) -> dict[str, Any]:
    """What is not as in a plain required input."""
    usual = asdict(InputSpec("x", spec.type, True))
    return {
        name: value for name, value in asdict(spec).items() if name != "choices" and repr(value) != repr(usual[name])
    }


@pytest.mark.parametrize(
    ("declared", "type_", "differences"),
    [
        (("IMAGE",), "IMAGE", {}),
        (["IMAGE"], "IMAGE", {}),
        ("IMAGE", "IMAGE", {}),
        ((Kind.IMAGE,), "IMAGE", {}),
        (("IMAGE", None), "IMAGE", {}),
        (("IMAGE", {}), "IMAGE", {}),
        (("IMAGE,MASK",), "IMAGE,MASK", {}),
        (("INT,FLOAT", {"default": 1, "min": 0}), "INT,FLOAT", {"default": 1}),
        (("*",), "*", {}),
        ((AnyType("*"), {}), "*", {}),
        ((AlwaysEqual("whatever"),), "*", {}),
        (("INT", {"default": 3}), "INT", {"default": 3}),
        (("INT", {"min": 1, "max": 9, "step": 2}), "INT", {"range": asdict(Range(1, 9, 2))}),
        (("INT", {"min": 1}), "INT", {"range": asdict(Range(1, 2**64))}),
        (("FLOAT", {"max": 0.5, "round": 0.01}), "FLOAT", {"range": asdict(Range(-(2**64), 0.5, None, 0.01))}),
        (("FLOAT", {"step": 0.1}), "FLOAT", {}),
        (("FLOAT", {"min": "0", "max": True}), "FLOAT", {}),
        (("STRING", {"min": 1}), "STRING", {}),
        (("INT", {"control_after_generate": True}), "INT", {"seed": True}),
        (("FLOAT", {"control_after_generate": True}), "FLOAT", {}),
        (
            ("STRING", {"multiline": True, "dynamicPrompts": True, "tooltip": "t"}),
            "STRING",
            {"multiline": True, "dynamic_prompts": True, "tooltip": "t"},
        ),
        (("STRING", {"default": "a", "tooltip": 3, "placeholder": "p"}), "STRING", {"default": "a"}),
        (("INT", {"lazy": True}), "INT", {"lazy": True}),
        (("INT", {"rawLink": True}), "INT", {"raw_link": True}),
        (("STRING", {"forceInput": True}), "STRING", {"socket_only": True}),
        (("INT", {"display": "slider"}), "INT", {"display": "slider"}),
    ],
)
def test_one_input(declared: Any, type_: str, differences: dict[str, Any]) -> None:
    """Type, options and what is made of odd ones."""
    spec = _read(declared)
    assert (spec.type, type(spec.type), spec.options) == (type_, str, None)
    assert _differences(spec) == differences


@pytest.mark.parametrize(
    ("declared", "options", "default"),
    [
        ((["a", "b"],), ("a", "b"), MISSING),
        ((("a", "b"), {"default": "b"}), ("a", "b"), "b"),
        (([1, 2.5, True],), (1, 2.5, True), MISSING),
        (([],), (), MISSING),
        (("COMBO", {"options": ["a", "b"]}), ("a", "b"), MISSING),
        (("COMBO", {"options": ["a"], "default": "c"}), ("a",), "c"),
        (("COMBO",), None, MISSING),
        (("COMBO", {"options": ["a"], "multiselect": True}), None, MISSING),
        (("COMBO", {"options": ["a"], "multi_select": {"placeholder": "p"}}), None, MISSING),
        ((["a"], {"remote": {"route": "/list"}}), None, MISSING),
        ((["a"], {"image_upload": True}), ("a",), MISSING),
    ],
)
def test_choices(declared: Any, options: Any, default: Any) -> None:
    """A list of values, or a COMBO with options; where only an editor knows them there are none to check."""
    spec = _read(declared)
    assert (spec.type, spec.options, spec.default) == ("COMBO", options, default)


def test_choices_are_looked_up_each_time() -> None:
    """A file that has come in the meantime can be chosen."""
    files = ["a.png"]
    (spec,) = read_inputs(lambda: {"required": {"file": (sorted(files),)}})
    assert spec.options == ("a.png",)
    files.append("b.png")
    assert spec.options is not None
    assert list(spec.options) == ["a.png", "b.png"]


def test_groups_say_what_is_required() -> None:
    """In the order of the declaration; a group may be missing, None, or empty."""
    declared = {"optional": {"b": ("INT",)}, "required": {"c": ("INT",), "a": ("INT",)}}
    assert [(spec.name, spec.required) for spec in read_inputs(lambda: declared)] == [
        ("c", True),
        ("a", True),
        ("b", False),
    ]
    empty: list[dict[str, Any]] = [{}, {"required": None}, {"required": {}, "optional": {}}]
    for nothing in empty:
        assert read_inputs(partial(dict, nothing)) == ()


def test_optional_inputs_of_any_name() -> None:
    """Such a mapping is noticed, and what it names itself is declared as usual."""
    flexible: dict[str, Any] = {"required": {}, "optional": ContainsAny("MASK", {"first": ("IMAGE",)})}
    assert takes_any_input(flexible)
    assert [(spec.name, spec.type, spec.required) for spec in read_inputs(lambda: flexible)] == [
        ("first", "IMAGE", False)
    ]
    assert not takes_any_input({"optional": {"first": ("IMAGE",)}})
    assert not takes_any_input({"required": {}})


@pytest.mark.parametrize("declared", [None, 3, ["required"], "required"])
def test_what_is_no_declaration_is_refused(declared: Any) -> None:
    """With what was expected and found."""

    class Odd:
        @classmethod
        def INPUT_TYPES(cls) -> Any:  # noqa: N802
            return declared

    with pytest.raises(DefinitionError, match=rf"INPUT_TYPES returned a {type(declared).__name__}; expected a dict"):
        input_types(Odd)


def test_an_input_without_a_type_is_refused() -> None:
    """The message names it."""
    with pytest.raises(DefinitionError, match=r"input x is declared \(None,\)"):
        _read((None,))


@pytest.mark.parametrize(
    ("declared", "known"),
    [
        ("UNIQUE_ID", "UNIQUE_ID"),
        ("unique_id", "UNIQUE_ID"),
        (("PROMPT",), "PROMPT"),
        (["EXTRA_PNGINFO", {}], "EXTRA_PNGINFO"),
        ("DYNPROMPT", "DYNPROMPT"),
        ("AUTH_TOKEN_COMFY_ORG", "AUTH_TOKEN_COMFY_ORG"),
    ],
)
def test_hidden_inputs_of_a_known_kind(declared: Any, known: str) -> None:
    """However they are written, they are filled in and are no inputs of the node."""
    assert hidden_inputs({"hidden": {"x": declared}}) == {"x": known}
    assert read_inputs(lambda: {"hidden": {"x": declared}}) == ()


@pytest.mark.parametrize(
    "declared", [AnyType("*"), ("*",), (AlwaysEqual("*"),), "INT", ("STRING", {"default": ""}), ()]
)
def test_hidden_inputs_of_another_kind_may_be_set_by_an_expansion(declared: Any) -> None:
    """They are optional inputs of any type that no editor shows as a widget."""
    assert unseen_inputs({"hidden": {"x": declared}}) == ["x"]
    assert hidden_inputs({"hidden": {"x": declared}}) == {}
    (spec,) = read_inputs(lambda: {"hidden": {"x": declared}})
    assert (spec.name, spec.type, spec.required, spec.is_widget) == ("x", "*", False, False)


@pytest.mark.parametrize(
    ("declared", "type_"),
    [("IMAGE", "IMAGE"), (["a", "b"], "COMBO"), ((), "COMBO"), (AnyType("x"), "*"), (Kind.IMAGE, "IMAGE")],
)
def test_types_of_sockets(declared: Any, type_: str) -> None:
    """A name, a choice, a wildcard, a member of an enumeration; always a plain text."""
    found = socket_type(declared)
    assert (found, type(found)) == (type_, str)


def test_declarations_are_told_to_editors_as_plain_json() -> None:
    """Wildcards as ``*``, numbers that are none as null, odd objects as text."""
    odd = {
        "any": (AnyType("x"), {"default": float("inf")}), "kind": (Kind.IMAGE,), "set": {3}, 4: b"x", "fn": (len, 1.5, None)
    }  # fmt: skip
    found = plain(odd)
    assert found == {
        "any": ["*", {"default": None}],
        "kind": ["IMAGE"],
        "set": [3],
        "4": "b'x'",
        "fn": [str(len), 1.5, None],
    }
    assert type(found["any"][0]) is type(found["kind"][0]) is str
