"""How many values a node returns, and how many its class declares."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.engine.packs.conftest import Bench, Calls

COUNTS = """
class Further(tuple):
    def __getitem__(self, index):
        return tuple.__getitem__(self, index) if index < len(self) else "*"

def returning(types, *values):
    class Node:
        RETURN_TYPES, FUNCTION = types, "give"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}}

        def give(self):
            return values

    return Node

class Prints:
    RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "show", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def show(self):
        return (None,)

NODE_CLASS_MAPPINGS = {
    "T_Show": Show,
    "T_More": returning(("INT",), 1, 2),
    "T_Fewer": returning(("INT", "INT"), 1),
    "T_Further": returning(Further(("INT",)), 1, "b", 3.0),
    "T_Prints": Prints,
}
"""


def _shown(type_: str, output: int) -> Calls:
    return {"node": (type_, {}), "show": ("T_Show", {"value": ["node", output]})}


@pytest.mark.parametrize(
    ("type_", "output", "shown"),
    [("T_More", 0, "1"), ("T_Fewer", 0, "1"), ("T_Further", 0, "1"), ("T_Further", 1, "'b'"), ("T_Further", 2, "3.0")],
)
def test_what_is_returned_and_declared_counts(
    load: Callable[[str], Bench], type_: str, output: int, shown: str
) -> None:
    assert load(COUNTS).shown(_shown(type_, output)) == shown


def test_a_value_more_than_there_are_outputs_is_nothing(load: Callable[[str], Bench]) -> None:
    bench = load(COUNTS)
    assert bench.run({"prints": ("T_Prints", {})}).status == "succeeded"
    assert [problem.type for problem in bench.problems(_shown("T_More", 1))] == ["bad_link"]


def test_a_value_that_is_needed_has_to_be_returned(load: Callable[[str], Bench]) -> None:
    result = load(COUNTS).run(_shown("T_Fewer", 1))
    assert [failure.reason for failure in result.failures] == [
        "returned 1 value, but declares 2 outputs; make the two agree"
    ]


def test_a_kept_result_without_the_value_lets_nothing_run_on(load: Callable[[str], Bench]) -> None:
    """The first run needs the value that is there, the second the one that is not."""
    bench = load(COUNTS)
    bench.run(_shown("T_Fewer", 0))
    result = bench.run(_shown("T_Fewer", 1))
    assert (result.cached, result.ui) == (("node",), {})


def test_editors_are_told_of_declared_outputs_alone(load: Callable[[str], Bench]) -> None:
    describe = load(COUNTS).registry["T_Further"].describe
    assert describe is not None
    assert describe()["output"] == ["INT"]
