"""Workflows that show the nodes which no other workflow of the repository uses: one for each category of nodes.

    python -m benchmarks.node_examples           # writes workflows/nodes/
    python -m benchmarks.node_examples --run     # and runs each, and says what did not succeed

A node gets what its inputs take, the repository's own models and pictures where it has such, and its defaults where there are some. What
it gives is shown: pictures as they are, anything else by what can be made of it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import nodes
from benchmarks.gallery import ROOT, WORKFLOWS
from benchmarks.node_inputs import CHOSEN, FILES, GIVEN_BY_NAME, GIVERS, WITHOUT
from benchmarks.nodes_table import EXAMPLES, RELEASED, uses
from engine.files import open_files
from engine.graph.api_format import write_api
from engine.graph.builder import Builder, Handle
from engine.graph.graph import Graph
from engine.graph.validate import coerced
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.executor import Executor, Run
from engine.run.outputs import OutputFolder
from engine.run.settings import DeviceSettings
from engine.spec import MISSING, InputSpec, NodeSpec
from engine.types import COMBO

SAMPLING: Final = {"seed": 1, "steps": 20, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}


class Sketch:
    """A workflow in the making, and what its nodes have in common."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.builder = Builder(registry)
        self._made: dict[tuple[Any, ...], list[Handle]] = {}

    def add(self, type_: str, **given: Any) -> list[Handle]:
        """The outputs of a new node. Inputs it has to have and is not given get what fits them."""
        spec = self.registry[type_]
        rest = {known.name: self._fitting(known) for known in spec.inputs if known.required and known.name not in given}
        return list(self.builder.type(type_, self.builder.at(title=spec.title))(**rest | given))

    def one(self, type_: str, **inputs: Any) -> Handle:
        """The first output of a new node."""
        return self.add(type_, **inputs)[0]

    def give(self, what: str) -> Handle:
        """One of ``GIVERS``, the same each time."""
        if what not in GIVERS:
            raise ValueError(f"expected a giver of {what}, found none; add one to GIVERS, or its nodes to WITHOUT")
        giver = GIVERS[what]
        key = giver.type, *sorted(giver.inputs.items())
        if key not in self._made:
            self._made[key] = self.add(giver.type, **self._resolved(giver.inputs))
        return self._made[key][giver.output]

    def sampled(self, **inputs: Handle) -> Handle:
        """A latent drawn with these inputs of KSampler, and with the usual ones beside them."""
        usual = {"model": "MODEL", "positive": "CONDITIONING", "negative": "negative", "latent_image": "LATENT"}
        return self.one(
            "KSampler", **{name: inputs.get(name) or self.give(it) for name, it in usual.items()}, **SAMPLING
        )

    def sampled_in_parts(self, **inputs: Handle) -> Handle:
        """As ``sampled``, by the inputs of SamplerCustomAdvanced."""
        usual = {
            "noise": "NOISE",
            "guider": "GUIDER",
            "sampler": "SAMPLER",
            "sigmas": "SIGMAS",
            "latent_image": "LATENT",
        }
        given = {name: inputs.get(name) or self.give(it) for name, it in usual.items()}
        return self.one("SamplerCustomAdvanced", **given)

    def show(self, handle: Handle) -> None:
        SHOWERS.get(handle.type, _show_any)(self, handle)

    def example(self, type_: str) -> None:
        """A node of this type, what it needs before it and what shows it behind it."""
        chosen = dict(CHOSEN.get(type_, {}))
        if {"ipadapter", "clip_vision"} <= {known.name for known in self.registry[type_].inputs}:
            # it may be left out where it comes with the adapter, which here it does not
            chosen.setdefault("clip_vision", "@CLIP_VISION")
        for handle in self.add(type_, **self._resolved(chosen)):
            self.show(handle)

    def _fitting(self, known: InputSpec) -> Any:
        if not known.is_widget:
            return self.give(GIVEN_BY_NAME.get((known.type, known.name), known.type.partition(",")[0]))
        if known.files is not None:
            return next(
                (FILES[suffix] for suffix in known.files.suffixes if suffix in FILES), FILES[known.files.folder]
            )
        if known.default is not MISSING:
            return known.default
        if known.type == COMBO:
            return (known.options or ("",))[0]
        return "" if known.type == "STRING" else known.range.min if known.range else False

    def _resolved(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: self.give(value[1:]) if isinstance(value, str) and value.startswith("@") else value
            for name, value in inputs.items()
        }


