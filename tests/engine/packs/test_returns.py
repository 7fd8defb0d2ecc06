"""What a class's function returned, as the engine understands it."""

from __future__ import annotations

from typing import Any

import pytest

from engine.compat.comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder
from engine.errors import DefinitionError
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.packs.returns import Outlet, as_link, understood
from engine.run.live_graph import LiveGraph
from engine.run.results import Blocked, Expand, Outputs

LIVE = LiveGraph(Graph({"n": Call("Node"), "other": Call("Other")}))


def _understood(returned: Any, *lists: bool) -> Any:
    return understood(returned, Outlet(tuple(lists), NodeId("n"), LIVE))


ONE, TWO, LIST = (False,), (False, False), (True,)


@pytest.mark.parametrize(
    ("returned", "lists", "outputs"),
    [
        ((1,), ONE, Outputs((1,))),
        ([1], ONE, Outputs((1,))),
        (1, ONE, Outputs((1,))),
        ("text", ONE, Outputs(("text",))),
        ((None,), ONE, Outputs((None,))),
        ((1, None), TWO, Outputs((1, None))),
        (None, (), Outputs()),
        ((), (), Outputs()),
        ({}, (), Outputs()),
        (([1, 2],), LIST, Outputs(([1, 2],))),
        (((1, 2),), LIST, Outputs(([1, 2],))),
        (([1, 2],), ONE, Outputs(([1, 2],))),
        (((1, 2),), ONE, Outputs(((1, 2),))),
        ((1, 2, 3), ONE, Outputs((1,))),
        ((1,), TWO, Outputs((1, Blocked("node n returned only 1 of its 2 values")))),
        ({"result": (1,)}, ONE, Outputs((1,))),
        ({"result": 1}, ONE, Outputs((1,))),
        ({"ui": {"text": ["a"]}}, (), Outputs(ui={"text": ["a"]})),
        ({"ui": {"text": ["a"]}}, (False, True), Outputs((None, []), ui={"text": ["a"]})),
        ({"ui": {"text": ("a", "b"), "n": 3}, "result": (1,)}, ONE, Outputs((1,), ui={"text": ["a", "b"], "n": [3]})),
        ({"ui": None, "result": (1,), "more": 2}, ONE, Outputs((1,))),
        (ExecutionBlocker(None), TWO, Outputs((Blocked(), Blocked()))),
        ((1, ExecutionBlocker("why")), TWO, Outputs((1, Blocked("why")))),
        (([1, ExecutionBlocker(None)],), LIST, Outputs(([1, Blocked()],))),
        ((ExecutionBlocker("why"),), LIST, Outputs((Blocked("why"),))),
        ({"ui": {}, "result": ExecutionBlocker("why")}, TWO, Outputs((Blocked("why"), Blocked("why")))),
    ],
)
def test_values(returned: Any, lists: tuple[bool, ...], outputs: Outputs) -> None:
    """Tuples, lists, bare values, dicts and blockers; what is too much is left out, what is missing blocks."""
    found = _understood(returned, *lists)
    assert found == outputs
    assert repr(found) == repr(outputs)


def test_values_pass_as_the_objects_they_are() -> None:
    """Neither copied nor looked into: a falsy value, an odd container, something that is called as a blocker is."""
    things: list[Any] = [0, "", [], {}, object(), {"message": 1}]
    found = _understood(tuple(things), *[False] * len(things))
    assert all(one is other for one, other in zip(found.values, things, strict=True))
    items = [0, None, ""]
    assert _understood((items,), True).values == (items,)


class UiObject:
    """What newer packs return for the browser."""

    def as_dict(self) -> dict[str, Any]:
        return {"images": [{"filename": "a"}]}


def test_ui_may_be_an_object_that_becomes_a_dict() -> None:
    """It is asked for it."""
    assert _understood({"ui": UiObject()}).ui == {"images": [{"filename": "a"}]}


@pytest.mark.parametrize(
    ("returned", "lists", "message"),
    [
        (None, ONE, "returned nothing; expected 1 output"),
        (None, TWO, "returned nothing; expected 2 outputs"),
        ({"ui": [1]}, (), "returned ui data that is a list; expected a dict of lists"),
        ({"ui": "text"}, (), "returned ui data that is a str"),
        ({"expand": [1]}, (), "expanded into a list; expected a dict of nodes by id"),
        ({"expand": {"1": {"inputs": {}}}}, (), "expanded into a node 1 without a class_type"),
        ({"expand": {"1": "KSampler"}}, (), "expanded into a node 1 without a class_type"),
        ({"expand": {"1": {"class_type": None}}}, (), "expanded into a node 1 without a class_type"),
    ],
)
def test_wrong_shapes_are_refused(returned: Any, lists: tuple[bool, ...], message: str) -> None:
    """In one line that says what was expected."""
    with pytest.raises(DefinitionError) as raised:
        _understood(returned, *lists)
    assert str(raised.value).startswith(message)


