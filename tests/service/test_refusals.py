"""Prompts judged in ComfyUI's words: whole bodies, each row of its tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import DefinitionError, MezzotintError
from engine.files import LocalFiles
from engine.graph.graph import Link, NodeId
from engine.places import Places
from engine.registry import Registry
from engine.service.comfy.refusals import DEEPEST, NO_PROMPT, Checked, Refusal, check_prompt, model_files
from engine.service.comfy.routing import as_json
from engine.spec import InputSpec, NodeSpec, Output
from engine.types import SocketType


def vocabulary() -> Registry:
    registry = Registry()
    registry.load()
    return registry


REGISTRY = vocabulary()


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    places = Places(
        models=(tmp_path / "models",),
        input=tmp_path / "input",
        output=tmp_path / "output",
        temp=tmp_path / "temp",
        state=tmp_path / "state",
    )
    checkpoints = tmp_path / "models" / "checkpoints"
    for folder in (checkpoints, places.input):
        folder.mkdir(parents=True)
    (checkpoints / "a.safetensors").write_bytes(b"")
    return places.open_files()


def image(**inputs: Any) -> dict[str, Any]:
    usual = {"width": 64, "height": 64, "batch_size": 1, "color": 0}
    return {"class_type": "EmptyImage", "inputs": {**usual, **inputs}}


def save(source: Any, **more: Any) -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"images": source, "filename_prefix": "a"}, **more}


def refused(prompt: Any, files: LocalFiles | None = None, registry: Registry = REGISTRY, **more: Any) -> dict[str, Any]:
    found = check_prompt(prompt, registry, files, **more)
    assert isinstance(found, Refusal), found
    assert found.status == 400
    json.dumps(found.body, allow_nan=False)
    return found.body


def accepted(prompt: Any, files: LocalFiles | None = None, **more: Any) -> Checked:
    found = check_prompt(prompt, REGISTRY, files, **more)
    assert isinstance(found, Checked), found
    return found


def split_hints(body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The node errors without our own hints, and those."""
    hints = [error["extra_info"].pop("hint") for node in body.values() for error in node["errors"]]
    return body, hints


def only_error(prompt: Any, node: str, files: LocalFiles | None = None, registry: Registry = REGISTRY) -> Any:
    """The one thing that is wrong with one node, and our hint."""
    errors = refused(prompt, files, registry)["node_errors"][node]["errors"]
    assert len(errors) == 1, errors
    return errors[0], errors[0]["extra_info"].pop("hint")


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


# what is wrong with nodes


def test_bad_linked_input() -> None:
    """A bare list that is no link."""
    error, hint = only_error({"1": save(["1", 0, 2])}, "1")
    assert error == {
        "type": "bad_linked_input",
        "message": "Bad linked input, must be a length-2 list of [node_id, slot_index]",
        "details": "images",
        "extra_info": {"input_name": "images", "input_config": ["IMAGE", {}], "received_value": ["1", 0, 2]},
    }
    assert '{"__value__": [...]}' in hint


def test_return_type_mismatch() -> None:
    """A link between types that do not fit."""
    error, _ = only_error({"1": {"class_type": "PrimitiveInt", "inputs": {"value": 3}}, "2": save(["1", 0])}, "2")
    assert error == {
        "type": "return_type_mismatch",
        "message": "Return type mismatch between linked nodes",
        "details": "images, received_type(INT) mismatch input_type(IMAGE)",
        "extra_info": {
            "input_name": "images",
            "input_config": ["IMAGE", {}],
            "received_type": "INT",
            "linked_node": ["1", 0],
        },
    }


def test_invalid_input_type() -> None:
    """A literal that cannot be converted, with what the conversion says of it."""
    error, _ = only_error({"1": image(width="wide"), "2": save(["1", 0])}, "1")
    exception = "invalid literal for int() with base 10: 'wide'"
    config = error["extra_info"].pop("input_config")
    assert config[0] == "INT"
    assert config[1]["min"] == 1
    assert error == {
        "type": "invalid_input_type",
        "message": "Failed to convert an input value to a INT value",
        "details": f"width, wide, {exception}",
        "extra_info": {"input_name": "width", "received_value": "wide", "exception_message": exception},
    }


def test_literal_for_a_socket() -> None:
    """A literal where only a link can be is told in the same shape, in our words."""
    error, _ = only_error({"1": save(5)}, "1")
    assert error["type"] == "invalid_input_type"
    assert error["message"] == "Failed to convert an input value to a IMAGE value"
    assert error["details"] == "images, 5, expected a link to an IMAGE output, found 5"


