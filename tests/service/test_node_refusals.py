"""What is wrong with single nodes of a prompt, in ComfyUI's words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine.errors import DefinitionError, MezzotintError
from engine.files import LocalFiles
from engine.registry import Registry
from engine.spec import InputSpec, NodeSpec, Output
from engine.types import SocketType
from tests.service.prompting import REGISTRY, image, only_error, refused, save, split_hints, vocabulary


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
