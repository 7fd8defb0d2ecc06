"""Which models load from which format and what can be done with them: ``docs/models.md``, written by doing it.

    python -m benchmarks.models_table > docs/models.md
    python -m benchmarks.models_table --check          # whether that file says what is so

Every model of ``random_models`` is written small, as a checkpoint and as a diffusers folder, and every feature is a workflow that is run
on it. A cell says yes where the picture came out finite, of the right size, not of one colour and without a warning, and where a LoRA or
clip skip changed it.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

import nodes
from benchmarks.random_folders import save_folder
from benchmarks.random_models import SMALL
from benchmarks.random_sd15 import write_shapes
from engine.catalogue import read_catalogue
from engine.files import open_files
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.model_folders import T5_TOKENIZER
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.events import Event, NodeWarning
from engine.run.executor import Executor, Run
from engine.run.outputs import OutputFolder
from engine.run.settings import DeviceSettings
from nodes.diffusion.devices import device_policy
from nodes.diffusion.sources import Source
from nodes.diffusion.store import LocalModelStore

PAGE: Final = Path(__file__).parents[1] / "docs" / "models.md"
WIDTH, HEIGHT = 128, 64


@dataclass(frozen=True, slots=True)
class Row:
    """A model of ``random_models`` for people: what it is called, and the short names of released models that are built like it."""

    title: str
    pulls: tuple[str, ...] = ()


ROWS: Final[Mapping[str, Row]] = {
    "sd15": Row("Stable Diffusion 1", ("sd15", "dreamlike-photoreal-2")),
    "sd15-inpainting": Row("Stable Diffusion 1, inpainting", ("sd15-inpainting",)),
    "sd15-pix2pix": Row("Stable Diffusion 1, image editing (InstructPix2Pix)", ("instruct-pix2pix",)),
    "bk-sdm-base": Row("BK-SDM base", ("bk-sdm-base",)),
    "bk-sdm-small": Row("BK-SDM small", ("bk-sdm-small",)),
    "bk-sdm-tiny": Row("BK-SDM tiny", ("bk-sdm-tiny",)),
    "sd2": Row("Stable Diffusion 2", ("sd21", "sd21-base")),
    "sd2-inpainting": Row("Stable Diffusion 2, inpainting", ("sd2-inpainting",)),
    "sd2-depth": Row("Stable Diffusion 2, depth", ("sd2-depth",)),
    "x4-upscaler": Row("Stable Diffusion x4 upscaler"),
    "sdxl": Row("Stable Diffusion XL", ("sdxl", "sdxl-turbo")),
    "sdxl-inpainting": Row("Stable Diffusion XL, inpainting"),
    "refiner": Row("Stable Diffusion XL refiner, alone", ("sdxl-refiner",)),
    "ssd-1b": Row("SSD-1B", ("ssd-1b",)),
    "vega": Row("Segmind Vega", ("vega",)),
    "sd3": Row("Stable Diffusion 3 medium, CLIP alone", ("sd3-medium",)),
    "sd3-t5": Row("Stable Diffusion 3 medium, with T5"),
    "sd35-medium": Row("Stable Diffusion 3.5 medium", ("sd35-medium",)),
    "sd35-large": Row("Stable Diffusion 3.5 large", ("sd35-large", "sd35-large-fp8")),
}

FORMATS: Final = ("file", "folder")
FEATURES: Final = ("text to image", "image to image", "inpainting", "LoRA", "clip skip", "tiled VAE")
_CHANGING: Final = frozenset({"LoRA", "clip skip"})
"""Features that make another picture of the same seed."""


def link(node: str, output: int = 0) -> Link:
    return Link(NodeId(node), output)


def workflow(loader: Call, feature: str, lora: str, *, masked: bool) -> dict[str, Call]:
    """The nodes that do ``feature`` with a model; the picture comes out of ``picture``. ``masked`` is for models that see a mask."""
    calls = {
        "model": loader,
        "positive": Call("CLIPTextEncode", {"text": "a red circle", "clip": link("model", 1)}),
        "negative": Call("CLIPTextEncode", {"text": "", "clip": link("model", 1)}),
        "latent": Call("EmptyLatentImage", {"width": WIDTH, "height": HEIGHT, "batch_size": 1}),
        "sampler": Call(
            "KSampler",
            {"model": link("model"), "seed": 1, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
             "positive": link("positive"), "negative": link("negative"), "latent_image": link("latent")},
        ),
        "picture": Call("VAEDecode", {"samples": link("sampler"), "vae": link("model", 2)}),
    }  # fmt: skip
    if feature in ("image to image", "inpainting"):
        half = {"width": WIDTH // 2, "height": HEIGHT, "batch_size": 1, "color": 0xC02040}
        padding = {"image": link("half"), "left": WIDTH // 2, "top": 0, "right": 0, "bottom": 0, "feathering": 0}
        calls["half"] = Call("EmptyImage", half)
        calls["padded"] = Call("ImagePadForOutpaint", padding)
        calls["latent"] = Call("VAEEncode", {"pixels": link("padded"), "vae": link("model", 2)})
    if feature == "image to image":
        calls["sampler"] = _changed(calls["sampler"], denoise=0.5)
    elif feature == "inpainting" and masked:
        texts = {"positive": link("positive"), "negative": link("negative"), "vae": link("model", 2)}
        pictures = {"pixels": link("padded"), "mask": link("padded", 1), "noise_mask": True}
        calls["seen"] = Call("InpaintModelConditioning", texts | pictures)
        seen = {"positive": link("seen"), "negative": link("seen", 1), "latent_image": link("seen", 2)}
        calls["sampler"] = _changed(calls["sampler"], **seen)
        del calls["latent"]
    elif feature == "inpainting":
        calls["masked"] = Call("SetLatentNoiseMask", {"samples": link("latent"), "mask": link("padded", 1)})
        calls["sampler"] = _changed(calls["sampler"], latent_image=link("masked"))
    elif feature == "LoRA":
        strengths = {"strength_model": 1.0, "strength_clip": 1.0}
        given = {"model": link("model"), "clip": link("model", 1), "lora_name": lora}
        calls["lora"] = Call("LoraLoader", given | strengths)
        calls["sampler"] = _changed(calls["sampler"], model=link("lora"))
        calls |= {name: _changed(calls[name], clip=link("lora", 1)) for name in ("positive", "negative")}
    elif feature == "clip skip":
        calls["skip"] = Call("CLIPSetLastLayer", {"clip": link("model", 1), "stop_at_clip_layer": -3})
        calls |= {name: _changed(calls[name], clip=link("skip")) for name in ("positive", "negative")}
    elif feature == "tiled VAE":
        tiles = {"tile_size": 64, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
        calls["picture"] = Call("VAEDecodeTiled", {"samples": link("sampler"), "vae": link("model", 2)} | tiles)
    return calls


def with_picture(name: str, calls: dict[str, Call]) -> dict[str, Call]:
    """For models that are shown a picture whatever they do: its depth, or a small one."""
    sides = {side: calls["sampler"].inputs[side] for side in ("positive", "negative")}
    if name == "sd2-depth":
        calls["shown"] = Call("EmptyImage", {"width": WIDTH, "height": HEIGHT, "batch_size": 1, "color": 0x808080})
        calls["told"] = Call("DepthConditioning", sides | {"depth": link("shown")})
    elif name == "x4-upscaler":
        calls["shown"] = Call(
            "EmptyImage", {"width": WIDTH // 4, "height": HEIGHT // 4, "batch_size": 1, "color": 0xC02040}
        )
        more = {"images": link("shown"), "scale_ratio": 4.0, "noise_augmentation": 0.1}
        calls["told"] = Call("SD_4XUpscale_Conditioning", sides | more)
        if calls["sampler"].inputs["latent_image"] == link("latent") and calls["latent"].type == "EmptyLatentImage":
            calls["sampler"] = _changed(calls["sampler"], latent_image=link("told", 2))
    else:
        return calls
    calls["sampler"] = _changed(calls["sampler"], positive=link("told"), negative=link("told", 1))
    return calls


def _changed(call: Call, **inputs: Any) -> Call:
    return Call(call.type, {**call.inputs, **inputs})


def write_lora(path: Path, source: Source) -> None:
    """A LoRA of random numbers for a layer of the model's network and one of its text encoder."""
    unet, clip = source.shapes("unet"), source.shapes("clip")
    layers = {
        "lora_unet_": next(name for name in unet if name.endswith(("attn2.to_k.weight", ".attn.to_k.weight"))),
        "lora_te1_": next((name for name in clip if name.startswith(("l.", "h.")) and "fc1.weight" in name), None)
        or next(name for name in clip if "fc1.weight" in name),
    }
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for prefix, name in layers.items():
        out, inner = (unet if name in unet else clip)[name][:2]
        module = name.removesuffix(".weight").removeprefix("l.text.").removeprefix("h.text.").removeprefix("g.text.")
        key = prefix + ("" if prefix == "lora_unet_" else "text_model_") + module.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = torch.randn(4, inner, generator=generator)
        tensors[f"{key}.lora_up.weight"] = torch.randn(out, 4, generator=generator)
    save_file(tensors, path)


