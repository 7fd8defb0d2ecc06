"""Subgraphs as packs build them."""

from __future__ import annotations

import asyncio

import pytest

from engine.compat.comfy_execution import graph
from engine.compat.comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder, add_graph_prefix, is_link
from engine.compat.comfy_execution.utils import get_executing_context
from engine.compat.host import calling
from tests.compat.conftest import Watched


def _ids(watched: Watched, index: int = 0) -> list[str]:
    with calling(watched.context(index=index)):
        builders = [GraphBuilder(), GraphBuilder()]
        return [node.id for builder in builders for node in (builder.node("A"), builder.node("B", x=1))]


def test_ids_follow_from_the_call(watched: Watched) -> None:
    first = _ids(watched)
    assert first == ["7.0.0.1", "7.0.0.2", "7.0.1.1", "7.0.1.2"]
    assert _ids(watched) == first
    assert _ids(watched, index=3)[0] == "7.3.0.1"


async def test_builders_of_tasks_of_one_call_have_ids_of_their_own(watched: Watched) -> None:
    async def build() -> str:
        return GraphBuilder().node("A").id

    with calling(watched.context()):
        assert sorted(await asyncio.gather(build(), build())) == ["7.0.0.1", "7.0.1.1"]


def test_outside_of_calls_prefixes_can_be_set() -> None:
    GraphBuilder.set_default_prefix("root", 2)
    assert [GraphBuilder().prefix, GraphBuilder().prefix] == ["root.2.0.", "root.2.1."]
    assert GraphBuilder.alloc_prefix("x", 0, 0) == "x.0.0."


def test_a_graph_is_built() -> None:
    builder = GraphBuilder(prefix="p.")
    load = builder.node("Load", "load", name="a.png")
    save = builder.node("Save", images=load.out(0), mask=load.out(1), gone=None)
    save.set_input("gone", None)
    save.set_override_display_id("9")
    assert builder.node("Load", "load") is load
    assert builder.lookup_node("load") is load
    assert builder.finalize() == {
        "p.load": {"class_type": "Load", "inputs": {"name": "a.png"}},
        "p.1": {
            "class_type": "Save",
            "inputs": {"images": ["p.load", 0], "mask": ["p.load", 1]},
            "override_display_id": "9",
        },
    }
    builder.replace_node_output("p.load", 0, ["3", 1])
    builder.replace_node_output("p.load", 1, None)
    builder.remove_node("p.load")
    assert builder.finalize()["p.1"]["inputs"] == {"images": ["3", 1]}
    assert list(builder.nodes) == ["p.1"]


def test_links_are_told_from_lists() -> None:
    assert [is_link(value) for value in (["1", 0], [1, 0], ["1", "0"], ["1", 0, 0], ("1", 0), ["1", True])] == [
        True, False, False, False, False, False,
    ]  # fmt: skip


def test_a_graph_moves_below_a_prefix() -> None:
    nodes, outputs = add_graph_prefix(
        {"1": {"class_type": "A", "inputs": {"x": ["0", 1], "y": 2}}}, (["1", 0], 5), "p."
    )
    assert nodes == {"p.1": {"class_type": "A", "inputs": {"x": ["p.0", 1], "y": 2}}}
    assert outputs == (["p.1", 0], 5)


def test_a_blocker_keeps_its_message() -> None:
    assert ExecutionBlocker("no").message == "no"
    assert graph.ExecutionBlocker is ExecutionBlocker
    assert not hasattr(graph, "TopologicalSort")


@pytest.mark.usefixtures("call")
def test_the_call_is_named() -> None:
    assert get_executing_context() == ("job-1", "7", 0)
