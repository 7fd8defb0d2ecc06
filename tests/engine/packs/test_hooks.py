"""What the methods of a class are called with that say whether its inputs are right, and whether they changed."""

from __future__ import annotations

from collections.abc import Callable

from tests.engine.packs.conftest import Bench, Calls

HOOKS = """
seen = []

class Judge:
    RETURN_TYPES, FUNCTION = ("STRING",), "tell"
    ABSENT = object()

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"a": ("INT", {})},
            "optional": {"b": ("INT", {"default": 5})},
            "hidden": {"me": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, a, me, b=ABSENT):
        return True if (a, me, b is cls.ABSENT) == (1, "judge", True) else f"{a!r} {me!r} {b!r}"

    @classmethod
    def IS_CHANGED(cls, a, me):
        seen.append((a, me))
        return 0

    def tell(self, a, me, b="left out"):
        return (f"{seen[-1]} {b}",)

class JudgeOfLists(Judge):
    INPUT_IS_LIST = True

    @classmethod
    def VALIDATE_INPUTS(cls, a, me):
        return True if (a, me) == ([1], ["judge"]) else f"{a!r} {me!r}"

    @classmethod
    def IS_CHANGED(cls, a, me):
        seen.append((a, me))
        return a[0]

NODE_CLASS_MAPPINGS = {"T_Show": Show, "T_Judge": Judge, "T_JudgeOfLists": JudgeOfLists}
"""


def _judged(type_: str) -> Calls:
    return {"judge": (type_, {"a": 1}), "show": ("T_Show", {"value": ["judge", 0]})}


def test_they_are_told_which_node_it_is_and_nothing_of_inputs_left_out(load: Callable[[str], Bench]) -> None:
    bench = load(HOOKS)
    assert bench.shown(_judged("T_Judge")) == "\"(1, 'judge') left out\""
    assert bench.run(_judged("T_Judge")).ran == ()


def test_those_of_a_class_that_takes_lists_are_given_lists(load: Callable[[str], Bench]) -> None:
    bench = load(HOOKS)
    assert bench.shown(_judged("T_JudgeOfLists")) == "\"([1], ['judge']) left out\""
    assert bench.run(_judged("T_JudgeOfLists")).ran == ()
