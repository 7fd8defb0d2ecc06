from __future__ import annotations

import json

from engine.graph.object_info import object_info
from tests.engine.graph.vocabulary import ListedFiles, registry

REGISTRY = registry()


def test_a_sampler_is_described_as_editors_know_it() -> None:
    """Types, defaults, ranges with all digits, choices in the older shape, and the order of the inputs."""
    info = object_info(REGISTRY["KSampler"])
    assert info["input"] == {
        "required": {
            "model": ["MODEL"],
            "positive": ["CONDITIONING"],
            "negative": ["CONDITIONING"],
            "latent_image": ["LATENT"],
            "seed": ["INT", {"default": 0, "min": 0, "max": 18446744073709551615, "control_after_generate": True}],
            "steps": ["INT", {"default": 20, "min": 1, "max": 10000}],
            "cfg": ["FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}],
            "sampler_name": [["euler", "euler_ancestral", "dpmpp_2m"], {"default": "euler"}],
            "scheduler": [["normal", "karras"], {"default": "normal"}],
            "denoise": ["FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}],
        }
    }
    assert info["input_order"] == {"required": list(info["input"]["required"])}
    assert (info["output"], info["output_name"], info["output_is_list"]) == (["LATENT"], ["LATENT"], [False])
    assert (info["name"], info["display_name"], info["category"]) == ("KSampler", "KSampler", "sampling")
    assert info["output_node"] is False
    assert info["python_module"] == "tests.engine.graph.vocabulary"
    assert "18446744073709551615" in json.dumps(info, allow_nan=False)


def test_optional_hidden_and_special_inputs_have_their_places() -> None:
    """What may be left out is optional, hidden inputs are listed, flags are named as editors name them."""
    info = object_info(REGISTRY["Mixed"])
    assert info["input"] == {
        "required": {"kind": [["a", "b"]], "amount": ["INT", {"forceInput": True}]},
        "optional": {
            "mask": ["MASK"],
            "flag": ["BOOLEAN", {"default": False}],
            "note": ["STRING", {"default": ""}],
            "later": ["IMAGE,MASK", {"lazy": True}],
        },
    }
    assert info["output_name"] == ["INT", "choice", "text"]
    assert info["description"] == "Takes one of everything."
    saver = object_info(REGISTRY["SaveImage"])
    assert saver["input"]["hidden"] == {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
    assert saver["input_order"]["hidden"] == ["prompt", "extra_pnginfo"]
    assert saver["output_node"] is True
    text = object_info(REGISTRY["CLIPTextEncode"])["input"]["required"]["text"]
    assert text == ["STRING", {"multiline": True, "dynamicPrompts": True}]
    colour = object_info(REGISTRY["EmptyImage"])["input"]["required"]["color"]
    assert colour == ["INT", {"default": 0, "min": 0, "max": 16777215, "step": 1, "display": "color"}]


def test_files_are_offered() -> None:
    """A choice among files has their names, and a button where more can be uploaded."""
    files = ListedFiles({"input": ["b.png", "a.png"], "checkpoints": ["m.safetensors"]})
    assert object_info(REGISTRY["LoadImage"], files)["input"]["required"]["image"] == [
        ["a.png", "b.png"],
        {"image_upload": True},
    ]
    assert object_info(REGISTRY["CheckpointLoaderSimple"], files)["input"]["required"]["ckpt_name"] == [
        ["m.safetensors"]
    ]
    assert object_info(REGISTRY["CheckpointLoaderSimple"])["input"]["required"]["ckpt_name"] == [[]]