def write_tokenizer(path: Path) -> None:
    """A tokenizer in the place of T5's, which the small T5 knows the words of."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ("<pad>", "</s>", "<unk>", "a", "red", "circle")
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


@dataclass
class Trial:
    """One model of ``random_models``, in a folder of its own, and what came of every feature."""

    name: str
    root: Path
    plain: dict[str, torch.Tensor] = field(default_factory=dict)

    def run(self) -> dict[tuple[str, str], str]:
        """By format and feature: empty where it worked, else why not."""
        models = self.root / "models"
        file, folder = models / "checkpoints" / "m.safetensors", models / "diffusers" / "m"
        for path in (file, folder, models / "loras" / "l.safetensors"):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_shapes(file, SMALL[self.name].shapes(), "float16")
        source = Source(file)
        save_folder(folder, file, LocalModelStore(device_policy("cpu")))
        write_lora(models / "loras" / "l.safetensors", source)
        write_tokenizer(models / "tokenizers" / T5_TOKENIZER)
        masked = self.name.endswith("inpainting")
        executor = self._executor()
        try:
            return {
                (format_, feature): self._outcome(executor, format_, feature, masked)
                for format_ in FORMATS
                for feature in FEATURES
            }
        finally:
            executor.close()

    def _executor(self) -> Executor:
        registry = Registry()
        nodes.register(registry)
        places = {kind: self.root / kind for kind in ("input", "output", "temp")}
        files = open_files(models=[self.root / "models"], state=self.root / "state", **places)
        outputs = OutputFolder(places["output"], places["temp"])
        settings = DeviceSettings(device="cpu")
        return Executor(
            registry, files=files, cache=OutputCache(), outputs=outputs, numerics="table", settings=settings
        )

    def _outcome(self, executor: Executor, format_: str, feature: str, masked: bool) -> str:
        loader = (
            Call("CheckpointLoaderSimple", {"ckpt_name": "m.safetensors"})
            if format_ == "file"
            else Call("DiffusersLoader", {"model_path": "m"})
        )
        calls = with_picture(self.name, workflow(loader, feature, "l.safetensors", masked=masked))
        graph = Graph({NodeId(node): call for node, call in calls.items()})
        warned: list[str] = []

        def hear(event: Event) -> None:
            if isinstance(event, NodeWarning):
                warned.append(event.message)

        result = executor.run_sync(Run(graph, (), keep=(NodeId("picture"),)), hear)
        if result.status != "succeeded":
            return str(result.failures[0])
        if warned:
            return warned[0]
        (picture,) = result.values[NodeId("picture")][0]
        if feature == FEATURES[0]:
            self.plain[format_] = picture
        return self.judge(picture, format_, feature)

    def judge(self, picture: torch.Tensor, format_: str, feature: str) -> str:
        if tuple(picture.shape) != (1, HEIGHT, WIDTH, 3):
            return f"expected a picture of shape [1, {HEIGHT}, {WIDTH}, 3], found {list(picture.shape)}"
        if not bool(picture.isfinite().all()):
            return "expected a finite picture, found NaN or infinity"
        if float(picture.std()) < 1e-3:
            return "expected a picture, found one colour"
        if feature in _CHANGING and format_ in self.plain and bool((picture == self.plain[format_]).all()):
            return "expected another picture than without it, found the same"
        return ""


Outcomes = Mapping[tuple[str, str], str]
"""By format and feature."""


def outcomes(name: str) -> Outcomes:
    """What came of the model ``name``."""
    with tempfile.TemporaryDirectory() as folder:
        return Trial(name, Path(folder)).run()


def lines_of(name: str, found: Outcomes) -> list[str]:
    """Its lines of the table."""
    row = ROWS[name]
    pulls = ", ".join(f"`{short}`" for short in row.pulls)
    cells = {
        format_: " | ".join("no" if found[format_, feature] else "yes" for feature in FEATURES) for format_ in FORMATS
    }
    return [f"| {row.title} | {pulls} | {format_} | {cells[format_]} |" for format_ in FORMATS]


_BEFORE: Final = """# Models

