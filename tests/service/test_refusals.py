"""Prompts judged in ComfyUI's words: whole bodies, each row of its tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.files import LocalFiles
from engine.graph.graph import Link, NodeId
from engine.service.comfy.refusals import NO_PROMPT, Checked, check_prompt, model_files
from engine.service.comfy.routing import as_json
from engine.service.plain import DEEPEST
from tests.service.prompting import REGISTRY, accepted, image, refused, save, split_hints

# the whole prompt


def test_no_prompt() -> None:
    """A null is no prompt."""
    details = {"message": "No prompt provided", "details": "No prompt provided", "extra_info": {}}
    assert refused(None) == {"error": {"type": "no_prompt", **details}, "node_errors": {}}
    assert NO_PROMPT["type"] == "no_prompt"


@pytest.mark.parametrize("entry", [{"inputs": {}}, [], 5, None, "x"])
def test_no_class_type(entry: Any) -> None:
    """A node without a class_type, or that is no object, is named by its id, wherever it is."""
    assert refused({"1": image(), "2": save(["1", 0]), "7": entry}) == {
        "error": {
            "type": "invalid_prompt",
            "message": "Cannot execute because a node is missing the class_type property.",
            "details": "Node ID '#7'",
            "extra_info": {},
        },
        "node_errors": {},
    }


def test_unknown_class() -> None:
    """A node type nobody knows is named, also where no output needs it; the hint says what it may be."""
    unknown = {"class_type": "KSamplr", "inputs": {}}
    assert refused({"1": image(), "2": save(["1", 0]), "7": unknown}) == {
        "error": {
            "type": "invalid_prompt",
            "message": "Cannot execute because node KSamplr does not exist.",
            "details": "Node ID '#7'",
            "extra_info": {"hint": 'did you mean "KSampler"?'},
        },
        "node_errors": {},
    }


@pytest.mark.parametrize("class_type", [None, 5, [], {}, True])
def test_class_type_of_another_type(class_type: Any) -> None:
    """Whatever is no text names no node type."""
    error = refused({"1": {"class_type": class_type, "inputs": {}}})["error"]
    assert error["type"] == "invalid_prompt"
    assert error["message"].startswith("Cannot execute because node ")


@pytest.mark.parametrize(
    ("prompt", "targets"),
    [({}, None), ({"1": image()}, None), ({"1": image(), "2": save(["1", 0])}, ["1"]), ({"2": save(["1", 0])}, [])],
)
def test_no_outputs(prompt: Any, targets: Any) -> None:
    """Nothing to run for: no nodes, no output node among them, or none among the targets."""
    assert refused(prompt, targets=targets) == {
        "error": {
            "type": "prompt_no_outputs",
            "message": "Prompt has no outputs",
            "details": "",
            "extra_info": {},
        },
        "node_errors": {},
    }


@pytest.mark.parametrize("prompt", [[], "x", 5, True, [{"class_type": "SaveImage"}]])
def test_no_object(prompt: Any) -> None:
    """A prompt is an object."""
    assert refused(prompt)["error"]["type"] == "invalid_prompt"


def test_nested_too_deeply() -> None:
    """What is nested beyond all use is refused, not read."""
    value: Any = 1
    for _ in range(DEEPEST + 1):
        value = [value]
    error = refused({"1": image(width={"__value__": value}), "2": save(["1", 0])})["error"]
    assert error["message"] == f"expected at most {DEEPEST} objects and lists within each other, found more"


def test_half_a_character() -> None:
    """An id that cannot be written as UTF-8 is refused, since it could be told to nobody."""
    assert refused({"\ud800": save(["1", 0])})["error"]["type"] == "invalid_prompt"


def test_fault_of_an_output() -> None:
    """The details are the output node's own errors, line by line; its entry says which outputs need it."""
    body = refused({"1": {"class_type": "SaveImage", "inputs": {}}})
    node_errors, hints = split_hints(body["node_errors"])
    missing = {"type": "required_input_missing", "message": "Required input is missing"}
    assert body["error"] == {
        "type": "prompt_outputs_failed_validation",
        "message": "Prompt outputs failed validation",
        "details": "Required input is missing: images\nRequired input is missing: filename_prefix",
        "extra_info": {},
    }
    assert node_errors == {
        "1": {
            "errors": [
                {**missing, "details": "images", "extra_info": {"input_name": "images"}},
                {**missing, "details": "filename_prefix", "extra_info": {"input_name": "filename_prefix"}},
            ],
            "dependent_outputs": ["1"],
            "class_type": "SaveImage",
        }
    }
    assert hints[0].startswith('node 1 (SaveImage "Save Image"), input images: it is required and not there')


def test_fault_upstream() -> None:
    """Only the node at fault has an entry, with all outputs that need it, and the details are empty."""
    faulty = image()
    del faulty["inputs"]["width"]
    invert = {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}
    body = refused({"1": faulty, "2": invert, "3": save(["2", 0]), "4": save(["1", 0])})
    assert body["error"]["details"] == ""
    assert list(body["node_errors"]) == ["1"]
    assert body["node_errors"]["1"]["dependent_outputs"] == ["3", "4"]
    assert body["node_errors"]["1"]["class_type"] == "EmptyImage"


