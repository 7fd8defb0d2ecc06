"""Values for inputs of socket types that a pack made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.packs.conftest import Bench, Calls

TYPES = """
class Takes:
    RETURN_TYPES, FUNCTION = ("STRING",), "tell"

    @classmethod
    def INPUT_TYPES(cls):
        return {"optional": {"flag": ("BOOL", {"default": False}), "curve": ("T_CURVE",), "image": ("IMAGE",)}}

    def tell(self, flag=None, curve=None, image=None):
        return (f"{flag} {curve}",)

NODE_CLASS_MAPPINGS = {"T_Show": Show, "T_Takes": Takes}
"""


@pytest.mark.parametrize(
    ("inputs", "shown"),
    [({"flag": True}, "True None"), ({"curve": {"points": [[0, 1]]}}, "None {'points': [[0, 1]]}")],
)
def test_a_type_of_a_packs_own_may_have_a_widget(
    load: Callable[[str], Bench], inputs: dict[str, Any], shown: str
) -> None:
    calls: Calls = {"takes": ("T_Takes", inputs), "show": ("T_Show", {"value": ["takes", 0]})}
    assert load(TYPES).shown(calls) == repr(shown)


def test_a_picture_cannot_be_typed_in(load: Callable[[str], Bench]) -> None:
    calls: Calls = {"takes": ("T_Takes", {"image": 5}), "show": ("T_Show", {"value": ["takes", 0]})}
    assert [problem.type for problem in load(TYPES).problems(calls)] == ["invalid_input_type"]
