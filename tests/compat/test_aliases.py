"""ComfyUI's module names."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest

from engine.compat import missing


@pytest.mark.parametrize("name", ["comfy", "comfy_extras", "cuda_malloc", "comfyui_version"])
def test_a_name_leads_to_our_module_and_leaves_it_as_it_is(name: str) -> None:
    module = importlib.import_module(name)
    ours = sys.modules[f"engine.compat.{name}"]
    assert module is ours
    assert sys.modules[name] is ours
    assert (module.__name__, module.__spec__ and module.__spec__.name) == (f"engine.compat.{name}",) * 2
    assert importlib.reload(ours) is ours


def test_a_module_that_is_not_provided_says_so_and_can_be_caught() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"does not provide the module comfy\.ldm; docs/packs\.md"):
        importlib.import_module("comfy.ldm.modules.attention")
    code = "try:\n    import comfy_extras.nodes_flux as found\nexcept ImportError:\n    found = None"
    names: dict[str, object] = {}
    exec(code, names)
    assert names["found"] is None


@pytest.mark.parametrize("statement", ["from comfy import ldm", "from cuda_malloc import get_gpu_names"])
def test_a_name_that_is_not_provided_says_so_where_it_is_imported(statement: str) -> None:
    with pytest.raises(ImportError, match=r"Mezzotint does not provide \w+ of \w+; docs/packs\.md"):
        exec(statement, {})


def test_a_name_that_is_not_provided_can_be_asked_for() -> None:
    module = importlib.import_module("cuda_malloc")
    assert not hasattr(module, "get_gpu_names")
    assert getattr(module, "get_gpu_names", 5) == 5
    with pytest.raises(AttributeError, match=r"does not provide get_gpu_names of cuda_malloc"):
        _ = module.get_gpu_names


def test_a_module_with_nothing_in_it_lets_the_rest_of_a_pack_work() -> None:
    names: dict[str, Any] = {}
    exec(
        "import comfy.sd\nimport comfy\nfrom comfy.model_patcher import ModelPatcher\npatchers = comfy.model_patcher",
        names,
    )
    assert names["patchers"].ModelPatcher is names["ModelPatcher"]
    assert not isinstance(5, names["ModelPatcher"])
    with pytest.raises(missing.NotProvidedError, match=r"ModelPatcher of comfy\.model_patcher; docs"):
        names["ModelPatcher"](None)
    with pytest.raises(AttributeError, match=r"load_lora_for_models of comfy\.sd; docs"):
        names["comfy"].sd.load_lora_for_models(1)
    with pytest.raises(ImportError, match=r"load_clip of comfy\.sd; docs"):
        exec("from comfy.sd import load_clip", {})


@pytest.mark.parametrize(
    "statement",
    [
        "import execution",
        "from execution import PromptExecutor",
        "from comfy.sd1_clip import SD1ClipModel, SDTokenizer",
        "from comfy.sdxl_clip import SDXLClipG, SDXLClipModel, SDXLRefinerClipModel",
    ],
)
def test_packs_that_import_the_inside_of_comfyui_load(statement: str) -> None:
    names: dict[str, Any] = {}
    exec(statement, names)
    found = next(value for name, value in names.items() if name != "__builtins__")
    assert not isinstance(5, found) if isinstance(found, type) else not hasattr(found, "validate_prompt")


def test_core_nodes_are_found_where_extras_are() -> None:
    module = importlib.import_module("comfy_extras.nodes_upscale_model")
    assert module.ImageScale is importlib.import_module("nodes").ImageScale


def test_names_of_others_are_found_as_ever() -> None:
    assert importlib.import_module("json").__spec__ is not None
    assert missing.public_name("engine.compat.comfy.utils") == "comfy.utils"
