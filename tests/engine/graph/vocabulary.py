"""A small vocabulary with the ids, inputs and ranges of nodes everybody knows; their functions do nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from hypothesis import HealthCheck, settings

from engine.errors import MissingFile, UnreadableWorkflow
from engine.fileref import FileRef
from engine.registry import Registry
from engine.spec import (
    FileChoice,
    Hint,
    Lazy,
    Multiline,
    NodeSpec,
    Optional,
    Output,
    Range,
    Seed,
    Socket,
    SocketOnly,
    node,
)

PROPERTY: Final = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For property tests: few and cheap examples, however busy the machine is."""

FILES: Final = Path(__file__).parent / "files"

Model = Annotated[Any, Socket("MODEL")]
Clip = Annotated[Any, Socket("CLIP")]
Vae = Annotated[Any, Socket("VAE")]
Cond = Annotated[Any, Socket("CONDITIONING")]
Latent = Annotated[Any, Socket("LATENT")]
Image = Annotated[Any, Socket("IMAGE")]
Mask = Annotated[Any, Socket("MASK")]
Text = Annotated[str, Multiline(dynamic_prompts=True)]
SeedInt = Annotated[int, Range(0, 2**64 - 1), Seed()]
Cfg = Annotated[float, Range(0.0, 100.0, step=0.1, round=0.01)]
Side = Annotated[int, Range(16, 16384, step=8)]
Steps = Annotated[int, Range(1, 10000)]
Unit = Annotated[float, Range(0.0, 1.0, step=0.01)]
Sampler = Literal["euler", "euler_ancestral", "dpmpp_2m"]
Schedule = Literal["normal", "karras"]


@node(
    "CheckpointLoaderSimple",
    title="Load Checkpoint",
    category="loaders",
    outputs=[Output("MODEL"), Output("CLIP"), Output("VAE")],
)
def load_checkpoint(ckpt_name: Annotated[FileRef, FileChoice("checkpoints")]) -> None: ...


@node("LoraLoader", title="Load LoRA", category="loaders", outputs=[Output("MODEL"), Output("CLIP")])
def load_lora(
    model: Model,
    clip: Clip,
    lora_name: Annotated[FileRef, FileChoice("loras")],
    strength_model: Annotated[float, Range(-100.0, 100.0, step=0.01)] = 1.0,
    strength_clip: Annotated[float, Range(-100.0, 100.0, step=0.01)] = 1.0,
) -> None: ...


@node("CLIPTextEncode", title="CLIP Text Encode (Prompt)", category="conditioning", outputs=[Output("CONDITIONING")])
def clip_text_encode(text: Text, clip: Clip) -> None: ...


@node("EmptyLatentImage", title="Empty Latent Image", category="latent", outputs=[Output("LATENT")])
def empty_latent(width: Side = 512, height: Side = 512, batch_size: Annotated[int, Range(1, 4096)] = 1) -> None: ...


@node("KSampler", category="sampling", outputs=[Output("LATENT")])
def k_sampler(
    model: Model,
    positive: Cond,
    negative: Cond,
    latent_image: Latent,
    seed: SeedInt = 0,
    steps: Steps = 20,
    cfg: Cfg = 8.0,
    sampler_name: Sampler = "euler",
    scheduler: Schedule = "normal",
    denoise: Unit = 1.0,
) -> None: ...


@node("VAEDecode", title="VAE Decode", category="latent", outputs=[Output("IMAGE")])
def vae_decode(samples: Latent, vae: Vae) -> None: ...


@node(
    "SaveImage",
    title="Save Image",
    category="image",
    output_node=True,
    hidden={"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
)
def save_image(images: Image, filename_prefix: str = "ComfyUI") -> None: ...


@node("PreviewImage", title="Preview Image", category="image", output_node=True)
def preview_image(images: Image) -> None: ...


@node("LoadImage", title="Load Image", category="image", outputs=[Output("IMAGE"), Output("MASK")])
def load_image(image: Annotated[FileRef, FileChoice("input", upload=True)]) -> None: ...


@node("LoadImageMask", title="Load Image (as Mask)", category="mask", outputs=[Output("MASK")])
def load_mask(
    image: Annotated[FileRef, FileChoice("input", upload=True)],
    channel: Literal["alpha", "red", "green", "blue"] = "alpha",
) -> None: ...


@node("EmptyImage", category="image", outputs=[Output("IMAGE")])
def empty_image(
    width: Annotated[int, Range(1, 16384, step=1)] = 512,
    height: Annotated[int, Range(1, 16384, step=1)] = 512,
    batch_size: Annotated[int, Range(1, 4096)] = 1,
    color: Annotated[int, Range(0, 0xFFFFFF, step=1), Hint(display="color")] = 0,
) -> None: ...


@node("ImageInvert", title="Invert Image", category="image", outputs=[Output("IMAGE")])
def image_invert(image: Image) -> None: ...


@node("ImageBlend", title="Image Blend", category="image", outputs=[Output("IMAGE")])
def image_blend(
    image1: Image, image2: Image, blend_factor: Unit = 0.5, blend_mode: Literal["normal", "multiply"] = "normal"
) -> None: ...


@node("Mixed", category="test", outputs=[Output("INT"), Output("COMBO", name="choice"), Output("STRING", name="text")])
def mixed(
    kind: Literal["a", "b"],
    amount: Annotated[int, SocketOnly()],
    mask: Mask | None = None,
    flag: Annotated[bool, Optional()] = False,
    note: Annotated[str, Optional()] = "",
    later: Annotated[Any, Socket("IMAGE,MASK"), Lazy()] | None = None,
) -> None:
    """Takes one of everything."""


@node("Anything", category="test", outputs=[Output("*")])
def anything(value: Any, **extra: Any) -> None: ...


def _even(width: int | None, height: int | None) -> str | None:
    return "width and height have to be equal" if None not in (width, height) and width != height else None


def _broken(value: object) -> str | None:
    raise RuntimeError("out of order")


@node("Square", category="test", output_node=True, check=_even)
def square(width: int = 1, height: int = 1) -> None: ...


@node("Broken", category="test", output_node=True, check=_broken)
def broken(value: int = 1) -> None: ...


NODES: Final[tuple[NodeSpec, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, NodeSpec))


def registry() -> Registry:
    """A registry of this vocabulary."""
    return Registry(NODES)


@dataclass(frozen=True)
class ListedFiles:
    """Files that are just names, by folder."""

    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def choices(self, choice: FileChoice) -> Sequence[str]:
        return sorted(self.names.get(choice.folder, ()))

    def resolve(self, choice: FileChoice, name: str) -> Path:
        if name not in self.choices(choice):
            raise MissingFile(f"no {name!r} in {choice.folder}")
        return Path(choice.folder, name)

    def ref(self, choice: FileChoice, name: str) -> FileRef:
        raise MissingFile("a list of names has no contents")


def said_only(value: object) -> str:
    """A test id of what a message says, and nothing of the bytes that make it."""
    return value[:40] if isinstance(value, str) else "data"


def refusal(read: Callable[[], object]) -> str:
    """The message with which something is refused as no workflow; empty where it is not refused."""
    try:
        read()
    except UnreadableWorkflow as error:
        return str(error)
    return ""
