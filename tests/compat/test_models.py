"""Devices, schedules, conditionings and types."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine.compat import latent_preview, node_helpers
from engine.compat.comfy import model_management, sample, samplers
from engine.compat.comfy.cli_args import args
from engine.compat.comfy.comfy_types import IO, CheckLazyMixin
from engine.compat.host import Host
from engine.compat.missing import NotProvidedError
from engine.errors import Cancelled
from engine.models import Digest, ModelRef
from engine.run.context import NodeContext
from engine.run.settings import DeviceSettings
from nodes.diffusion import schedules
from tests.compat.conftest import Watched
from tests.conftest import ROOT

DEMO = ModelRef(Digest("d"), "unet", str(ROOT / "models/checkpoints/demo.safetensors"))


def test_the_device_is_that_of_the_settings(host: Host) -> None:
    assert model_management.get_torch_device() == torch.device("cpu")
    assert model_management.unet_dtype() == model_management.vae_dtype() == torch.float32
    assert not model_management.should_use_fp16()
    assert model_management.cpu_state is model_management.CPUState.CPU
    assert model_management.vram_state is model_management.VRAMState.DISABLED
    assert 0 < model_management.get_free_memory() <= model_management.get_total_memory()
    host.settings = DeviceSettings(device="cpu", dtype="bfloat16")
    assert model_management.unet_dtype() == torch.bfloat16
    assert model_management.unet_dtype(supported_dtypes=[torch.float16]) == torch.float32


def test_models_are_not_loaded_by_hand() -> None:
    model_management.load_models_gpu([])
    model_management.unload_all_models()
    with pytest.raises(NotProvidedError, match="NODE_CLASS_MAPPINGS"):
        model_management.load_model_gpu(DEMO)


def test_a_loop_of_a_pack_stops(call: NodeContext, watched: Watched) -> None:
    model_management.throw_exception_if_processing_interrupted()
    seen: dict[str, Any] = {}
    latent_preview.prepare_callback(DEMO, 4, seen)(0, "x0", None, 4)
    assert (watched.reports[0][:2], seen) == ((1, 4), {"x0": "x0"})
    watched.cancelled = True
    assert model_management.processing_interrupted()
    with pytest.raises(Cancelled):
        model_management.throw_exception_if_processing_interrupted()


def test_sigmas_are_those_of_the_model() -> None:
    found = samplers.calculate_sigmas(DEMO, "karras", 7)
    expected = schedules.scheduled(samplers.model_sigmas(DEMO), "karras", 7)
    assert found.tolist() == expected.tolist()
    handler = samplers.SCHEDULER_HANDLERS["karras"]
    assert torch.equal(handler.handler(DEMO, 7), found)
    assert samplers.KSampler.SAMPLERS[0] == "euler"
    with pytest.raises(NotProvidedError, match="MODEL as it came"):
        samplers.calculate_sigmas(object(), "karras", 7)
    with pytest.raises(AttributeError, match=r"CFGGuider of comfy\.samplers"):
        _ = samplers.CFGGuider


def test_noise_is_that_of_the_seed() -> None:
    latent = torch.zeros(2, 4, 2, 2)
    noise = sample.prepare_noise(latent, 42)
    assert noise.flatten()[:2].tolist() == pytest.approx([1.926915, 1.487284], abs=1e-6)
    assert torch.equal(sample.prepare_noise(latent[:1], 42, [0])[0], sample.prepare_noise(latent[:1], 42)[0])
    wide = sample.fix_empty_latent_channels(DEMO, torch.zeros(1, 16, 2, 2))
    assert wide.shape == (1, 4, 2, 2)
    assert sample.fix_empty_latent_channels(DEMO, noise) is noise


def test_conditionings_take_values() -> None:
    before = [[torch.zeros(1), {"a": [1]}]]
    added = node_helpers.conditioning_set_values(before, {"a": [2], "b": [3]}, append=True)
    assert (added[0][1], before[0][1]) == ({"a": [1, 2], "b": [3]}, {"a": [1]})
    assert node_helpers.conditioning_set_values(before, {"a": 5})[0][1] == {"a": 5}


def test_pictures_are_read_though_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:-1500])

    def read(name: Path) -> Image.Image:
        with Image.open(name) as picture:
            return picture.convert("RGB")

    picture = node_helpers.pillow(read, path)
    assert picture.size == (64, 64)


def test_alpha_is_made_equal() -> None:
    rgb, rgba = torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 4)
    assert node_helpers.image_alpha_fix(rgb, rgba)[1].shape == rgb.shape
    assert node_helpers.image_alpha_fix(rgba, rgb)[1][0, 0, 0].tolist() == [0, 0, 0, 1]
    assert node_helpers.string_to_torch_dtype("bf16") == torch.bfloat16


@pytest.mark.parametrize(
    ("a", "b", "differ"),
    [
        ("*", "IMAGE", False),
        ("FLOAT,INT", "INT", False),
        ("IMAGE", "MASK", True),
        ("*", ["x"], False),
        ("INT", ["x"], True),
    ],
)
def test_types_differ_where_they_do_not_fit(a: str, b: Any, differ: bool) -> None:
    assert (IO(a) != b) is differ


def test_types_are_texts() -> None:
    any_: str = IO.ANY
    assert any_ == "*"
    assert (str(IO.INT), f"{IO.INT}", hash(IO.INT) == hash("INT")) == ("INT", "INT", True)
    assert CheckLazyMixin().check_lazy_status(a=None, b=1) == ["a"]


def test_options_are_there() -> None:
    assert (args.disable_metadata, args.cpu, args.port) == (False, False, 8188)


@pytest.mark.parametrize(
    "name",
    ["comfy.comfy_types.node_typing", "comfy.cli_args", "comfy_execution.graph_utils", "folder_paths", "node_helpers"],
)
def test_modules_have_their_usual_names(name: str) -> None:
    assert importlib.import_module(name) is importlib.import_module(f"engine.compat.{name}")
