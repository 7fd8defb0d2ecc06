from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.graph.api_format import read_api
from engine.graph.cycles import cycles
from engine.graph.graph import BadLink, Call, Graph, Link, NodeId
from engine.graph.problems import Problem
from engine.graph.validate import coerced, output_nodes, validate
from tests.engine.graph.vocabulary import NODES, PROPERTY, ListedFiles, registry

REGISTRY = registry()
FILES = ListedFiles({"checkpoints": ["demo.safetensors", "sd15.safetensors"], "input": ["cat.png"]})


def txt2img(**changes: dict[str, Any]) -> Graph:
    """A valid workflow; ``changes`` are inputs by node, those of the value ... are taken out."""
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "3": (
            "KSampler",
            {
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
                "seed": 1,
                "steps": 20,
                "cfg": 8.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        ),
        "4": ("CheckpointLoaderSimple", {"ckpt_name": "demo.safetensors"}),
        "5": ("EmptyLatentImage", {"width": 512, "height": 512, "batch_size": 1}),
        "6": ("CLIPTextEncode", {"text": "a cat", "clip": ["4", 1]}),
        "7": ("CLIPTextEncode", {"text": "", "clip": ["4", 1]}),
        "8": ("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}),
        "9": ("SaveImage", {"images": ["8", 0], "filename_prefix": "x"}),
    }
    data = {}
    for node, (class_type, inputs) in nodes.items():
        merged = inputs | changes.get(f"n{node}", {})
        kept = {name: value for name, value in merged.items() if value is not ...}
        data[node] = {"class_type": class_type, "inputs": kept}
    return read_api(data)


def types(problems: list[Problem]) -> list[tuple[str, str | None, str | None]]:
    return [(problem.type, problem.node, problem.input) for problem in problems]


def test_a_good_workflow_has_no_problems() -> None:
    """Nothing is reported where nothing is wrong."""
    assert validate(txt2img(), REGISTRY, FILES) == []


@pytest.mark.parametrize(
    ("node", "inputs", "type_", "said"),
    [
        ("3", {"steps": ...}, "required_input_missing", "expected a whole number from 1 to 10000, usually 20"),
        ("3", {"model": ...}, "required_input_missing", "expected a link to a MODEL output"),
        ("3", {"steps": 0}, "value_smaller_than_min", "expected at least 1, found 0"),
        ("3", {"steps": 10_001}, "value_bigger_than_max", "expected at most 10000, found 10001"),
        ("3", {"cfg": -0.5}, "value_smaller_than_min", "expected at least 0, found -0.5"),
        ("3", {"seed": 2**64}, "value_bigger_than_max", "expected at most 18446744073709551615"),
        ("3", {"steps": "abc"}, "invalid_input_type", 'expected a whole number from 1 to 10000, found "abc"'),
        ("3", {"steps": None}, "invalid_input_type", "found null"),
        ("3", {"steps": math.inf}, "invalid_input_type", "found inf"),
        ("3", {"cfg": math.nan}, "invalid_input_type", "expected a number from 0 to 100, found nan"),
        ("3", {"cfg": "inf"}, "invalid_input_type", 'found "inf"'),
        ("3", {"model": "sd15"}, "invalid_input_type", 'expected a link to a MODEL output, found "sd15"'),
        ("3", {"sampler_name": "eulr"}, "value_not_in_list", 'found "eulr"; did you mean "euler"?'),
        ("3", {"scheduler": 5}, "value_not_in_list", "expected one of normal, karras, found 5"),
        ("3", {"model": ["4", 1]}, "return_type_mismatch", "expected MODEL, found CLIP from output 1 of node 4"),
        ("3", {"model": ["4", 3]}, "bad_link", "expected an output from 0 to 2, found output 3 of node 4"),
        ("3", {"model": ["44", 0]}, "bad_link", "found one to node 44, which is not there"),
        ("3", {"model": ["4"]}, "bad_linked_input", 'expected a link [node id, output number], found ["4"]'),
        ("3", {"stepz": ["5", 0]}, "unknown_input", "KSampler has no such input, it takes model, positive"),
        ("4", {"ckpt_name": "demo.safetensor"}, "missing_file", 'a file of the folder "checkpoints"'),
        ("4", {"ckpt_name": 7}, "invalid_input_type", 'expected a file of the folder "checkpoints", found 7'),
    ],
)
def test_one_mistake_is_one_problem(node: str, inputs: dict[str, Any], type_: str, said: str) -> None:
    """Each mistake is named once, with its node, its input, and what was expected and found."""
    (problem,) = validate(txt2img(**{f"n{node}": inputs}), REGISTRY, FILES)
    assert (problem.type, problem.node, problem.input) == (type_, node, next(iter(inputs)))
    assert problem.class_type == txt2img()[node].type
    assert problem.message.startswith(f"node {node} ({problem.class_type}")
    assert said in problem.message
    assert "\n" not in problem.message


def test_the_nearest_name_is_given() -> None:
    """A misspelt type, input, choice and file each come with the name that was meant."""
    graph = txt2img(n3={"steps": ..., "stepz": 3, "scheduler": "karas"}, n4={"ckpt_name": "demo2.safetensors"})
    graph = graph.with_call("9", Call("SaveImge", graph["9"].inputs))
    nearest = {problem.type: problem.nearest for problem in validate(graph, REGISTRY, FILES)}
    assert nearest == {
        "required_input_missing": None,
        "unknown_input": "steps",
        "value_not_in_list": "karras",
        "missing_file": "demo.safetensors",
        "missing_node_type": "SaveImage",
    }


def test_all_problems_come_at_once_and_in_order() -> None:
    """Problems follow the order of the nodes in the file and of the inputs in the node."""
    graph = txt2img(
        n3={"denoise": 2, "steps": 0, "model": ["4", 2]}, n4={"ckpt_name": "gone.safetensors"}, n5={"width": "wide"}
    )
    assert types(validate(graph, REGISTRY, FILES)) == [
        ("return_type_mismatch", "3", "model"),
        ("value_smaller_than_min", "3", "steps"),
        ("value_bigger_than_max", "3", "denoise"),
        ("missing_file", "4", "ckpt_name"),
        ("invalid_input_type", "5", "width"),
    ]


def test_no_files_are_looked_for_without_files() -> None:
    """Without a place to look in, file names are taken as they are."""
    assert validate(txt2img(n4={"ckpt_name": "gone.safetensors"}), REGISTRY) == []


def test_an_unfinished_corner_that_no_output_needs_is_no_problem() -> None:
    """As in the editor, what does not run may be incomplete; but a type nobody knows is always reported."""
    graph = txt2img().with_call("20", Call("VAEDecode", {}))
    assert validate(graph, REGISTRY, FILES) == []
    graph = graph.with_call("21", Call("Unheard", {}))
    assert types(validate(graph, REGISTRY, FILES)) == [("missing_node_type", "21", None)]
    graph = graph.with_call("21", Call("Unheard", {"image": Link(NodeId("20"), 0)}))
    told = {(problem.type, problem.node) for problem in validate(graph, REGISTRY, FILES)}
    assert told == {("missing_node_type", "21"), ("required_input_missing", "20")}


def test_a_cut_connection_does_not_hide_what_lies_behind_it() -> None:
    """When a link is broken, the nodes it may have led to are checked as well."""
    graph = txt2img(n3={"latent_image": ["55", 0]}, n5={"width": 1})
    assert types(validate(graph, REGISTRY, FILES)) == [
        ("bad_link", "3", "latent_image"),
        ("value_smaller_than_min", "5", "width"),
    ]


def test_only_what_the_targets_need_is_checked() -> None:
    """With targets, mistakes elsewhere do not matter."""
    graph = txt2img(n3={"steps": 0})
    assert validate(graph, REGISTRY, FILES, targets=["6"]) == []
    assert types(validate(graph, REGISTRY, FILES, targets=["3"])) == [("value_smaller_than_min", "3", "steps")]
    assert types(validate(graph, REGISTRY, FILES, targets=["nowhere"]))[-1] == ("prompt_no_outputs", None, None)


def test_a_workflow_without_output_is_a_problem() -> None:
    """Also the empty workflow has nothing to run for."""
    assert types(validate(Graph(), REGISTRY)) == [("prompt_no_outputs", None, None)]
    (problem,) = validate(Graph({"1": Call("EmptyImage", txt2img_size())}), REGISTRY)
    assert "none of the workflow's 1 nodes saves or shows anything" in problem.message


def txt2img_size() -> dict[str, int]:
    return {"width": 8, "height": 8, "batch_size": 1, "color": 0}


def test_a_cycle_is_named_with_its_path() -> None:
    """The path begins at the node that comes first in the file and follows the data."""
    graph = Graph(
        {
            "a": Call("ImageInvert", {"image": Link(NodeId("c"), 0)}),
            "b": Call("ImageInvert", {"image": Link(NodeId("a"), 0)}),
            "c": Call("ImageInvert", {"image": Link(NodeId("b"), 0)}),
            "d": Call("PreviewImage", {"images": Link(NodeId("c"), 0)}),
        }
    )
    (problem,) = validate(graph, REGISTRY)
    assert (problem.type, problem.node, problem.input) == ("cycle", "a", "image")
    assert "a -> b -> c -> a" in problem.message


def test_a_node_that_feeds_itself_is_a_cycle() -> None:
    """The shortest cycle has one node."""
    graph = Graph({"1": Call("ImageInvert", {"image": Link(NodeId("1"), 0)})})
    assert cycles(graph) == [("1",)]


def test_separate_cycles_are_all_found() -> None:
    """Two cycles without a common node are two problems."""
    pairs = [("1", "2"), ("2", "1"), ("3", "4"), ("4", "3"), ("5", "1")]
    graph = Graph({node: Call("ImageInvert", {"image": Link(NodeId(source), 0)}) for node, source in pairs})
    assert cycles(graph) == [("1", "2"), ("3", "4")]


def test_a_long_chain_is_no_matter_of_depth() -> None:
    """Five thousand nodes in a row validate, and closed to a ring they are one cycle with a short message."""
    count = 5_000
    calls = {str(i): Call("ImageInvert", {"image": Link(NodeId(str(i - 1)), 0)}) for i in range(1, count)}
    start = {"0": Call("EmptyImage", txt2img_size())}
    end = {"end": Call("PreviewImage", {"images": Link(NodeId(str(count - 1)), 0)})}
    assert validate(Graph(start | calls | end), REGISTRY) == []
    ring = {"0": Call("ImageInvert", {"image": Link(NodeId(str(count - 1)), 0)})}
    (problem,) = validate(Graph(ring | calls | end), REGISTRY)
    assert problem.type == "cycle"
    assert len(problem.message) < 300


def test_texts_take_choices_and_wildcards_take_all() -> None:
    """A choice feeds a text, a text does not feed a choice, a union takes its members."""
    source = Call("Mixed", {"kind": "a", "amount": 1})

    def problems(name: str, link: tuple[str, int]) -> list[str]:
        user = Call("Mixed", {"kind": "a", "amount": 1} | {name: Link(NodeId(link[0]), link[1])})
        graph = Graph(
            {
                "1": source,
                "2": Call("LoadImage", {"image": "cat.png"}),
                "any": Call("Anything", {"value": Link(NodeId("1"), 0)}),
                "3": user,
            }
        )
        return [problem.type for problem in validate(graph, REGISTRY, FILES, targets=["3"])]

    assert problems("note", ("1", 1)) == []
    assert problems("kind", ("1", 2)) == ["return_type_mismatch"]
    assert problems("kind", ("1", 1)) == []
    assert problems("later", ("2", 1)) == []
    assert problems("later", ("1", 0)) == ["return_type_mismatch"]
    assert problems("later", ("any", 0)) == []
    assert problems("amount", ("1", 0)) == []


def test_undeclared_inputs_are_fine_where_a_node_takes_them() -> None:
    """A node with ``**extra`` gets what it is given, as long as its links lead somewhere."""
    call = Call("Anything", {"value": 1, "more": 2, "even": Link(NodeId("9"), 0), "bad": BadLink((1, 2, 3))})
    assert types(validate(Graph({"1": call}), REGISTRY, targets=["1"])) == [
        ("bad_link", "1", "even"),
        ("bad_linked_input", "1", "bad"),
    ]


def test_what_other_versions_took_is_left_out() -> None:
    """A literal that the node does not take, and that is like nothing it lacks, neither counts as unknown nor stays."""
    graph = Graph(
        {
            "1": Call("LoadImage", {"image": "cat.png", "upload": "image", "imag": "dog.png"}),
            "2": Call("PreviewImage", {"images": Link(NodeId("1"), 0)}),
        }
    )
    assert validate(graph, REGISTRY, FILES) == []
    assert dict(coerced(graph, REGISTRY)["1"].inputs) == {"image": "cat.png"}


def test_a_misspelt_optional_input_is_no_leftover() -> None:
    """It would run with the default instead of what was meant."""
    graph = Graph(
        {
            "0": Call("Anything", {"value": 1}),
            "1": Call("Mixed", {"kind": "a", "amount": Link(NodeId("0"), 0), "flagg": True, "unlike": 3}),
        }
    )
    (problem,) = validate(graph, REGISTRY, FILES, targets=["1"])
    assert (problem.type, problem.input, problem.nearest) == ("unknown_input", "flagg", "flag")


def test_a_node_checks_itself_last() -> None:
    """A node's own check sees coerced values, None for links, and is asked only if the rest is fine."""
    equal = Graph({"1": Call("Square", {"width": "8", "height": 8})})
    assert validate(equal, REGISTRY) == []
    (problem,) = validate(Graph({"1": Call("Square", {"width": 8, "height": 9})}), REGISTRY)
    assert (problem.type, problem.node) == ("custom_validation_failed", "1")
    assert problem.message == "node 1 (Square): width and height have to be equal"
    linked = {"0": Call("Mixed", {"kind": "a", "amount": 1})}
    assert validate(Graph(linked | {"1": Call("Square", {"width": Link(NodeId("0"), 0), "height": 9})}), REGISTRY) == []


def test_a_check_that_fails_is_reported_not_raised() -> None:
    """A bug in a node's check is a problem of that node."""
    (problem,) = validate(Graph({"1": Call("Broken", {"value": 1})}), REGISTRY)
    assert problem.type == "exception_during_validation"
    assert "RuntimeError: out of order" in problem.message


def test_literals_become_what_the_inputs_take() -> None:
    """int(), float(), str() and bool() as ComfyUI has them, with the type the input has."""
    graph = Graph(
        {
            "1": Call("Mixed", {"kind": "a", "amount": 20.9, "flag": 1, "note": 5}),
            "2": Call("ImageBlend", {"blend_factor": 1}),
            "3": Call("Mixed", {"kind": "z", "amount": "abc"}),
        }
    )
    done = coerced(graph, REGISTRY)
    assert repr(dict(done["1"].inputs)) == "{'kind': 'a', 'amount': 20, 'flag': True, 'note': '5'}"
    assert repr(dict(done["2"].inputs)) == "{'blend_factor': 1.0}"
    assert done["3"] == graph["3"]


def test_titles_stand_in_messages() -> None:
    """A title of one's own is quoted, on one line, whatever it holds."""
    graph = txt2img(n3={"steps": 0})
    graph = graph.with_call("3", replace(graph["3"], title="First\npass"))
    (problem,) = validate(graph, REGISTRY, FILES)
    assert problem.message.startswith('node 3 (KSampler "First pass"), input steps: ')
    assert problem.to_json() == {
        "type": "value_smaller_than_min",
        "node": "3",
        "class_type": "KSampler",
        "title": "First\npass",
        "input": "steps",
        "message": problem.message,
    }


def test_output_nodes_are_found() -> None:
    """The outputs are what saves or shows."""
    assert output_nodes(txt2img(), REGISTRY) == ("9",)


node_ids = st.sampled_from(["1", "2", "3", "4", "5"])
literals: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 7, 2**70, 1.5, math.nan, math.inf, "", "euler", "abc", "a" * 999, "\x00", {"a": 1}, []]
)
links = st.builds(Link, node_ids.map(NodeId), st.integers(-1, 3))
names = st.sampled_from(sorted({known.name for spec in NODES for known in spec.inputs} | {"upload", "wrong"}))
inputs = st.dictionaries(names, literals | links | st.just(BadLink((1,))), max_size=6)
type_names = st.sampled_from([*(spec.type for spec in NODES), "Unheard"])
graphs = st.dictionaries(node_ids, st.builds(Call, type_names, inputs), max_size=5).map(Graph)


