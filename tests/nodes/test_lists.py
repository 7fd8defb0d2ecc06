"""Nodes that make, cut and join lists."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.run.toolbox import graph
from tests.nodes.runs import Bench

NUMBERS = ("ListRange", {"start": 0, "stop": 5})


@pytest.mark.parametrize(
    ("start", "stop", "step", "expected"),
    [(0, 3, 1, [0, 1, 2]), (5, 0, -2, [5, 3, 1]), (0, 0, 1, []), (-2, 3, 2, [-2, 0, 2])],
)
def test_range(bench: Bench, start: int, stop: int, step: int, expected: list[int]) -> None:
    """As Python's, in both directions."""
    assert bench.values(graph(r=("ListRange", {"start": start, "stop": stop, "step": step}))) == expected


def test_a_range_without_end_is_refused(bench: Bench) -> None:
    """A step of 0, and one that is far too small."""
    assert "input step: expected a step that is not 0" in bench.failure(graph(r=("ListRange", {"step": 0})))
    failure = bench.failure(graph(r=("ListRange", {"stop": 2**50})))
    assert "input step: expected at most 1000000 numbers, found 1125899906842624" in failure


def test_lines(bench: Bench) -> None:
    """Empty ones are left out or kept; blanks inside stay."""
    text = "a cat\n\n  \r\n a dog\n"
    assert bench.values(graph(r=("ListLines", {"text": text}))) == ["a cat", " a dog"]
    assert bench.values(graph(r=("ListLines", {"text": text, "skip_empty": False}))) == ["a cat", "", "  ", " a dog"]


def test_lists_are_joined_end_to_end_and_made_row_by_row(bench: Bench) -> None:
    """ListJoin puts one behind the other, with single values between; MakeList takes an element of each in turn."""
    two = {"a": ("ListRange", {"start": 0, "stop": 2}), "b": ("ListRange", {"start": 10, "stop": 12})}
    assert bench.values(graph(**two, r=("ListJoin", {"list0": "a/0", "list1": 7, "list2": "b/0"}))) == [0, 1, 7, 10, 11]
    assert bench.values(graph(**two, r=("MakeList", {"value0": "a/0", "value3": "b/0"}))) == [0, 10, 1, 11]
    assert bench.values(graph(r=("MakeList", {"value0": "x", "value9": False}))) == ["x", False]


def test_an_empty_list_joins_as_nothing(bench: Bench) -> None:
    """It has no elements, and is no error."""
    empty = graph(e=("ListRange", {"stop": 0}), r=("ListJoin", {"list0": "e/0", "list1": 1}))
    assert bench.values(empty) == [1]
    assert bench.values(graph(e=("ListRange", {"stop": 0}), r=("ListLength", {"list": "e/0"}))) == [0]


@pytest.mark.parametrize(("index", "expected"), [(0, 0), (4, 4), (-1, 4), (-5, 0)])
def test_an_item_by_its_position(bench: Bench, index: int, expected: int) -> None:
    """From either end."""
    assert bench.values(graph(n=NUMBERS, r=("ListItem", {"list": "n/0", "index": index}))) == [expected]


@pytest.mark.parametrize("index", [5, -6])
def test_a_position_beyond_the_ends_is_said(bench: Bench, index: int) -> None:
    """With the positions there are."""
    failure = bench.failure(graph(n=NUMBERS, r=("ListItem", {"list": "n/0", "index": index})))
    assert failure == (
        f"node r (ListItem), input index: expected a position from 0 to 4, or from -5 to -1, found {index}"
    )


def test_a_list_where_one_value_belongs_is_said(bench: Bench) -> None:
    """A position is one number."""
    failure = bench.failure(graph(n=NUMBERS, r=("ListItem", {"list": "n/0", "index": "n/0"})))
    assert "input index: expected one value, found a list of 5" in failure


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        ({"start": 1, "count": 2}, [1, 2]),
        ({"start": 3}, [3, 4]),
        ({"start": -2}, [3, 4]),
        ({"start": 0, "step": 2}, [0, 2, 4]),
        ({"start": -1, "step": -1}, [4, 3, 2, 1, 0]),
        ({"start": 9}, []),
    ],
)
def test_slice(bench: Bench, cut: dict[str, Any], expected: list[int]) -> None:
    """A count from a position on, from either end, in steps."""
    assert bench.values(graph(n=NUMBERS, r=("ListSlice", {"list": "n/0", **cut}))) == expected


def test_length_counts_elements_and_not_calls(bench: Bench) -> None:
    """The node is called once for the whole list."""
    assert bench.values(graph(n=NUMBERS, r=("ListLength", {"list": "n/0"}))) == [5]


def test_texts_are_joined_with_a_separator(bench: Bench) -> None:
    r"""Numbers too; \n is a line end and \\n are these two characters."""
    assert bench.values(graph(n=NUMBERS, r=("TextJoin", {"texts": "n/0"}))) == ["0, 1, 2, 3, 4"]
    lines = {"n": ("ListLines", {"text": "a\nb"})}
    assert bench.values(graph(**lines, r=("TextJoin", {"texts": "n/0", "separator": r"\n-\t"}))) == ["a\n-\tb"]
    assert bench.values(graph(**lines, r=("TextJoin", {"texts": "n/0", "separator": r"\\n"}))) == [r"a\nb"]
