from __future__ import annotations

import copy
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import UnreadableWorkflow
from engine.graph.api_format import write_api
from engine.graph.editor_flatten import bypass
from engine.graph.editor_format import EditorResult, ModelHint, read_editor
from engine.graph.editor_model import Slot
from engine.graph.graph import Link, NodeId
from engine.graph.seeds import SeedInput
from engine.graph.validate import validate
from tests.engine.graph.vocabulary import FILES, PROPERTY, refusal, registry

REGISTRY = registry()
STEMS = ["txt2img", "tangled", "subgraphs", "group"]
DATA: dict[str, Any] = {stem: json.loads((FILES / f"{stem}.json").read_text(encoding="utf-8")) for stem in STEMS}


def read(stem: str) -> EditorResult:
    return read_editor(DATA[stem], REGISTRY)


def inputs(result: EditorResult, node: str) -> dict[str, Any]:
    return dict(result.graph[node].inputs)


def one(node: dict[str, Any], *others: dict[str, Any], links: list[Any] = []) -> EditorResult:  # noqa: B006
    return read_editor({"nodes": [node, *others], "links": links}, REGISTRY)


def seed(node: str, input: str, control: str, widget: str) -> SeedInput:
    return SeedInput(NodeId(node), input, control, widget)  # type: ignore[arg-type]


def test_the_default_workflow_becomes_what_the_editor_sends() -> None:
    """Values by position without the seed's control, links by name, titles, model hints and the seed's control."""
    result = read("txt2img")
    assert write_api(result.graph)["3"] == {
        "inputs": {
            "model": ["4", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
            "seed": 156680208700286,
            "steps": 20,
            "cfg": 8,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1,
        },
        "class_type": "KSampler",
        "_meta": {"title": "KSampler"},
    }
    assert result.graph["6"].title == "Positive"
    assert result.seeds == (seed("3", "seed", "randomize", "3.seed"),)
    hint = ModelHint("demo.safetensors", "https://example.org/demo.safetensors", "checkpoints", NodeId("4"))
    assert (result.model_hints, result.warnings) == ((hint,), ())
    assert validate(result.graph, REGISTRY) == []


def test_reroutes_primitives_muted_and_bypassed_nodes_are_gone() -> None:
    """What remains is what computes, linked to what the rest stood for."""
    result = read("tangled")
    assert sorted(result.graph, key=int) == ["1", "3", "5", "6", "7", "8", "9", "24"]
    assert inputs(result, "8")["vae"] == Link(NodeId("1"), 2)
    assert inputs(result, "3")["model"] == Link(NodeId("1"), 0)
    assert inputs(result, "6")["clip"] == Link(NodeId("1"), 1)
    assert inputs(result, "5") == {"width": 192, "height": 192, "batch_size": 2}
    assert inputs(result, "3")["seed"] == 77
    assert result.seeds == (seed("3", "seed", "increment", "13.value"),)
    assert inputs(result, "24") == {}


def test_subgraphs_are_unfolded_with_the_values_of_each_instance() -> None:
    """Ids are paths; values come from the instance by name, by position or by proxy, else from the widget inside."""
    result = read("subgraphs")
    assert inputs(result, "10:1")["color"] == 65280
    assert inputs(result, "10:2") == {
        "image1": Link(NodeId("1"), 0),
        "image2": Link(NodeId("10:1"), 0),
        "blend_factor": 0.25,
        "blend_mode": "multiply",
    }
    assert inputs(result, "11:7:2")["image1"] == Link(NodeId("10:2"), 0)
    assert inputs(result, "11:7:2")["blend_factor"] == 0.75
    assert inputs(result, "11:7:1")["color"] == 16711680
    assert inputs(result, "12")["images"] == Link(NodeId("11:7:2"), 0)
    assert inputs(result, "13")["images"] == Link(NodeId("11:8"), 0)
    assert (inputs(result, "18:2")["blend_factor"], inputs(result, "18:1")["color"]) == (0.6, 255)


def test_a_muted_or_bypassed_subgraph_is_gone_as_a_whole() -> None:
    """Bypassed, it passes its picture on; muted, it gives nothing."""
    result = read("subgraphs")
    assert not [node for node in result.graph if node.startswith(("14:", "16:"))]
    assert inputs(result, "15") == {"images": Link(NodeId("1"), 0)}
    assert inputs(result, "17") == {}


def test_a_value_on_the_outside_may_be_left_to_the_inside() -> None:
    """An outer subgraph that holds no value for its input leaves the inner one's."""
    data = copy.deepcopy(DATA["subgraphs"])
    outer = next(node for node in data["nodes"] if node["id"] == 11)
    del outer["widgets_values_named"], outer["widgets_values"]
    assert inputs(read_editor(data, REGISTRY), "11:7:2")["blend_factor"] == 0.1


def test_group_nodes_are_unfolded() -> None:
    """Legacy group nodes: sockets by order, values one after the other, hidden ones left alone, outputs that show."""
    result = read("group")
    assert inputs(result, "7:0") == {"text": "a heart", "clip": Link(NodeId("4"), 1)}
    assert inputs(result, "7:1") == {"text": "mud", "clip": Link(NodeId("4"), 1)}
    assert inputs(result, "7:2") == {
        "model": Link(NodeId("4"), 0),
        "positive": Link(NodeId("7:0"), 0),
        "negative": Link(NodeId("7:1"), 0),
        "latent_image": Link(NodeId("5"), 0),
        "seed": 99,
        "steps": 15,
        "cfg": 6.5,
        "sampler_name": "dpmpp_2m",
        "scheduler": "karras",
        "denoise": 1,
    }
    assert inputs(result, "8")["samples"] == Link(NodeId("7:2"), 0)
    assert result.graph["7:1"].title == "Bad"
    assert result.seeds == (seed("7:2", "seed", "increment", "7:2.seed"),)
    assert validate(result.graph, REGISTRY) == []


SAMPLED = {"seed": 5, "steps": 12, "cfg": 7, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 0.5}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5, "fixed", 12, 7, "dpmpp_2m", "karras", 0.5], {}),
        ([5, True, 12, 7, "dpmpp_2m", "karras", 0.5], {}),
        ([5, None, 12, 7, "dpmpp_2m", "karras", 0.5], {}),
        ([5, 12, 7, "dpmpp_2m", "karras", 0.5], {}),
        ([5, "fixed", 12, 7, "dpmpp_2m", "karras", 0.5, "image", "extra"], {}),
        ([5, "fixed", 12], {"cfg": 8.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}),
        ([5, "fixed", 12, 7, None, "karras", 0.5], {"sampler_name": "euler"}),
        (SAMPLED, {}),
        ({**SAMPLED, "control_after_generate": "fixed", "unknown": 1}, {}),
    ],
)
def test_values_find_their_inputs(values: Any, expected: dict[str, Any]) -> None:
    """With and without the seed's extra, too long, too short, with holes, and as an object."""
    result = one({"id": 1, "type": "KSampler", "widgets_values": values})
    assert inputs(result, "1") == SAMPLED | expected