@PROPERTY
@given(graphs, st.booleans())
def test_validate_never_raises_and_does_not_care_what_nodes_are_called(graph: Graph, with_files: bool) -> None:
    """Any graph gets an answer, and other ids give the same problems in the same order."""
    files = FILES if with_files else None
    found = validate(graph, REGISTRY, files)
    renamed = graph_with(graph, "node-")
    again = validate(renamed, REGISTRY, files)
    assert [(p.type, p.input, p.class_type) for p in again] == [(p.type, p.input, p.class_type) for p in found]
    assert all("\n" not in problem.message and len(problem.message) < 1500 for problem in found)


@PROPERTY
@given(graphs)
def test_coercing_twice_is_coercing_once(graph: Graph) -> None:
    """What is coerced stays as it is, and a valid graph stays valid."""
    once = coerced(graph, REGISTRY)
    assert repr({node: dict(call.inputs) for node, call in coerced(once, REGISTRY).items()}) == repr(
        {node: dict(call.inputs) for node, call in once.items()}
    )
    if not validate(graph, REGISTRY):
        assert not validate(once, REGISTRY)


def graph_with(graph: Graph, prefix: str) -> Graph:
    """The graph with a prefix before every id."""

    def renamed(value: Any) -> Any:
        return Link(NodeId(prefix + value.node), value.output) if isinstance(value, Link) else value

    return Graph(
        {
            prefix + node: Call(call.type, {name: renamed(value) for name, value in call.inputs.items()}, call.title)
            for node, call in graph.items()
        }
    )
