"""Core nodes as packs call and derive from them."""

from __future__ import annotations

import importlib
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine.compat import folder_paths
from engine.compat.core_names import METHODS
from engine.compat.host import Host, calling
from engine.compat.missing import NotProvidedError
from engine.compat.model_values import ClipValue, UnetValue
from engine.models import Digest, ModelRef
from engine.run.context import NodeContext
from engine.run.settings import DeviceSettings
from tests.compat.conftest import Watched
from tests.conftest import ROOT

nodes: Any = importlib.import_module("nodes")


def test_a_core_node_has_the_shape_of_a_node_class(host: Host) -> None:
    made = nodes.NODE_CLASS_MAPPINGS["KSampler"]
    assert made is nodes.KSampler
    assert (made.RETURN_TYPES, made.FUNCTION, made.CATEGORY, made.OUTPUT_NODE) == (
        ("LATENT",), "sample", "sampling", False,
    )  # fmt: skip
    required = made.INPUT_TYPES()["required"]
    assert required["model"] == ("MODEL",)
    assert required["steps"] == ("INT", {"default": 20, "min": 1, "max": 10000})
    assert required["sampler_name"][0][0] == "euler"
    assert nodes.NODE_DISPLAY_NAME_MAPPINGS["CLIPTextEncode"] == "CLIP Text Encode (Prompt)"
    assert nodes.MAX_RESOLUTION == 16384
    assert nodes.EXTENSION_WEB_DIRS is host.web_directories


def test_packs_read_and_write_the_mapping(host: Host) -> None:
    mapping = nodes.NODE_CLASS_MAPPINGS
    count = len(mapping)
    mapping["Mine"] = int
    assert ("Mine" in mapping, mapping["Mine"], len(mapping)) == (True, int, count + 1)
    assert list(mapping)[-1] == "Mine"
    assert mapping.get("no such") is None
    del mapping["Mine"]
    assert "Mine" not in mapping
    assert set(mapping.copy()) == set(host.registry)


def test_pictures_are_scaled_and_loaded_by_name(host: Host, tmp_path: Path) -> None:
    image = torch.rand(1, 8, 8, 3)
    (scaled,) = nodes.ImageScale().upscale(image, "area", 4, 2, "disabled")
    assert scaled.shape == (1, 2, 4, 3)
    (tmp_path / "input").mkdir()
    shutil.copy(ROOT / "input/square.png", tmp_path / "input/a.png")
    picture, mask = nodes.LoadImage().load_image("a.png")
    with Image.open(ROOT / "input/square.png") as expected:
        assert picture.shape[1:3] == (expected.height, expected.width)
    assert mask.ndim == 3