def test_named_values_go_before_positions() -> None:
    """Where a file has both, the names count; the control is still read from the positions."""
    node = {
        "id": 1,
        "type": "KSampler",
        "widgets_values": [0, "decrement", 1, 1, "euler", "normal", 1],
        "widgets_values_named": SAMPLED,
    }
    result = one(node)
    assert inputs(result, "1") == SAMPLED
    assert result.seeds[0].control == "decrement"


def test_a_converted_widget_keeps_its_place_and_the_link_wins() -> None:
    """A linked width still has its value in the list; where the link leads nowhere that value is used."""
    node = {
        "id": 1,
        "type": "EmptyLatentImage",
        "inputs": [{"name": "width", "type": "INT", "link": 1, "widget": {"name": "width"}}],
        "widgets_values": [640, 384, 2],
    }
    other = {"id": 2, "type": "Mixed", "outputs": [{"name": "INT", "type": "INT"}]}
    link = [[1, 2, 0, 1, 0, "INT"]]
    assert inputs(one(node, other, links=link), "1") == {"width": Link(NodeId("2"), 0), "height": 384, "batch_size": 2}
    muted = other | {"mode": 2}
    assert inputs(one(node, muted, links=link), "1") == {"width": 640, "height": 384, "batch_size": 2}


def test_old_files_hold_a_dummy_for_every_socket_only_number() -> None:
    """A list that is longer by the socket-only inputs has values for them, which are dropped."""
    current = one({"id": 1, "type": "Mixed", "widgets_values": ["b", True, "hello"]})
    old = one({"id": 1, "type": "Mixed", "widgets_values": ["b", 0, True, "hello"]})
    assert inputs(old, "1") == inputs(current, "1") == {"kind": "b", "flag": True, "note": "hello"}


