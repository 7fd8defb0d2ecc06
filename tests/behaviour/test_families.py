"""Whole workflows over small models of several families: parts that belong together, and parts that do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import nodes
from benchmarks.random_models import SMALL
from benchmarks.random_sd15 import write_shapes
from engine.files import open_files
from engine.graph.api_format import read_api
from engine.graph.graph import NodeId
from engine.graph.validate import coerced, validate
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.executor import Executor, Run, RunResult
from engine.run.outputs import OutputFolder
from engine.run.settings import DeviceSettings

RunGraph = Callable[[dict[str, Any]], RunResult]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models root with a small checkpoint of random weights of each family."""
    root = tmp_path_factory.mktemp("models")
    (root / "checkpoints").mkdir()
    for name in ("bk-sdm-tiny", "sd2", "sdxl", "refiner"):
        write_shapes(root / "checkpoints" / f"{name}.safetensors", SMALL[name].shapes(), "float16")
    return root


@pytest.fixture
def run(checkpoints: Path, tmp_path: Path) -> RunGraph:
    registry = Registry()
    nodes.register(registry)
    folders = {kind: tmp_path / kind for kind in ("input", "output", "temp")}
    files = open_files(models=[checkpoints], state=tmp_path / "state", **folders)
    settings = DeviceSettings(device="cpu")
    outputs = OutputFolder(folders["output"], folders["temp"])
    executor = Executor(registry, files=files, cache=OutputCache(), outputs=outputs, numerics="test", settings=settings)

    def run_graph(calls: dict[str, Any]) -> RunResult:
        graph = read_api(calls)
        assert validate(graph, registry, files) == []
        return executor.run_sync(Run(coerced(graph, registry)))

    return run_graph


def text_to_image(name: str, steps: int = 2) -> dict[str, Any]:
    return {
        "model": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": f"{name}.safetensors"}},
        "yes": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": "a (red:1.2) circle"}},
        "no": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": ""}},
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 96, "batch_size": 1}},
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["model", 0],
                "seed": 1,
                "steps": steps,
                "cfg": 2.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "positive": ["yes", 0],
                "negative": ["no", 0],
                "latent_image": ["empty", 0],
                "denoise": 1.0,
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["model", 2]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": name}},
    }


def picture(result: RunResult, tmp_path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    assert result.status == "succeeded", result.failures
    (item,) = result.ui[NodeId("save")]["images"]
    with Image.open(tmp_path / "output" / item["filename"]) as image:
        return np.asarray(image.convert("RGB"))


def test_the_refiner_ends_what_the_base_began(run: RunGraph, tmp_path: Path) -> None:
    """Noise is handed over in the middle of a schedule, and the refiner's own texts tell it its score."""
    calls = text_to_image("sdxl")
    size = {"width": 64, "height": 96}
    for side, words in (("yes", "a red circle"), ("no", "")):
        calls[side] = {
            "class_type": "CLIPTextEncodeSDXL",
            "inputs": {
                "clip": ["model", 1], "text_l": words, "text_g": words, **size, "crop_w": 0, "crop_h": 0,
                "target_width": 64, "target_height": 96,
            },
        }  # fmt: skip
        calls[f"{side} refined"] = {
            "class_type": "CLIPTextEncodeSDXLRefiner",
            "inputs": {"clip": ["refiner", 1], "ascore": 6.0, **size, "text": words},
        }
    calls["refiner"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "refiner.safetensors"}}
    usual = {key: calls["sampler"]["inputs"][key] for key in ("cfg", "sampler_name", "scheduler")}
    usual |= {"noise_seed": 1, "steps": 4}
    base = {"model": ["model", 0], "positive": ["yes", 0], "negative": ["no", 0], "latent_image": ["empty", 0]}
    refined = {
        "model": ["refiner", 0], "positive": ["yes refined", 0], "negative": ["no refined", 0], "latent_image": ["sampler", 0],
    }  # fmt: skip
    calls["sampler"] = {
        "class_type": "KSamplerAdvanced",
        "inputs": usual | base | {
            "add_noise": "enable", "start_at_step": 0, "end_at_step": 3, "return_with_leftover_noise": "enable",
        },
    }  # fmt: skip
    calls["finish"] = {
        "class_type": "KSamplerAdvanced",
        "inputs": usual | refined | {
            "add_noise": "disable", "start_at_step": 3, "end_at_step": 10000, "return_with_leftover_noise": "disable",
        },
    }  # fmt: skip
    calls["decode"]["inputs"]["samples"] = ["finish", 0]
    both = picture(run(calls), tmp_path)
    calls["decode"]["inputs"]["samples"] = ["sampler", 0]
    base_alone = picture(run(calls), tmp_path)
    assert both.shape == (96, 64, 3)
    assert (both != base_alone).any()