def test_models_are_found_in_folders_that_packs_added(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    shutil.copy(ROOT / "models/checkpoints/demo.safetensors", tmp_path / "more/mine.safetensors")
    folder_paths.add_model_folder_path("checkpoints", str(tmp_path / "more"))
    model, clip, vae = nodes.CheckpointLoaderSimple().load_checkpoint("mine.safetensors")
    assert [part.ref.part for part in (model, clip, vae)] == ["unet", "clip", "vae"]
    assert model.ref.location == str(tmp_path / "more/mine.safetensors")


def _leasing(watched: Watched) -> tuple[NodeContext, ModelRef]:
    from nodes.diffusion.store import make_store

    store = make_store(DeviceSettings(device="cpu", dtype="float32"))
    model = ModelRef(Digest("demo"), "unet", str(ROOT / "models/checkpoints/demo.safetensors"))
    return replace(watched.context(), model_store=lambda: store), model


def test_a_pack_samples_and_decodes_with_core_nodes(watched: Watched) -> None:
    context, model = _leasing(watched)
    with calling(context):
        (text,) = nodes.CLIPTextEncode().encode(replace(model, part="clip"), "a red square")
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        (whole,) = nodes.common_ksampler(model, 5, 2, 1.0, "euler", "normal", text, text, latent)
        (half,) = nodes.common_ksampler(model, 5, 2, 1.0, "euler", "normal", text, text, latent, last_step=1)
        (rest,) = nodes.common_ksampler(
            model, 5, 2, 1.0, "euler", "normal", text, text, half, disable_noise=True, start_step=1
        )
        (picture,) = nodes.VAEDecode().decode(replace(model, part="vae"), whole)
    torch.testing.assert_close(rest["samples"], whole["samples"])
    assert picture.shape == (1, 64, 64, 3)
    assert len(watched.reports) == 4
    with pytest.raises(NotProvidedError, match="outside of a node's call"):
        nodes.VAEDecode().decode(replace(model, part="vae"), whole)


def _text_of(path: Path) -> dict[str, str]:
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        picture.load()
        return dict(picture.text)  # type: ignore[attr-defined]


def test_a_class_derived_from_save_image_writes_pngs_with_their_text(tmp_path: Path) -> None:
    class Bridge(nodes.SaveImage):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.prefix_append = "_mine"
            self.compress_level = 1

        def bridge(self, images: Any) -> Any:
            return super().save_images(images, "sub/a%width%", {"1": {}}, {"workflow": {"id": 3}})

    images = torch.full((2, 4, 6, 3), 0.5)
    expected = [{"filename": f"a6_mine_{number:05}_.png", "subfolder": "sub", "type": "output"} for number in (1, 2)]
    assert Bridge().bridge(images)["ui"]["images"] == expected
    assert Bridge().bridge(images)["ui"]["images"][0]["filename"] == "a6_mine_00003_.png"
    path = tmp_path / "output/sub/a6_mine_00002_.png"
    assert {name: json.loads(value) for name, value in _text_of(path).items()} == {
        "prompt": {"1": {}},
        "workflow": {"id": 3},
    }
    with Image.open(path) as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((6, 4), (127, 127, 127))


def test_previews_go_to_the_temp_folder(tmp_path: Path) -> None:
    shown = nodes.PreviewImage().save_images(torch.zeros(1, 4, 4, 3))["ui"]["images"][0]
    assert re.fullmatch(r"ComfyUI_temp_[a-z]{5}_00001_\.png", shown["filename"])
    assert (tmp_path / "temp" / shown["filename"]).is_file()
    assert (shown["type"], nodes.NODE_CLASS_MAPPINGS["PreviewImage"] is nodes.PreviewImage) == ("temp", True)


def test_files_of_core_nodes_are_placed(tmp_path: Path, call: NodeContext) -> None:
    shown = nodes.NODE_CLASS_MAPPINGS["SaveLatent"]().save({"samples": torch.zeros(1, 4, 2, 2)}, "l/x", prompt={})
    assert shown["ui"]["latents"][0]["subfolder"] == "l"
    assert (tmp_path / "output/l" / shown["ui"]["latents"][0]["filename"]).is_file()


def test_conditionings_are_joined_and_emptied(call: NodeContext) -> None:
    a: list[Any]
    b: list[Any]
    a, b = [[torch.ones(1, 2, 3), {"x": 1}]], [[torch.ones(1, 4, 3), {"pooled_output": torch.ones(1, 3)}]]
    assert [len(nodes.ConditioningCombine().combine(a, b)[0]), len(a)] == [2, 1]
    ((tensor, values),) = nodes.ConditioningConcat().concat(a, b)[0]
    assert (tensor.shape, values) == ((1, 6, 3), {"x": 1})
    ((zero, known),) = nodes.ConditioningZeroOut().zero_out(b)[0]
    assert (zero.count_nonzero(), known["pooled_output"].count_nonzero(), b[0][0].count_nonzero()) == (0, 0, 12)


def test_a_node_that_is_not_here_can_be_imported_but_not_used(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "ImageOnlyCheckpointLoader"
    assert missing not in host.registry
    monkeypatch.setitem(METHODS, missing, "append")  # type: ignore[arg-type]  # a mapping that others must not change
    names: dict[str, Any] = {}
    exec(f"from nodes import {missing} as found", names)
    with pytest.raises(NotProvidedError, match=f"the node {missing}"):
        names["found"]().append(1, 2)
    with pytest.raises(ImportError, match=r"NoSuchThing of nodes; docs/packs\.md"):
        exec("from nodes import NoSuchThing", {})
    assert not hasattr(nodes, "nothing_of_this_name")


def test_a_pack_loads_loras_by_name(watched: Watched, tmp_path: Path) -> None:
    """By the usual method and order of inputs; what comes out is the recipe with a patch."""
    from safetensors.torch import save_file

    (tmp_path / "loras").mkdir()
    save_file({"lora_unet_conv_in.diff": torch.ones(64, 4, 3, 3)}, tmp_path / "loras/l.safetensors")
    folder_paths.add_model_folder_path("loras", str(tmp_path / "loras"))
    context, ref = _leasing(watched)
    model, clip = UnetValue(ref), ClipValue(replace(ref, part="clip"))
    with calling(context):
        patched, same = nodes.LoraLoader().load_lora(model, clip, "l.safetensors", 0.5, 0.0)
    assert [(patch.kind, patch.strength) for patch in patched.ref.patches] == [("lora", 0.5)]
    assert same.ref == clip.ref