@pytest.mark.parametrize(
    ("value", "type_", "message"),
    [
        (0, "value_smaller_than_min", "Value 0 smaller than min of 1"),
        ("-3", "value_smaller_than_min", "Value -3 smaller than min of 1"),
        (10**6, "value_bigger_than_max", "Value 1000000 bigger than max of 16384"),
    ],
)
def test_range(value: Any, type_: str, message: str) -> None:
    """A number out of its range, after conversion."""
    error, hint = only_error({"1": image(width=value), "2": save(["1", 0])}, "1")
    assert error["extra_info"].pop("input_config")[0] == "INT"
    assert error == {
        "type": type_,
        "message": message,
        "details": "width",
        "extra_info": {"input_name": "width", "received_value": int(value)},
    }
    assert hint.startswith("node 1 (EmptyImage")


def test_value_not_in_short_list() -> None:
    """A choice that is none of a few is told with all of them."""
    options = ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]
    latent = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    scale = {"class_type": "LatentUpscaleBy", "inputs": {"samples": ["1", 0], "upscale_method": "x", "scale_by": 1.5}}
    keep = {"class_type": "SaveLatent", "inputs": {"samples": ["2", 0], "filename_prefix": "a"}}
    error, _ = only_error({"1": latent, "2": scale, "3": keep}, "2")
    assert error == {
        "type": "value_not_in_list",
        "message": "Value not in list",
        "details": f"upscale_method: 'x' not in {options}",
        "extra_info": {"input_name": "upscale_method", "input_config": [options, {}], "received_value": "x"},
    }


def test_value_not_in_long_list() -> None:
    """Of more than twenty choices only the number is told."""
    sampler = REGISTRY["KSampler"].input("sampler_name")
    assert sampler is not None
    assert sampler.options is not None
    number = len(sampler.options)
    inputs = {"seed": 1, "steps": 1, "cfg": 1, "sampler_name": "eulr", "scheduler": "normal", "denoise": 1}
    links = {"model": ["1", 0], "positive": ["1", 0], "negative": ["1", 0], "latent_image": ["1", 0]}
    prompt = {
        "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "2": {"class_type": "KSampler", "inputs": inputs | links},
        "3": {"class_type": "SaveLatent", "inputs": {"samples": ["2", 0], "filename_prefix": "a"}},
    }
    errors = refused(prompt)["node_errors"]["2"]["errors"]
    error = next(error for error in errors if error["type"] == "value_not_in_list")
    assert error["details"] == f"sampler_name: 'eulr' not in (list of length {number})"
    assert error["extra_info"]["input_config"] is None
    assert error["extra_info"]["received_value"] == "eulr"
    assert error["extra_info"]["hint"].endswith('did you mean "euler"?')


def test_missing_model(files: LocalFiles) -> None:
    """A model that is in no folder is a value that is not in the list of those that are."""
    names: list[str] = ["a.safetensors"]
    for given_name in ("b.safetensors", "../a.safetensors"):
        loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": given_name}}
        error, hint = only_error(
            {"1": loader, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}, "1", files
        )
        assert error == {
            "type": "value_not_in_list",
            "message": "Value not in list",
            "details": f"ckpt_name: '{given_name}' not in ['a.safetensors']",
            "extra_info": {"input_name": "ckpt_name", "input_config": [names, {}], "received_value": given_name},
        }
        assert "ckpt_name" in hint


def test_model_name_of_another_type(files: LocalFiles) -> None:
    """A number is the name of no model."""
    loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": 5}}
    error, _ = only_error({"1": loader, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}, "1", files)
    assert (error["type"], error["details"]) == ("value_not_in_list", "ckpt_name: '5' not in ['a.safetensors']")


def test_missing_picture(files: LocalFiles) -> None:
    """A picture that is not there is what LoadImage itself objects to."""
    load = {"class_type": "LoadImage", "inputs": {"image": "x.png"}}
    error, _ = only_error({"1": load, "2": save(["1", 0])}, "1", files)
    assert error == {
        "type": "custom_validation_failed",
        "message": "Custom validation failed for node",
        "details": "image - Invalid image file: x.png",
        "extra_info": {"input_name": "image"},
    }