What loads, and what can be done with it. `python -m benchmarks.models_table` writes this page by doing it: each model is built small, with
random weights in the true layout, as a single file and as a diffusers folder, and each feature is a workflow that is run on it. Yes means
that the picture came out finite, of the right size, not of one colour and without a warning, and that clip skip and a LoRA for UNet and
text encoder changed it. That a trained model draws well is another question.

`pull` has the short names of released models for `mezzotint models pull`."""

_AFTER: Final = """Inpainting models are shown the picture and the mask (`InpaintModelConditioning`); the others paint under the mask of the
latent (`SetLatentNoiseMask`). The depth model was shown a depth picture (`DepthConditioning`), the upscaler a small picture
(`SD_4XUpscale_Conditioning`). T5 had a tokenizer, which `mezzotint models pull t5-tokenizer` puts where it is looked for.

LoRAs for few steps, by their short names: {loras}.

ControlNets and T2I-Adapters are in [controlnets.md](controlnets.md).

`mezzotint models list` says what is in your model folders, `mezzotint models info NAME` all there is to know of one."""


def page(found: Mapping[str, Outcomes]) -> str:
    """The whole page."""
    failures = [
        f"- {ROWS[name].title}, {format_}, {feature}: {reason}"
        for name, table in found.items()
        for (format_, feature), reason in table.items()
        if reason
    ]
    loras = ", ".join(f"`{short}`" for short, entry in read_catalogue().items() if entry.folder == "loras")
    rows = [
        f"| model | pull | format | {' | '.join(FEATURES)} |",
        f"|{' --- |' * (3 + len(FEATURES))}",
        *(line for name, table in found.items() for line in lines_of(name, table)),
    ]
    bad = ["What does not work:\n\n" + "\n".join(failures)] if failures else []
    return "\n\n".join([_BEFORE, "\n".join(rows), *bad, _AFTER.format(loras=loras)]) + "\n"


def table(names: Iterable[str]) -> dict[str, Outcomes]:
    """Every model's outcomes, told on standard error as they come."""
    found = {}
    for name in names:
        found[name] = outcomes(name)
        bad = sum(map(bool, found[name].values()))
        print(f"{name}: {len(found[name]) - bad} of {len(found[name])}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with docs/models.md instead of printing")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of the libraries, on saving folders
    logging.disable(logging.WARNING)
    made = page(table(ROWS))
    if not arguments.check:
        print(made, end="")
        return 0
    if made == PAGE.read_text(encoding="utf-8"):
        return 0
    print(f"{PAGE} is not what is so; write it anew: python -m benchmarks.models_table > {PAGE}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
