from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import UnreadableWorkflow
from engine.graph.api_format import read_api, write_api
from engine.graph.graph import BadLink, Call, Graph, Link, NodeId
from tests.engine.graph.vocabulary import PROPERTY

ids = st.sampled_from(["1", "2", "10:4", "7:0", "1.0.0.3", "a"])
names = st.text('abc_ é"\\{', max_size=5)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | names
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.just("__value__"), inner, max_size=2),
    max_leaves=4,
)
links = st.builds(Link, ids.map(NodeId), st.integers(0, 3))
calls = st.builds(Call, names, st.dictionaries(names, values | links, max_size=3), st.none() | names)
graphs = st.dictionaries(ids, calls, max_size=4).map(Graph)


@PROPERTY
@given(graphs)
def test_a_written_graph_reads_back_the_same(graph: Graph) -> None:
    """Values, links, titles and ids survive the trip through JSON text, with the types they had."""
    back = read_api(json.loads(json.dumps(write_api(graph))))
    assert back == graph
    assert list(back) == list(graph)
    assert [repr(dict(call.inputs)) for call in back.values()] == [repr(dict(call.inputs)) for call in graph.values()]


def test_links_and_values_are_told_apart() -> None:
    """A pair of id and number is a link, a wrapped list a value, any other list a bad link."""
    inputs = {
        "link": ["4", 1],
        "number_id": [4, 0],
        "float_slot": ["4", 2.0],
        "wrapped": {"__value__": ["4", 1]},
        "typed": {"__type__": "CURVE", "__value__": [1, 2, 3]},
        "three": ["4", 1, 2],
        "half": ["4", 0.5],
        "flag": ["4", True],
        "object": {"a": 1},
    }
    call = read_api({"10:4.0": {"class_type": "X", "inputs": inputs, "_meta": {"title": "T"}, "is_changed": [1]}})[
        "10:4.0"
    ]
    assert dict(call.inputs) == {
        "link": Link(NodeId("4"), 1),
        "number_id": Link(NodeId("4"), 0),
        "float_slot": Link(NodeId("4"), 2),
        "wrapped": ["4", 1],
        "typed": [1, 2, 3],
        "three": BadLink(("4", 1, 2)),
        "half": BadLink(("4", 0.5)),
        "flag": BadLink(("4", True)),
        "object": {"a": 1},
    }
    assert call.title == "T"


def test_a_bad_link_is_written_as_it_came() -> None:
    """What cannot be understood is not changed either."""
    data = {"1": {"inputs": {"x": [1, 2, 3]}, "class_type": "X"}}
    assert write_api(read_api(data)) == data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "found a list"),
        ({"7": 3}, "node 7: expected an object with class_type and inputs, found a number"),
        ({"7": {"inputs": {}}}, "node 7: expected a class_type that names its node type, found none"),
        (
            {"7": {"class_type": 5, "inputs": {}}},
            "node 7: expected a class_type that names its node type, found a number",
        ),
        ({"7": {"class_type": "X"}}, "node 7 (X): expected an object of inputs by name, found none"),
        ({"7": {"class_type": "X", "inputs": []}}, "node 7 (X): expected an object of inputs by name, found a list"),
        ({"a\nb" * 99: None}, "..."),
    ],
)
def test_a_wrong_shape_is_named_with_its_node(data: Any, said: str) -> None:
    """The message is one line and says where the shape is wrong."""
    with pytest.raises(UnreadableWorkflow) as caught:
        read_api(data)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