def test_upload_buttons_are_dropped() -> None:
    """The value behind the others belongs to a button."""
    assert inputs(one({"id": 1, "type": "LoadImage", "widgets_values": ["a.png", "image"]}), "1") == {"image": "a.png"}
    mask = one({"id": 1, "type": "LoadImageMask", "widgets_values": ["a.png", "red", "image"]})
    assert inputs(mask, "1") == {"image": "a.png", "channel": "red"}


def test_a_file_choice_without_a_file_is_left_out() -> None:
    """An empty choice is no value; validation then says that it is missing."""
    assert inputs(one({"id": 1, "type": "CheckpointLoaderSimple", "widgets_values": [None]}), "1") == {}


def test_a_list_of_nodes_and_links_is_enough() -> None:
    """Where slots are not listed, links go by the order an editor gives them: sockets first."""
    nodes = [{"id": "a", "type": "EmptyImage"}, {"id": "b", "type": "ImageBlend"}, {"id": "c", "type": "PreviewImage"}]
    links = [[1, "a", 0, "b", 0, "IMAGE"], [2, "a", 0, "b", 1, "IMAGE"], [3, "b", 0, "c", 0, "IMAGE"]]
    result = read_editor({"nodes": nodes, "links": links}, REGISTRY)
    assert inputs(result, "b") == {
        "image1": Link(NodeId("a"), 0),
        "image2": Link(NodeId("a"), 0),
        "blend_factor": 0.5,
        "blend_mode": "normal",
    }
    assert validate(result.graph, REGISTRY) == []


def test_both_schemas_give_the_same_graph() -> None:
    """Links as objects are the same links."""
    data = copy.deepcopy(DATA["tangled"])
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    data["links"] = [dict(zip(keys, link, strict=True)) for link in data["links"]]
    data["version"] = 1
    assert read_editor(data, REGISTRY).graph == read("tangled").graph


def test_an_unknown_node_keeps_what_has_a_name() -> None:
    """Its links and named values stay, and validation suggests the type that was meant."""
    node = {
        "id": 2,
        "type": "KSamplr",
        "inputs": [{"name": "latent_image", "type": "LATENT", "link": 1}],
        "widgets_values": {"steps": 3, "control_after_generate": "fixed"},
    }
    result = one({"id": 1, "type": "EmptyLatentImage"}, node, links=[[1, 1, 0, 2, 0, "LATENT"]])
    assert inputs(result, "2") == {"steps": 3, "latent_image": Link(NodeId("1"), 0)}
    problem = next(p for p in validate(result.graph, REGISTRY) if p.type == "missing_node_type")
    assert (problem.node, problem.nearest) == ("2", "KSampler")


A, B = Slot("a", "IMAGE"), Slot("b", "MASK")


@pytest.mark.parametrize(
    ("slots", "offered", "index", "wanted", "expected"),
    [
        ((A, B), "MASK", 1, "*", B),
        ((A, B), "MASK", 5, "*", A),
        ((), "MASK", 0, "*", None),
        ((A, B), "MASK", 1, "MASK", B),
        ((A, B), "MASK", 0, "MASK", B),
        ((B, Slot("any", "*")), "IMAGE", 0, "IMAGE", Slot("any", "*")),
        ((Slot("any", "*"), A), "IMAGE", 5, "IMAGE", A),
        ((B,), "IMAGE", 0, "IMAGE", None),
    ],
)
def test_a_bypassed_node_passes_on_what_fits(
    slots: tuple[Slot, ...], offered: str, index: int, wanted: str, expected: Slot | None
) -> None:
    """The same index if its types fit, else the first equal type, else the first that can be linked."""
    assert bypass(slots, offered, index, wanted) == expected


def ring(mode: int, type_: str) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = [
        {
            "id": i,
            "type": type_,
            "mode": mode,
            "inputs": [{"name": "image", "type": "IMAGE", "link": i}],
            "outputs": [{"name": "IMAGE", "type": "IMAGE"}],
        }
        for i in (1, 2)
    ]
    nodes.append({"id": 3, "type": "PreviewImage", "inputs": [{"name": "images", "type": "IMAGE", "link": 3}]})
    return {"nodes": nodes, "links": [[1, 2, 0, 1, 0, "*"], [2, 1, 0, 2, 0, "*"], [3, 1, 0, 3, 0, "*"]]}