def test_a_subgraph_becomes_calls_and_links() -> None:
    """Links within and to the run; values of every kind; outputs that are links only where they lead somewhere."""
    thing = object()
    expand = {
        "a": {
            "class_type": "A",
            "inputs": {"x": ["other", 0], "y": [1, 2], "z": thing, "list": {"__value__": ["a", 0]}},
        },
        "b": {"class_type": "B", "inputs": {"a": ["a", 1.0]}},
        "c": {"class_type": "C"},
    }
    result = (["b", 0], ["other", 0], ["nowhere", 0], ["b", "0"], 5)
    found = _understood({"result": result, "expand": expand, "ui": {"text": ["t"]}}, *[False] * 5)
    assert isinstance(found, Expand)
    assert {node: (call.type, dict(call.inputs)) for node, call in found.graph.items()} == {
        "a": ("A", {"x": Link(NodeId("other"), 0), "y": [1, 2], "z": thing, "list": ["a", 0]}),
        "b": ("B", {"a": Link(NodeId("a"), 1)}),
        "c": ("C", {}),
    }
    links = Link(NodeId("b"), 0), Link(NodeId("other"), 0)
    assert found.outputs == (*links, ["nowhere", 0], ["b", "0"], 5)
    assert [type(value) for value in found.outputs] == [Link, Link, list, list, int]
    assert (found.is_named, found.ui, found.shown) == (True, {"text": ["t"]}, {})


def test_an_expansion_without_a_result_yields_nothing_for_each_output() -> None:
    """As a node that only shows something."""
    found = _understood({"expand": {}}, False, True)
    assert (len(found.graph), found.outputs) == (0, (None, []))


def test_a_builder_is_understood_and_says_who_is_shown() -> None:
    """The display id of a node that an expansion made is that of the one it is seen as."""
    live = LiveGraph(Graph({"n": Call("Node"), "other": Call("Other")}))
    live.grow(NodeId("other"), {NodeId("inner"): Call("Inner")}, {})
    builder = GraphBuilder("p.")
    first = builder.node("A", "first", x=1)
    first.set_override_display_id("inner")
    second = builder.node("B", a=first.out(0))
    returned = {"result": (second.out(0),), "expand": builder.finalize()}
    found = understood(returned, Outlet(tuple(ONE), NodeId("n"), live))
    assert isinstance(found, Expand)
    assert (list(found.graph), found.outputs) == (["p.first", "p.1"], (Link(NodeId("p.1"), 0),))
    assert found.shown == {"p.first": "other"}


def test_long_names_become_short_ones_everywhere() -> None:
    """In ids, links and outputs alike, always the same; a link that leads elsewhere stays."""
    long = "n." * 100 + "x"
    expand = {
        long: {"class_type": "A", "inputs": {"o": ["other", 0]}},
        long + "y": {"class_type": "B", "inputs": {"a": [long, 0]}},
    }
    found, again = (_understood({"result": ([long + "y", 0],), "expand": expand}, False) for _ in range(2))
    first, second = found.graph
    assert len({first, second}) == 2
    assert max(len(first), len(second)) < 60
    assert found.graph[second].inputs["a"] == Link(first, 0)
    assert found.graph[first].inputs["o"] == Link(NodeId("other"), 0)
    assert found.outputs == (Link(second, 0),)
    assert list(again.graph) == [first, second]


@pytest.mark.parametrize(
    ("value", "link"),
    [
        (["1", 0], ("1", 0)),
        (["1", 2.0], ("1", 2)),
        (["1", True], None),
        ([1, 0], None),
        (("1", 0), None),
        (["1"], None),
        (["1", 0, 0], None),
        (["1", "0"], None),
        ("10", None),
    ],
)
def test_what_is_a_link(value: Any, link: Any) -> None:
    """A list of a text and a number, and nothing that looks like it."""
    assert as_link(value) == link


def test_what_is_missing_is_an_error_where_something_is_linked_to_it() -> None:
    """The second of two values is not there, and a node wants it."""
    live = LiveGraph(Graph({"n": Call("Two"), "after": Call("Add", {"a": Link(NodeId("n"), 1)})}))
    with pytest.raises(DefinitionError, match="returned 1 value, but declares 2 outputs"):
        understood((1,), Outlet(TWO, NodeId("n"), live))


def test_what_is_too_much_or_missing_is_told() -> None:
    """A value too much and one too few are worth a warning each; None where nothing is declared is not."""
    told: list[str] = []
    for returned, lists in (((1, 2), ONE), ((1,), TWO), ((None,), ()), ((1, 2), TWO)):
        understood(returned, Outlet(tuple(lists), NodeId("n"), LIVE, told.append))
    assert told == [
        "returned 2 values, but declares 1 output; make the two agree",
        "returned 1 value, but declares 2 outputs; make the two agree",
    ]