def judging(check: Any, **more: Any) -> Registry:
    """The vocabulary and an output node whose own check judges its inputs."""
    registry = vocabulary()
    inputs = (InputSpec("a", SocketType("STRING"), True), InputSpec("b", SocketType("INT"), True))
    spec = NodeSpec(
        "Judge", lambda **_: None, inputs, (Output("INT"),), "Judge", "test", output_node=True, check=check, **more
    )
    registry.add(spec, replace(spec, type="InnerJudge", output_node=False))
    return registry


def test_custom_validation() -> None:
    """What a node's own check objects to is told for each input it judges."""
    registry = judging(lambda a, b: f"{a} and {b} do not go together", judges=frozenset({"b", "a"}))
    errors = refused({"1": {"class_type": "Judge", "inputs": {"a": "x", "b": 2}}}, registry=registry)["node_errors"]
    assert split_hints(errors)[0]["1"]["errors"] == [
        {
            "type": "custom_validation_failed",
            "message": "Custom validation failed for node",
            "details": f"{name} - x and 2 do not go together",
            "extra_info": {"input_name": name},
        }
        for name in ("a", "b")
    ]


def test_exception_in_a_check() -> None:
    """A check that raises is an exception: the node's own for an output, one come upon over a link for another."""

    def check(a: str, b: int) -> str | None:
        raise ValueError("no such a")

    registry = judging(check)
    prompt = {
        "1": {"class_type": "InnerJudge", "inputs": {"a": "x", "b": 2}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        "3": {"class_type": "Judge", "inputs": {"a": "x", "b": 2}},
    }
    body = refused(prompt, registry=registry)
    assert body["error"]["details"] == "Exception when validating node: no such a"
    node_errors, _ = split_hints(body["node_errors"])
    assert node_errors["3"]["errors"] == [
        {
            "type": "exception_during_validation",
            "message": "Exception when validating node",
            "details": "no such a",
            "extra_info": {"exception_type": "ValueError", "traceback": []},
        }
    ]
    assert node_errors["1"] == {
        "errors": [
            {
                "type": "exception_during_inner_validation",
                "message": "Exception when validating inner node",
                "details": "no such a",
                "extra_info": {
                    "input_name": "source",
                    "input_config": ["*", {}],
                    "exception_message": "no such a",
                    "exception_type": "ValueError",
                    "traceback": [],
                    "linked_node": ["1", 0],
                },
            }
        ],
        "dependent_outputs": ["2"],
        "class_type": "InnerJudge",
    }


def test_output_out_of_range() -> None:
    """A link to an output that the node does not have."""
    error, hint = only_error({"1": image(), "2": save(["1", 4])}, "2")
    assert (error["type"], error["details"]) == ("exception_during_validation", "tuple index out of range")
    assert error["extra_info"] == {"exception_type": "IndexError", "traceback": []}
    assert "expected output 0, found output 4" in hint


@pytest.mark.parametrize("more", [{}, {"inputs": None}, {"inputs": [1]}, {"inputs": "x"}])
def test_no_inputs(more: dict[str, Any]) -> None:
    """A node without an object of inputs; nothing else is said of it."""
    error, _ = only_error({"1": {"class_type": "SaveImage", **more}}, "1")
    assert (error["type"], error["details"]) == ("exception_during_validation", "'inputs'")
    error, _ = only_error({"1": {"class_type": "EmptyImage", **more}, "2": save(["1", 0])}, "1")
    assert (error["type"], error["details"]) == ("exception_during_inner_validation", "'inputs'")
    assert error["extra_info"]["linked_node"] == ["1", 0]


def test_class_that_cannot_describe_itself() -> None:
    """The inputs of such a class are told as they are known here."""

    def describe() -> dict[str, Any]:
        raise DefinitionError("INPUT_TYPES failed")

    registry = judging(None, describe=describe)
    error, _ = only_error({"1": {"class_type": "Judge", "inputs": {"a": "x", "b": "many"}}}, "1", registry=registry)
    assert error["extra_info"]["input_config"] == ["INT", {}]


def test_choices_that_cannot_be_asked_for() -> None:
    """A pack that is not there to be asked leaves a refusal that says so."""

    def choices() -> list[str]:
        raise MezzotintError("the pack's process has ended")

    registry = vocabulary()
    registry.add(
        NodeSpec(
            "Chooser",
            lambda **_: None,
            (InputSpec("a", SocketType("COMBO"), True, choices=choices),),
            (),
            "Chooser",
            "test",
            output_node=True,
        )
    )
    error = refused({"1": {"class_type": "Chooser", "inputs": {"a": "x"}}}, registry=registry)["error"]
    assert (error["type"], error["details"]) == ("prompt_outputs_failed_validation", "the pack's process has ended")


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
