"""Branches, comparisons and gates: what runs, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from engine.graph.validate import validate
from engine.run import events
from engine.run.executor import Run
from tests.engine.run.toolbox import Listener, graph
from tests.nodes.runs import Bench


@pytest.mark.parametrize(("condition", "expected"), [(True, 1), (False, 2)])
def test_a_switch_takes_one_of_two_values(bench: Bench, condition: bool, expected: int) -> None:
    """Values may be typed in or linked."""
    linked = graph(
        a=("PrimitiveInt", {"value": 1}), r=("Switch", {"condition": condition, "if_true": "a/0", "if_false": 2})
    )
    assert bench.values(linked) == [expected]


def test_the_branch_a_switch_does_not_take_never_runs(bench: Bench) -> None:
    """It would fail if it did; what leads to it alone does not run either."""
    branches = graph(
        a=("Log", {"value": 5}),
        b=("Log", {"value": "unused"}),
        f=("Fail", {"value": "b/0"}),
        c=("Compare", {"a": "a/0", "b": 3, "operator": ">"}),
        r=("Switch", {"condition": "c/0", "if_true": "a/0", "if_false": "f/0"}),
    )
    assert bench.values(branches) == [5]
    assert bench.log == [5]


def test_a_switch_passes_structured_values_on_as_they_are(bench: Bench) -> None:
    """A tuple is one value, not several outputs; lists are walked element by element, each its own way."""
    lists = graph(
        n=("ListRange", {"start": 0, "stop": 4}),
        c=("Compare", {"a": "n/0", "b": 1, "operator": ">"}),
        r=("Switch", {"condition": "c/0", "if_true": "n/0", "if_false": -1}),
    )
    assert bench.values(lists) == [-1, -1, 2, 3]
    pair: Any = {"x": [1, 2]}
    assert bench.values(graph(r=("Switch", {"condition": True, "if_true": pair, "if_false": 0}))) == [pair]


def test_a_switch_without_both_values_is_no_valid_graph(bench: Bench) -> None:
    """It is told before anything runs."""
    half = graph(s=("Switch", {"condition": True, "if_true": 1}), p=("PreviewAny", {"source": "s/0"}))
    assert [problem.input for problem in validate(half, bench.registry())] == ["if_false"]


def test_an_index_chooses_among_many(bench: Bench) -> None:
    """Only what leads to the chosen one runs."""
    many = graph(
        f=("Fail", {}),
        i=("PrimitiveInt", {"value": 7}),
        a=("PrimitiveString", {"value": "seven"}),
        r=("SwitchIndex", {"index": "i/0", "value0": "f/0", "value7": "a/0"}),
    )
    assert bench.values(many) == ["seven"]


@pytest.mark.parametrize("index", [1, -1, 10])
def test_an_index_with_no_value_names_those_there_are(bench: Bench, index: int) -> None:
    """The message says which numbers are linked."""
    failure = bench.failure(graph(r=("SwitchIndex", {"index": index, "value0": 1, "value4": 2})))
    assert failure == (
        "node r (SwitchIndex), input index: expected the number of a linked value (0, 4), "
        f"found {index}; link value{index}"
    )


@pytest.mark.parametrize(
    ("a", "operator", "b", "expected"),
    [
        (1, "==", 1.0, True),
        (2, "<", 10, True),
        ("2", "<", "10", False),
        ("1", "==", 1, False),
        ("1", "!=", 1, True),
        (True, ">=", 1, True),
        (3, "<=", 2.5, False),
        ("castle", "contains", "ast", True),
        ("castle", "contains", "x", False),
    ],
)
def test_compare(bench: Bench, a: Any, operator: str, b: Any, expected: bool) -> None:
    """Numbers by size, texts by their letters."""
    assert bench.values(graph(r=("Compare", {"a": a, "b": b, "operator": operator}))) == [expected]


@pytest.mark.parametrize(
    ("a", "operator", "b", "message"),
    [
        (1, "<", "2", "input operator: < takes two numbers or two texts, found a number and a text"),
        ("1", "contains", 1, "input operator: contains takes two texts, found a text and a number"),
        (1, "==", [1], "input b: expected a number, a text or a truth value, found a list"),
    ],
)
def test_what_cannot_be_compared_is_said(bench: Bench, a: Any, operator: str, b: Any, message: str) -> None:
    """The message names the input and what was found."""
    assert message in bench.failure(graph(r=("Compare", {"a": a, "b": b, "operator": operator})))


def test_logic_tables(bench: Bench) -> None:
    """Each operator over all pairs."""
    pairs = [(a, b) for a in (False, True) for b in (False, True)]
    tables = {
        operator: [bench.values(graph(r=("Logic", {"a": a, "b": b, "operator": operator})))[0] for a, b in pairs]
        for operator in ("and", "or", "xor", "nand", "nor", "equal", "not")
    }
    assert tables == {
        "and": [False, False, False, True],
        "or": [False, True, True, True],
        "xor": [False, True, True, False],
        "nand": [True, True, True, False],
        "nor": [True, False, False, False],
        "equal": [True, False, False, True],
        "not": [True, True, False, False],
    }


def test_a_closed_gate_stops_what_follows_and_says_why(bench: Bench) -> None:
    """What leads to it does not run, what depends on it does not, the rest does; the run succeeds."""
    gates = graph(
        f=("Fail", {}),
        g=("Gate", {"value": "f/0", "open": False, "message": "nothing to do"}),
        s=("PreviewAny", {"source": "g/0"}),
        h=("Gate", {"value": 1, "open": True}),
        t=("PreviewAny", {"source": "h/0"}),
    )
    listener = Listener()
    result = bench.executor().run_sync(Run(gates), listener)
    assert (result.status, result.ui) == ("succeeded", {"t": {"text": ["1"]}})
    assert [event.message for event in listener.of(events.NodeBlocked)] == ["nothing to do"]


def test_a_gate_lets_the_elements_of_a_list_through_one_by_one(bench: Bench) -> None:
    """The others are left out of what follows."""
    filtered = graph(
        n=("ListRange", {"start": 0, "stop": 6}),
        m=("MathExpression", {"expression": "a % 2 == 0", "a": "n/0"}),
        g=("Gate", {"value": "n/0", "open": "m/2"}),
        s=("PreviewAny", {"source": "g/0"}),
    )
    assert bench.executor().run_sync(Run(filtered)).ui == {"s": {"text": ["0", "2", "4"]}}