def in_files_of_their_own(root: Path, name: str) -> None:
    """The parts of a checkpoint as files for UNETLoader, DualCLIPLoader and VAELoader."""
    tensors = load_file(root / "checkpoints" / f"{name}.safetensors")
    for folder, file, prefix in (
        ("diffusion_models", "unet", "model.diffusion_model."),
        ("text_encoders", "clip_l", "conditioner.embedders.0.transformer."),
        ("text_encoders", "clip_g", "conditioner.embedders.1.model."),
        ("vae", "vae", "first_stage_model."),
    ):
        (root / folder).mkdir(exist_ok=True)
        own = {key.removeprefix(prefix): it for key, it in tensors.items() if key.startswith(prefix)}
        save_file(own, root / folder / f"{file}.safetensors")


def test_parts_from_files_of_their_own_make_the_same_picture(run: RunGraph, checkpoints: Path, tmp_path: Path) -> None:
    """A UNet alone, two text encoders in any order, a VAE alone."""
    in_files_of_their_own(checkpoints, "sdxl")
    calls = text_to_image("sdxl")
    whole = picture(run(calls), tmp_path)
    texts = {"clip_name1": "clip_g.safetensors", "clip_name2": "clip_l.safetensors", "type": "sdxl"}
    calls["unet"] = {
        "class_type": "UNETLoader", "inputs": {"unet_name": "unet.safetensors", "weight_dtype": "default"},
    }  # fmt: skip
    calls["clip"] = {"class_type": "DualCLIPLoader", "inputs": texts}
    calls["vae"] = {"class_type": "VAELoader", "inputs": {"vae_name": "vae.safetensors"}}
    calls["sampler"]["inputs"]["model"] = ["unet", 0]
    calls["yes"]["inputs"]["clip"] = calls["no"]["inputs"]["clip"] = ["clip", 0]
    calls["decode"]["inputs"]["vae"] = ["vae", 0]
    assert (picture(run(calls), tmp_path) == whole).all()

    calls["clip"]["inputs"]["clip_name2"] = "clip_g.safetensors"
    (failure,) = run(calls).failures
    assert failure.node == "clip"
    assert "found a second G in clip_g.safetensors" in str(failure)
    calls["clip"] = {
        "class_type": "CLIPLoader", "inputs": {"clip_name": "clip_l.safetensors", "type": "stable_cascade"},
    }  # fmt: skip
    (failure,) = run(calls).failures
    assert "expected a type among stable_diffusion, sdxl, sd3, found stable_cascade" in str(failure)


def test_text_of_another_family_is_refused_before_sampling(run: RunGraph) -> None:
    """In words, on the node that would have sampled."""
    calls = text_to_image("sd2")
    calls["other"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "bk-sdm-tiny.safetensors"}}
    calls["yes"]["inputs"]["clip"] = ["other", 1]
    result = run(calls)
    (failure,) = result.failures
    assert failure.node == "sampler"
    assert "expected text 128 wide for this Stable Diffusion 2 model, found one 64 wide" in str(failure)
    assert failure.input == "positive"


def test_inputs_are_in_the_order_in_which_editors_save_their_values() -> None:
    """Workflows of an editor hold the values of a node's widgets without their names."""
    registry = Registry()
    nodes.register(registry)
    names = {type_: [entry.name for entry in registry[type_].inputs] for type_ in registry}
    sizes = ["width", "height", "crop_w", "crop_h", "target_width", "target_height"]
    assert names["CLIPTextEncodeSDXL"] == ["clip", *sizes, "text_g", "text_l"]
    assert names["CLIPTextEncodeSDXLRefiner"] == ["ascore", "width", "height", "text", "clip"]