def test_one_good_and_one_bad_output() -> None:
    """What is sound runs; what is wrong with the rest is told, and what no output needs is not looked at."""
    prompt = {
        "1": image(),
        "2": save(["1", 0]),
        "3": save(["77", 0]),
        "4": image(width=-1),
        "5": {"class_type": "Gate"},
    }
    checked = accepted(prompt)
    assert checked.targets == ("2",)
    node_errors, hints = split_hints(checked.node_errors)
    assert node_errors == {
        "3": {
            "errors": [
                {
                    "type": "exception_during_validation",
                    "message": "Exception when validating node",
                    "details": "'77'",
                    "extra_info": {"exception_type": "KeyError", "traceback": []},
                }
            ],
            "dependent_outputs": ["3"],
            "class_type": "SaveImage",
        }
    }
    assert "found one to node 77, which is not there" in hints[0]
    assert checked.prompt["5"] == {"class_type": "Gate", "inputs": {}}


def test_targets() -> None:
    """Of the outputs only those that are asked for are judged."""
    prompt = {"1": image(), "2": save(["1", 0]), "3": save(["77", 0]), "4": save(["1", 0])}
    checked = accepted(prompt, targets=["4", "1", "nobody"])
    assert (checked.targets, checked.node_errors) == (("4",), {})


@pytest.mark.parametrize("length", [1, 2, 30])
def test_cycle(length: int) -> None:
    """A cycle is nobody's fault; the details say where it is. An output beside it runs."""
    nodes = {
        str(index): {"class_type": "ImageInvert", "inputs": {"image": [str((index + 1) % length), 0]}}
        for index in range(length)
    }
    body = refused({**nodes, "out": save(["0", 0])})
    assert body["node_errors"] == {}
    assert body["error"]["type"] == "prompt_outputs_failed_validation"
    assert "the node needs its own result" in body["error"]["details"]
    checked = accepted({**nodes, "out": save(["0", 0]), "1000": image(), "fine": save(["1000", 0])})
    assert (checked.targets, checked.node_errors) == (("fine",), {})


def test_many_cycles() -> None:
    """No output behind a cycle is ever accepted, however many cycles there are."""
    nodes: dict[str, Any] = {}
    for index in range(50):
        nodes[f"a{index}"] = {"class_type": "ImageInvert", "inputs": {"image": [f"a{index}", 0]}}
        nodes[f"out{index}"] = save([f"a{index}", 0])
    assert refused(nodes)["node_errors"] == {}


# what is accepted


def test_what_is_kept_of_a_prompt() -> None:
    """Literals are converted, lists unwrapped, titles kept; what no node takes and what is left over goes."""
    prompt = {
        "1": image(width="64", height=64.0, unknown=3, linked=["2", 0]) | {"_meta": {"title": "t"}, "is_changed": [1]},
        "2": save([1, 0.0], _meta={"title": "Out", "ver": "1"}),
        "3": {"class_type": "PreviewAny", "inputs": {"source": {"__value__": [1, 2]}}},
    }
    checked = accepted(prompt)
    assert checked.prompt == {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0},
            "_meta": {"title": "t"},
        },
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": "a"},
            "_meta": {"title": "Out", "ver": "1"},
        },
        "3": {"class_type": "PreviewAny", "inputs": {"source": {"__value__": [1, 2]}}},
    }
    assert checked.targets == ("2", "3")
    assert checked.graph["2"].inputs["images"] == Link(NodeId("1"), 0)
    assert checked.graph["3"].inputs["source"] == [1, 2]
    assert checked.node_errors == {}
    assert "is_changed" in prompt["1"], "the client's own object is left as it is"


def test_model_files() -> None:
    """The models a graph names, each once; pictures are none."""
    loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x/a.safetensors"}}
    prompt = {
        "1": loader,
        "2": loader,
        "3": {"class_type": "VAELoader", "inputs": {"vae_name": "v.safetensors"}},
        "4": {"class_type": "LoadImage", "inputs": {"image": "p.png"}},
        "5": save(["4", 0]),
        "6": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": ["5", 0]}},
    }
    assert model_files(accepted(prompt).graph, REGISTRY) == ("checkpoints/x/a.safetensors", "vae/v.safetensors")


# anything at all

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**4000)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
IDS = st.sampled_from(["1", "2", "3", "10:4", "x"])
LINKS = st.tuples(IDS | st.integers(0, 3), st.integers(-2, 4)).map(list)
NAMES = st.sampled_from(sorted({known.name for spec in REGISTRY.values() for known in spec.inputs}))
TYPES = st.sampled_from(sorted(REGISTRY))
NODES = st.fixed_dictionaries(
    {"class_type": TYPES}, optional={"inputs": st.dictionaries(NAMES, LINKS | JSON, max_size=6) | JSON, "_meta": JSON}
)
PROMPTS = st.dictionaries(IDS, NODES, max_size=5) | st.dictionaries(IDS, NODES | JSON, max_size=4) | JSON


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(prompt=PROMPTS, targets=st.none() | st.lists(IDS, max_size=3))
def test_any_json(files: LocalFiles, prompt: Any, targets: list[str] | None) -> None:
    """Whatever a client posts, the answer is a prompt that can run or a refusal that can be sent."""
    found = check_prompt(prompt, REGISTRY, files, targets)
    if isinstance(found, Checked):
        assert found.targets
        assert isinstance(check_prompt(found.prompt, REGISTRY, files, map(str, found.targets)), Checked)
    else:
        assert as_json(found.body, found.status).status_code == 400
        assert found.body["error"]["type"] in {
            "no_prompt",
            "invalid_prompt",
            "prompt_no_outputs",
            "prompt_outputs_failed_validation",
        }
        assert all(entry["errors"] and entry["dependent_outputs"] for entry in found.body["node_errors"].values())
