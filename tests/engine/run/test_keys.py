"""Keys: what counts, what does not, and the digests themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.fileref import FileRef
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.models import Digest, ModelRef, Patch
from engine.run.keys import Key, derive, keys
from engine.spec import NodeSpec, Output, node
from tests.engine.run.dags import dags, shuffled


@node("Any", category="test", outputs=[Output("INT"), Output("INT")])
def any_(**inputs: Any) -> int:
    """Takes whatever there is."""
    return 0


@node("Any", category="test", outputs=[Output("INT")], version=2)
def any_2(**inputs: Any) -> int:
    """The same, another version."""
    return 0


@node("Impure", category="test", outputs=[Output("INT")], pure=False)
def impure() -> int:
    """Another result each time."""
    return 0


@node("Expanding", category="test", outputs=[Output("INT")], expands=True)
def expanding() -> int:
    """May become anything there is."""
    return 0


SPECS: Mapping[str, NodeSpec] = {spec.type: spec for spec in (any_, impure, expanding)} | {"Add": any_, "Fail": any_}


def key_of(value: Any, **more: Any) -> Key:
    """The key of a node with one input of this value."""
    return keys(Graph({"1": Call("Any", {"x": value, **more})}), SPECS, numerics="cpu")[NodeId("1")]


GOLDEN_GRAPH = Graph(
    {
        "4": Call("Any", {"ckpt_name": FileRef(Digest("ab" * 32), Path("/models/a.safetensors"), "a.safetensors")}),
        "6": Call("Any", {"clip": Link(NodeId("4"), 1), "text": "a red circle"}),
        "3": Call(
            "Any", {"positive": Link(NodeId("6"), 0), "seed": 2**64, "cfg": 7.5, "more": {"b": [1, None], "a": True}}
        ),
    }
)
GOLDEN = {
    "4": "6a202d12ab3f9011c8413fe6c9c135bbe392e190dd871b1abcac84cfb5c71765",
    "6": "d8eb9c8385cd32d9f59781245eb8a6e0bdaaee6ff242efe74330cc66838fb59f",
    "3": "47343e0fc4ac0f9e7419a4de9b5b49d3c2e61a283ad0cd5b30462b0b2522a12c",
}


def test_golden_digests() -> None:
    """A change here makes every stored result of every user miss: raise ``SCHEME`` and mean it."""
    found = keys(GOLDEN_GRAPH, SPECS, numerics="cpu/float32/torch2.6")
    assert {node: key.hex() for node, key in found.items()} == GOLDEN


def test_values_that_only_look_alike_have_different_keys() -> None:
    """Type and structure count: the classic collisions are none."""
    values = [
        1,
        1.0,
        True,
        "1",
        b"1",
        [1],
        ["1"],
        {"1": 1},
        None,
        0,
        0.0,
        -0.0,
        False,
        "",
        [],
        {},
        [[]],
        [None],
        {"a": []},
        {"a": {}},
    ]
    values += [
        "x",
        2**63,
        2**64,
        -(2**63) - 1,
        float(2**64),
        math.nan,
        math.inf,
        -math.inf,
        [1, 2],
        [12],
        [[1], 2],
        ["ab", "c"],
        ["a", "bc"],
    ]
    values += [
        ["x", 1],
        {"x": 1},
        Digest("ab"),
        FileRef(Digest("ab"), Path("p"), "ab"),
        ModelRef(Digest("ab"), "vae", "p"),
    ]
    assert len({key_of(value) for value in values}) == len(values)


def merged(location: str, other: str, ratio: float) -> ModelRef:
    """A recipe with another one in it."""
    inner = ModelRef(Digest(other), "unet", location, (Patch("lora", Digest("l"), 1.0, location),))
    patch = Patch("merge", Digest(other), 1.0, location, (("input_blocks.", ratio),), inner)
    return ModelRef(Digest("d"), "unet", location, (patch,))


def test_everything_in_a_merged_recipe_counts() -> None:
    """The other model, its patches, the options of the merge and their order."""
    plain = merged("/m", "other", 0.5)
    (patch,) = plain.patches
    assert patch.model is not None
    variants = [
        plain,
        merged("/m", "another", 0.5),
        merged("/m", "other", 0.25),
        replace(plain, patches=(replace(patch, model=replace(patch.model, patches=())),)),
        replace(plain, patches=(replace(patch, options=(("a", 1), ("b", 1))),)),
        replace(plain, patches=(replace(patch, options=(("b", 1), ("a", 1))),)),
        replace(plain, patches=(replace(patch, options=()),)),
        replace(plain, patches=(replace(patch, options=(), model=None),)),
    ]
    assert len({key_of(value) for value in variants}) == len(variants)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 2], (1, 2)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (math.nan, -math.nan),
        (FileRef(Digest("d"), Path("/here"), "a.png"), FileRef(Digest("d"), Path("/there"), "b.png")),
        (
            ModelRef(Digest("d"), "unet", "/here", (Patch("lora", Digest("l"), 0.5, "/x"),)),
            ModelRef(Digest("d"), "unet", "/there", (Patch("lora", Digest("l"), 0.5, "/y"),)),
        ),
        (merged("/here", "other", 0.5), merged("/there", "other", 0.5)),
    ],
)
def test_what_does_not_count(one: Any, other: Any) -> None:
    """Tuples are lists, mappings have no order, NaN is NaN, and files and models count by content."""
    assert key_of(one) == key_of(other)


def test_a_lone_surrogate_has_a_key_of_its_own() -> None:
    """JSON may hold one; UTF-8 may not."""
    assert len({key_of("\ud800"), key_of("\ud801"), key_of("?")}) == 3


def test_version_numerics_output_index_and_titles() -> None:
    """A version or other numerics change a key, a title does not; links to two outputs of a node differ."""
    graph = Graph({"1": Call("Any", {"x": 1}, title="mine")})
    base = keys(graph, SPECS, numerics="cpu")[NodeId("1")]
    assert base == key_of(1)
    assert base != keys(graph, {"Any": any_2}, numerics="cpu")[NodeId("1")]
    assert base != keys(graph, SPECS, numerics="cuda")[NodeId("1")]
    wired = Graph(
        {"1": Call("Any"), "a": Call("Any", {"x": Link(NodeId("1"), 0)}), "b": Call("Any", {"x": Link(NodeId("1"), 1)})}
    )
    found = keys(wired, SPECS, numerics="cpu")
    assert found[NodeId("a")] != found[NodeId("b")]


def test_a_fingerprint_counts_and_nan_is_never_equal() -> None:
    """What a node says of the world enters its key; NaN ties it to the run."""
    graph = Graph({"1": Call("Any")})

    def key(value: Any, run: str) -> Key:
        return keys(graph, SPECS, numerics="", run_id=run, fingerprints={NodeId("1"): value})[NodeId("1")]

    assert key("v1", "a") == key("v1", "b") != key("v2", "a")
    assert key(None, "a") != keys(graph, SPECS, numerics="", run_id="a")[NodeId("1")]
    assert key(math.nan, "a") != key(math.nan, "b")


def test_impurity_is_inherited_through_links_and_only_there() -> None:
    """What depends on an impure node holds for one run; what does not is shared by all."""
    graph = Graph(
        {"i": Call("Impure"), "j": Call("Impure"), "d": Call("Any", {"x": Link(NodeId("i"), 0)}), "p": Call("Any")}
    )
    one, other = (derive(graph, SPECS, numerics="", run_id=run) for run in "ab")
    assert one.salted == {"i", "j", "d"}
    assert {node for node in graph if one.keys[node] == other.keys[node]} == {"p"}
    assert one.keys[NodeId("i")] != one.keys[NodeId("j")]


def test_values_without_a_canonical_form_never_hit() -> None:
    """A node with such a literal is as if impure."""
    deep: list[Any] = []
    for _ in range(1000):
        deep = [deep]
    for odd in (object(), {1: 2}, {1, 2}, deep):
        found = derive(Graph({"1": Call("Any", {"x": odd})}), SPECS, numerics="", run_id="a")
        assert found.salted == {"1"}


def test_an_expanding_node_counts_every_version_there_is() -> None:
    """It may become any of them, so what is kept below it must not outlive a change of one."""
    graph = Graph({"1": Call("Expanding")})
    assert keys(graph, SPECS, numerics="") != keys(graph, {**SPECS, "Any": any_2}, numerics="")


def test_nodes_of_a_cycle_and_with_dangling_links_have_no_key() -> None:
    """Nor has what needs them; the rest has."""
    graph = Graph(
        {
            "a": Call("Any", {"x": Link(NodeId("b"), 0)}),
            "b": Call("Any", {"x": Link(NodeId("a"), 0)}),
            "c": Call("Any", {"x": Link(NodeId("b"), 0)}),
            "d": Call("Any"),
        }
    )
    assert keys(graph, SPECS, numerics="").keys() == {"d"}


@given(dags(), st.integers(0, 99))
def test_names_and_order_do_not_count(graph: Graph, seed: int) -> None:
    """Renaming nodes, reordering them and reordering their inputs keeps every key."""
    other, names = shuffled(graph, seed)
    before, after = keys(graph, SPECS, numerics="x"), keys(other, SPECS, numerics="x")
    assert {names[node]: key for node, key in before.items()} == after


@given(dags(), st.data())
def test_any_changed_literal_changes_its_node_and_all_its_descendants_and_no_other(
    graph: Graph, data: st.DataObject
) -> None:
    """The key is exact: nothing too much, nothing too little."""
    node = data.draw(st.sampled_from(list(graph)))
    changed = graph.with_call(node, graph[node].with_inputs(b=99))
    before, after = keys(graph, SPECS, numerics="x"), keys(changed, SPECS, numerics="x")
    moved = {name for name in graph if before[name] != after[name]}
    assert moved == {name for name in graph if node in graph.ancestors([name])}
