"""The workflows for released models run: each model has a small one of random weights in its place, in the same layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.models_table import write_lora, write_tokenizer
from benchmarks.random_controls import stability
from benchmarks.random_folders import save_folder
from benchmarks.random_models import SMALL
from benchmarks.random_sd15 import write_shapes
from engine.catalogue import Entry, read_catalogue
from engine.graph.graph import Call, Graph
from engine.graph.read import read_workflow
from engine.graph.validate import coerced, validate
from nodes.diffusion.devices import device_policy
from nodes.diffusion.sources import Source
from nodes.diffusion.store import LocalModelStore
from tests.nodes import test_gligen, test_ip_adapter, test_segmenting, upscalers
from tests.nodes.diffusion import test_control_numbers
from tests.nodes.diffusion.clip_vision import transformers_layout, vision
from tests.nodes.diffusion.taesd import taesd
from tests.nodes.studio import DEMO, MODELS, Studio

FOLDER: Final = Path(__file__).parents[2] / "workflows" / "released"
CATALOGUE: Final = read_catalogue()
_ROW: Final = re.compile(r"^\| \[(?P<name>\w+)\]\((?P=name)\.json\) \| .+? \| (?P<pulls>.+?) \|$", re.MULTILINE)

ROWS: Final = {
    row["name"]: tuple(re.findall(r"`(.+?)`", row["pulls"]))
    for row in _ROW.finditer((FOLDER / "README.md").read_text())
}
"""The short names of the models that each workflow needs."""

SIDE: Final = 64
"""Pixels that the larger side of a picture is made to have."""

Stored = Mapping[str, Tensor]


def test_every_workflow_is_in_the_table() -> None:
    assert sorted(ROWS) == sorted(path.stem for path in FOLDER.glob("*.json"))
    assert not {short for pulls in ROWS.values() for short in pulls} - CATALOGUE.keys()


@dataclass(frozen=True)
class StandIns:
    """Writes a small model in the place of a released one."""

    root: Path

    def path(self, entry: Entry) -> Path:
        path = self.root / str(entry.folder) / entry.local_name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def put(self, short: str) -> None:
        path = self.path(CATALOGUE[short])
        make = _MAKERS[short]
        if isinstance(make, Path):
            path.symlink_to(make)
        elif isinstance(make, str):
            write_shapes(path, SMALL[make].shapes(), "float16")
        else:
            make(path)


def _parts(model: str, prefix: str, to: str = "", *, without: bool = False) -> Callable[[Path], None]:
    """A maker of the tensors of a small model below ``prefix``, or of all others, by the names that they have on their own."""

    def make(path: Path) -> None:
        shapes = SMALL[model].shapes()
        kept = {to + name.removeprefix(prefix): it for name, it in shapes.items() if name.startswith(prefix) != without}
        write_shapes(path, kept, "float16")

    return make


def _lora(model: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        base = path.with_name("base.safetensors")
        write_shapes(base, SMALL[model].shapes(), "float16")
        write_lora(path, Source(base))
        base.unlink()
        save_file({key: it for key, it in load_file(path).items() if key.startswith("lora_unet")}, path)

    return make


def _tensors(make: Callable[[], Stored]) -> Callable[[Path], None]:
    return lambda path: save_file({name: tensor.contiguous() for name, tensor in make().items()}, path)


def _folder(path: Path) -> None:
    file = path.with_suffix(".safetensors")
    write_shapes(file, SMALL["bk-sdm-small"].shapes(), "float16")
    save_folder(path, file, LocalModelStore(device_policy("cpu")))
    file.unlink()


def _union() -> Stored:
    from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_control_type": 8, "num_trans_channel": 64, "num_proj_channel": 64}
    module: Any = ControlNetUnionModel(
        **test_control_numbers.XL, **sizes, conditioning_embedding_out_channels=(16, 32, 48, 64)
    )
    return dict(module.state_dict())


def _vae() -> Stored:
    prefix = "first_stage_model."
    return {name.removeprefix(prefix): it for name, it in load_file(DEMO).items() if name.startswith(prefix)}


_TOWER: Final = "text_encoders."
_MAKERS: Final[Mapping[str, str | Path | Callable[[Path], None]]] = {
    "sd15": DEMO,
    "sd15-inpainting": "sd15-inpainting",
    "instruct-pix2pix": "sd15-pix2pix",
    "bk-sdm-small": _folder,
    "lcm-lora-sd15": _tensors(lambda: load_file(MODELS / "loras" / "demo_outline.safetensors")),
    "taesd-encoder": _tensors(lambda: taesd(4).half("encoder")),
    "taesd-decoder": _tensors(lambda: taesd(4).half("decoder")),
    "gligen": _tensors(test_gligen.tensors),
    "sd15-vae-mse": _tensors(_vae),
    "ip-adapter-plus-sd15": _tensors(lambda: test_ip_adapter.adapter("plus")),
    "clip-vision-h": _tensors(lambda: transformers_layout(vision())),
    "controlnet-sd15-depth": MODELS / "controlnet" / "demo_depth.safetensors",
    "sd21": "sd2",
    "sd2-inpainting": "sd2-inpainting",
    "sd2-depth": "sd2-depth",
    "sdxl": "sdxl",
    "sdxl-refiner": "refiner",
    "sdxl-turbo": "sdxl",
    "sdxl-lightning-4step-lora": _lora("sdxl"),
    "hyper-sdxl-8step-lora": _lora("sdxl"),
    "controlnet-union-sdxl": _tensors(_union),
    "clip-vision-g": _tensors(lambda: transformers_layout(vision())),
    "ssd-1b": "ssd-1b",
    "vega": "vega",
    "vega-rt-lora": _lora("vega"),
    "sd3-medium": "sd3",
    "sd35-medium": _parts("sd35-medium", _TOWER, without=True),
    "sd35-clip-l": _parts("sd35-medium", f"{_TOWER}clip_l.transformer."),
    "sd35-clip-g": _parts(
        "sdxl", "conditioner.embedders.1.model."
    ),  # in the layout that tells a small G from a small L
    "t5xxl-fp8": _parts("sd35-medium", f"{_TOWER}t5xxl.transformer."),
    "t5-tokenizer": write_tokenizer,
    "sd35-large-fp8": "sd35-large",
    "controlnet-sd35-canny": lambda path: write_shapes(path, stability(1, 192, 128), "float16"),
    "sam-vit-large": lambda path: test_segmenting.first().save_pretrained(path),
    "real-esrgan-x4": _tensors(lambda: upscalers.rrdb(scale=4)),
}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """Has no model but those put there."""
    studio = Studio(tmp_path_factory.mktemp("released"))
    stand_ins = StandIns(studio.folder / "models")
    (studio.folder / "input").symlink_to(FOLDER.parents[1] / "input")
    for short in sorted({short for pulls in ROWS.values() for short in pulls}):
        stand_ins.put(short)
    yield studio
    studio.executor.close()


def small(graph: Graph) -> Graph:
    """With pictures of ``SIDE`` pixels and few steps."""
    sizes = ("width", "height", "target_width", "target_height", "x", "y")
    largest = max(
        (value for call in graph.values() for name, value in call.literals.items() if name in sizes), default=SIDE
    )
    steps = {"steps": 4, "end_at_step": 3, "start_at_step": 3}

    def smaller(call: Call, name: str, value: Any) -> Any:
        if name in sizes:
            return value * SIDE // largest
        if name in steps and 1 < value < 10_000:
            return min(value, steps[name])
        return "0" if name == "layers" else value  # of those there are few

    return Graph(
        {
            node: replace(call, inputs={name: smaller(call, name, value) for name, value in call.inputs.items()})
            for node, call in graph.items()
        }
    )


@pytest.mark.parametrize("name", ROWS)
def test_it_runs_on_models_in_these_layouts(studio: Studio, name: str) -> None:
    """Under the names that ``pull`` gives them, without a warning, to a picture that is finite and not of one colour."""
    registry, files = studio.registry, studio.files
    graph = small(read_workflow(FOLDER / f"{name}.json", registry).graph)
    assert validate(graph, registry, files) == []
    (saved,) = (call for call in graph.values() if call.type == "SaveImage")
    shown = saved.links["images"]
    studio.warnings.clear()
    picture: Tensor = studio.values({str(node): call for node, call in coerced(graph, registry).items()}, shown.node)[
        shown.output
    ]
    assert not studio.warnings
    assert picture.shape[0] == 1
    assert picture.isfinite().all()
    assert picture.std() > 1e-3