@pytest.mark.parametrize(("mode", "type_"), [(0, "Reroute"), (4, "ImageInvert")])
def test_a_circle_of_reroutes_is_an_error(mode: int, type_: str) -> None:
    """It would be followed forever."""
    with pytest.raises(UnreadableWorkflow, match="leads in a circle"):
        read_editor(ring(mode, type_), REGISTRY)


def test_a_subgraph_in_itself_is_an_error() -> None:
    """Directly or through another one."""
    data = copy.deepcopy(DATA["subgraphs"])
    both, tint = data["definitions"]["subgraphs"]
    tint["nodes"].append({"id": 99, "type": both["id"]})
    with pytest.raises(UnreadableWorkflow, match="contains itself"):
        read_editor(data, REGISTRY)


def test_subgraphs_that_double_at_every_level_are_refused() -> None:
    """Forty levels of two would be a trillion nodes."""
    levels = [
        {"id": f"g{i}", "nodes": [{"id": 1, "type": f"g{i + 1}"}, {"id": 2, "type": f"g{i + 1}"}], "links": []}
        for i in range(40)
    ]
    data = {"nodes": [{"id": 1, "type": "g0"}], "links": [], "definitions": {"subgraphs": levels}}
    with pytest.raises(UnreadableWorkflow, match="used more than 10000 times"):
        read_editor(data, REGISTRY)


def test_long_chains_of_reroutes_are_followed_once() -> None:
    """Fifteen hundred consumers behind as many reroutes all come to the same node."""
    count = 1500
    nodes: list[dict[str, Any]] = [{"id": 0, "type": "EmptyImage"}]
    nodes += [{"id": i, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": i}]} for i in range(1, count)]
    links: list[Any] = [[i, i - 1, 0, i, 0, "*"] for i in range(1, count)]
    for i in range(count, 2 * count):
        nodes.append({"id": i, "type": "PreviewImage", "inputs": [{"name": "images", "type": "IMAGE", "link": i}]})
        links.append([i, count - 1, 0, i, 0, "IMAGE"])
    result = read_editor({"nodes": nodes, "links": links}, REGISTRY)
    assert all(inputs(result, str(i)) == {"images": Link(NodeId("0"), 0)} for i in range(count, 2 * count))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"nodes": {}}, "the workflow: expected a list of nodes, found an object"),
        ({"nodes": [3]}, "the workflow, entry 0 of its nodes: expected a node, found a number"),
        ({"nodes": [{"type": "X"}]}, "expected a node with a number or a text as its id, found null"),
        ({"nodes": [{"id": 5}]}, "node 5: expected the name of its type, found null"),
    ],
)
def test_a_file_without_proper_nodes_is_refused(data: Any, said: str) -> None:
    """The message says which entry is wrong."""
    with pytest.raises(UnreadableWorkflow) as caught:
        read_editor(data, REGISTRY)
    assert said in str(caught.value)


def test_what_is_left_out_is_said() -> None:
    """Two nodes of one id and a link that is none are warnings."""
    twice = {"id": 1, "type": "EmptyImage"}
    result = one(twice, twice, links=[None, "x", [1, 2]])
    assert result.warnings == (
        "the workflow: two nodes have the id 1; the first is used",
        "the workflow: a link that cannot be read is left out",
    )


junk = st.sampled_from([None, True, -1, 3, 1.5, 10**30, "", "x", "Reroute", [], [1, 2], {}, {"name": 3}, 2, 4])


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, inner in items for path in paths(inner, (*here, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> None:
    """Replace what is at ``path``, if an earlier replacement has left such a place."""
    *parents, last = path
    with suppress(KeyError, IndexError, TypeError):
        for key in parents:
            value = value[key]
        value[last] = new


PATHS = {stem: [path for path in paths(data) if path] for stem, data in DATA.items()}


@PROPERTY
@given(st.sampled_from(STEMS), st.data())
def test_a_mutated_file_is_read_or_refused(stem: str, draw: st.DataObject) -> None:
    """Anything may be replaced by anything: the only error is that the file cannot be read, and validation answers."""
    data = copy.deepcopy(DATA[stem])
    for _ in range(draw.draw(st.integers(1, 3))):
        put(data, draw.draw(st.sampled_from(PATHS[stem])), draw.draw(junk))

    def use() -> None:
        graph = read_editor(data, REGISTRY).graph
        validate(graph, REGISTRY)
        json.dumps(write_api(graph))

    assert "\n" not in refusal(use)
