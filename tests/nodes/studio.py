"""Runs of the real nodes on the demo model and on model files that a test writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

import nodes
from engine.files import LocalFiles, open_files
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.events import Event, NodeWarning
from engine.run.executor import Executor, Run, RunResult
from engine.run.outputs import OutputFolder
from engine.run.settings import DeviceSettings
from nodes.diffusion.checkpoints import read_header
from nodes.diffusion.store import LocalModelStore, make_store

MODELS = Path(__file__).parents[2] / "models"
DEMO = MODELS / "checkpoints" / "demo.safetensors"


@dataclass
class Studio:
    """Models below ``folder/models`` beside the repository's; one store for all runs, results kept in memory."""

    folder: Path
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def store(self) -> LocalModelStore:
        return make_store(DeviceSettings(device="cpu"))

    @cached_property
    def registry(self) -> Registry:
        registry = Registry()
        nodes.register(registry)
        registry.provide_models(lambda settings: self.store)
        return registry

    @cached_property
    def files(self) -> LocalFiles:
        places = {kind: self.folder / kind for kind in ("input", "output", "temp")}
        return open_files(models=[MODELS, self.folder / "models"], state=self.folder / "state", **places)

    @cached_property
    def executor(self) -> Executor:
        outputs = OutputFolder(self.folder / "output", self.folder / "temp")
        return Executor(self.registry, files=self.files, cache=OutputCache(), outputs=outputs, numerics="test")

    def write(self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
        """A model file, ``name`` beginning with its kind's folder; gives the name a workflow knows it by."""
        path = self.folder / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, dict(metadata or {}))
        return name.partition("/")[2]

    def run(self, calls: Mapping[str, Call], *keep: str) -> RunResult:
        def hear(event: Event) -> None:
            if isinstance(event, NodeWarning):
                self.warnings.append(event.message)

        graph = Graph({NodeId(name): call for name, call in calls.items()})
        targets = tuple(NodeId(name) for name in calls if not keep)
        return self.executor.run_sync(Run(graph, targets, keep=tuple(map(NodeId, keep))), hear)

    def values(self, calls: Mapping[str, Call], keep: str) -> tuple[Any, ...]:
        """The first element of every output of ``keep``."""
        result = self.run(calls, keep)
        assert result.status == "succeeded", result.failures
        return tuple(slot[0] for slot in result.values[NodeId(keep)])

    def failure(self, calls: Mapping[str, Call], keep: str) -> str:
        result = self.run(calls, keep)
        assert result.status == "failed"
        return str(result.failures[0])


def link(node: str, output: int = 0) -> Link:
    return Link(NodeId(node), output)


def checkpoint(name: str = "demo.safetensors") -> Call:
    return Call("CheckpointLoaderSimple", {"ckpt_name": name})


def picture(model: Link, clip: Link, vae: Link) -> dict[str, Call]:
    """Nodes that make a small picture, which comes out of the node ``picture``."""
    return {
        "latent": Call("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "positive": Call("CLIPTextEncode", {"text": "a red circle on a blue background", "clip": clip}),
        "negative": Call("CLIPTextEncode", {"text": "", "clip": clip}),
        "sampler": Call(
            "KSampler",
            {"model": model, "seed": 3, "steps": 4, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal",
             "positive": link("positive"), "negative": link("negative"), "latent_image": link("latent"), "denoise": 1.0},
        ),
        "picture": Call("VAEDecode", {"samples": link("sampler"), "vae": vae}),
    }  # fmt: skip


def demo_tensors() -> dict[str, Tensor]:
    """The demo checkpoint's tensors in float32, by their names in the file."""
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load_file(DEMO).items()}


def demo_metadata() -> dict[str, str]:
    return dict(read_header(DEMO).metadata)