def _show_any(sketch: Sketch, handle: Handle) -> None:
    sketch.add("PreviewAny", source=handle)


SHOWERS: Final[Mapping[str, Callable[[Sketch, Handle], object]]] = {
    "IMAGE": lambda s, it: s.add("PreviewImage", images=it),
    "MASK": lambda s, it: s.add("MaskPreview", mask=it),
    "LATENT": lambda s, it: s.show(s.one("VAEDecode", samples=it, vae=s.give("VAE"))),
    "MODEL": lambda s, it: s.show(s.sampled(model=it)),
    "CLIP": lambda s, it: s.show(s.one("CLIPTextEncode", clip=it, text="a red star on a blue background")),
    "VAE": lambda s, it: s.show(s.one("VAEDecode", samples=s.give("a picture's latent"), vae=it)),
    "CONDITIONING": lambda s, it: s.show(s.sampled(positive=it)),
    "SIGMAS": lambda s, it: s.show(s.sampled_in_parts(sigmas=it)),
    "SAMPLER": lambda s, it: s.show(s.sampled_in_parts(sampler=it)),
    "GUIDER": lambda s, it: s.show(s.sampled_in_parts(guider=it)),
    "NOISE": lambda s, it: s.show(s.sampled_in_parts(noise=it)),
    "HOOKS": lambda s, it: s.show(
        s.one("SetClipHooks", clip=s.give("CLIP"), apply_to_conds=True, schedule_clip=False, hooks=it)
    ),
}
"""How a type is shown; whatever is not here is shown as text."""


def examples(registry: Registry) -> dict[str, Graph]:
    """File name -> workflow."""
    used = {*uses(WORKFLOWS), *uses(RELEASED)}
    by_category: dict[str, list[NodeSpec]] = defaultdict(list)
    for spec in registry.values():
        if spec.type not in used | WITHOUT:
            by_category[spec.category].append(spec)
    found = {}
    for category in sorted(by_category):
        sketch = Sketch(registry)
        for spec in sorted(by_category[category], key=lambda spec: spec.type.lower()):
            sketch.example(spec.type)
        found[f"{re.sub(r'[^a-z0-9]+', '_', category.lower()).strip('_')}.json"] = sketch.builder.graph()
    return found


def written(graph: Graph) -> str:
    return json.dumps(write_api(graph), indent=2, ensure_ascii=False) + "\n"


def failures(found: Mapping[str, Graph], registry: Registry) -> Iterator[str]:
    """Runs the workflows with the repository's models; a line for each node that fails."""
    with tempfile.TemporaryDirectory() as folder:
        places = {kind: Path(folder) / kind for kind in ("output", "temp")}
        files = open_files(models=[ROOT / "models"], state=Path(folder) / "state", input=ROOT / "input", **places)
        outputs = OutputFolder(places["output"], places["temp"])
        executor = Executor(
            registry,
            files=files,
            cache=OutputCache(),
            outputs=outputs,
            numerics="cpu",
            settings=DeviceSettings(device="cpu"),
        )
        for name, graph in found.items():
            result = executor.run_sync(Run(coerced(graph, registry)))
            print(f"{name}: {len(result.failures)} of {len(graph)} nodes failed", file=sys.stderr, flush=True)
            yield from (f"{name}: {failure}" for failure in result.failures)
        executor.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run the workflows too")
    arguments = parser.parse_args()
    registry = Registry()
    nodes.register(registry)
    found = examples(registry)
    EXAMPLES.mkdir(exist_ok=True)
    for old in EXAMPLES.glob("*.json"):
        old.unlink()
    for name, graph in found.items():
        (EXAMPLES / name).write_text(written(graph), encoding="utf-8")
    failed = list(failures(found, registry)) if arguments.run else []
    for line in failed:
        print(line)
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
