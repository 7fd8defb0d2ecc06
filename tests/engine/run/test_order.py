"""Priorities, each case drawn and checked under permuted names."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.graph.graph import Graph, NodeId
from engine.run.order import order
from engine.run.topology import needs
from tests.engine.run.dags import dags


@pytest.fixture(params=list(itertools.islice(itertools.permutations("abcdefgh"), 0, 40320, 4409)), ids="".join)
def names(request: pytest.FixtureRequest) -> dict[str, str]:
    """Eight letters standing for each other."""
    return dict(zip("abcdefgh", request.param, strict=True))


def run_order(edges: str, targets: str, names: dict[str, str], groups: dict[str, str] | None = None) -> str:
    """The order, as letters of the drawing. ``edges`` is ``"a>b b>c"``: b needs a."""
    needed: dict[NodeId, list[NodeId]] = {}
    for edge in edges.split():
        source, _, user = edge.partition(">")
        needed.setdefault(NodeId(names[source]), [])
        if user:
            needed.setdefault(NodeId(names[user]), []).append(NodeId(names[source]))
    grouped = {NodeId(names[node]): group for node, group in (groups or {}).items()}
    ranks = order(needed, [NodeId(names[target]) for target in targets], grouped)
    back = {name: letter for letter, name in names.items()}
    return "".join(back[node] for node in sorted(ranks, key=ranks.__getitem__))


def test_a_chain_runs_from_its_source(names: dict[str, str]) -> None:
    """
    a - b - c
    """
    assert run_order("a>b b>c", "c", names) == "abc"


def test_the_near_output_comes_first_and_whole(names: dict[str, str]) -> None:
    """
    a - b - c - d!      d is far, f near: f and all it needs first, though d was named first
    e - f!
    """
    assert run_order("a>b b>c c>d e>f", "df", names) == "efabcd"


def test_an_output_on_the_way_comes_before_the_way_goes_on(names: dict[str, str]) -> None:
    """
    a - b - c - d!
         \\ e!
    """
    assert run_order("a>b b>c c>d b>e", "de", names) == "abecd"


def test_the_wide_source_comes_before_the_narrow_one(names: dict[str, str]) -> None:
    """
        e ---- f!       c needs two values at a time, e only one: e first would be held meanwhile
    a - c ---- /
    b - /
    """
    assert run_order("e>f a>c b>c c>f", "f", names) == "abcef"


def test_what_a_finished_branch_holds_is_freed_before_another_is_begun(names: dict[str, str]) -> None:
    """
    a - b - e - f!      one branch to its end, then the other: a, b and c, d are never all alive
    c - d - /
    """
    assert run_order("a>b c>d b>e d>e e>f", "f", names) == "abcdef"


def test_one_models_nodes_run_together(names: dict[str, str]) -> None:
    """
    a1 - c!             two models: a, e use the one, b, f the other; in the order of the outputs they would alternate
    b2 - d!
    e1 - g!
    f2 - h!
    """
    groups = {"a": "one", "e": "one", "b": "two", "f": "two"}
    assert run_order("a>c b>d e>g f>h", "cdgh", names, groups) == "acegbdfh"


def test_base_and_refiner_change_once(names: dict[str, str]) -> None:
    """
    a1 - b2 - c!        both base passes, then both refinings
    d1 - e2 - f!
    """
    groups = {"a": "base", "d": "base", "b": "fine", "e": "fine"}
    assert run_order("a>b b>c d>e e>f", "cf", names, groups) == "adbcef"


def test_with_one_model_outputs_still_come_early(names: dict[str, str]) -> None:
    """
    a - b1 - c!         a and d prepare: d waits until the first output is there
    d - e1 - f!
    """
    groups = {"b": "one", "e": "one"}
    assert run_order("a>b b>c d>e e>f", "cf", names, groups) == "abcdef"


@given(dags(), st.lists(st.integers(0, 2), min_size=12, max_size=12))
def test_sources_always_come_first(graph: Graph, kinds: list[int]) -> None:
    """Whatever the groups, every node ranks after all it needs, and every node has a rank of its own."""
    groups = {node: kind for node, kind in zip(graph, kinds, strict=False) if kind}
    ranks = order(needs(graph), list(graph)[-1:], groups)
    assert sorted(ranks.values()) == list(range(len(graph)))
    assert all(ranks[link.node] < ranks[node] for node, call in graph.items() for link in call.links.values())


def test_wide_and_deep_graphs_take_no_recursion() -> None:
    """20,000 nodes in a row, and 20,000 under one."""
    count = 20_000
    chain = {NodeId(str(i)): [NodeId(str(i - 1))] if i else [] for i in range(count)}
    assert order(chain, [NodeId(str(count - 1))])[NodeId("0")] == 0
    fan = {NodeId(str(i)): list[NodeId]() for i in range(count)} | {
        NodeId("top"): [NodeId(str(i)) for i in range(count)]
    }
    assert order(fan, [NodeId("top")])[NodeId("top")] == count
