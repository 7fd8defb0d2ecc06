"""Prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from engine.model_folders import T5_TOKENIZER
from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.spec import Multiline, Output, Range, node
from nodes import diffusion
from nodes.sockets import Clip, Conditioning

if TYPE_CHECKING:
    from nodes.diffusion.configs import Tower

Text = Annotated[str, Multiline(dynamic_prompts=True)]
Side = Annotated[int, Range(0, 16384)]

_TOKENIZER = ("tokenizers", T5_TOKENIZER)


def _named_in(*texts: str | None) -> Iterable[tuple[str, str | None]]:
    """The files that prompts depend on: the textual inversions they name, and a tokenizer. One that comes over a link may name any."""
    yield _TOKENIZER
    for text in texts:
        if text is None:
            yield "embeddings", None
            return
        for segment in diffusion.prompts.parse(text):
            for part in diffusion.prompts.split_embeddings(segment.text):
                if isinstance(part, diffusion.prompts.EmbeddingName):
                    yield "embeddings", part.name.rstrip(",")


def files_of_text(text: str | None, **others: object) -> Iterable[tuple[str, str | None]]:
    return _named_in(text)


def _files_of_both(text_g: str | None, text_l: str | None, **others: object) -> Iterable[tuple[str, str | None]]:
    return _named_in(text_g, text_l)


def _files_of_three(
    clip_l: str | None, clip_g: str | None, t5xxl: str | None, **others: object
) -> Iterable[tuple[str, str | None]]:
    return _named_in(clip_l, clip_g, t5xxl)


def encode(
    ctx: NodeContext, text: str | Mapping[Tower, str | None], clip: ModelRef, *, projects: bool = True
) -> list[Any]:
    """The conditioning of a prompt, or of one for each text encoder; of several entries where hooks change in the course of a sampling."""

    def find(folder: str, name: str) -> Path | None:
        found = ctx.find_file(folder, name)
        return found.path if found else None

    layer = clip.setting("last_layer")
    entries: list[Any] = []
    for way in diffusion.weight_hooks.encodings(clip):
        with ctx.models.lease(way.clip) as loaded:
            encoded = diffusion.text.encode(
                text,
                loaded,
                layer=None if layer is None else int(layer),
                find_embedding=lambda name: find("embeddings", name),
                find_tokenizer=lambda: find(*_TOKENIZER),
                warn=ctx.warn,
                projects=projects,
            )
        entries += _with(encoded, **way.options)
    return entries


@node(
    "CLIPTextEncode",
    title="CLIP Text Encode (Prompt)",
    category="conditioning",
    outputs=[Output("CONDITIONING")],
    reads=files_of_text,
    version=5,
)
def clip_text_encode(ctx: NodeContext, text: Text, clip: Clip) -> list[Any]:
    """A prompt as conditioning.

    (word) weighs a word 1.1 times, (word:1.3) exactly 1.3; embedding:name puts a textual inversion in its place.
    """
    return encode(ctx, text, clip)


def _with(conditioning: Conditioning, **options: Any) -> list[Any]:
    return [[states, {**known, **options}] for states, known in conditioning]


@node(
    "CLIPTextEncodeSDXL",
    category="advanced/conditioning",
    outputs=[Output("CONDITIONING")],
    reads=_files_of_both,
    version=4,
)
def clip_text_encode_sdxl(
    ctx: NodeContext,
    *,
    clip: Clip,
    width: Side = 1024,
    height: Side = 1024,
    crop_w: Side = 0,
    crop_h: Side = 0,
    target_width: Side = 1024,
    target_height: Side = 1024,
    text_g: Text,
    text_l: Text,
) -> list[Any]:
    """A prompt for each of SDXL's text encoders, and what SDXL is told of sizes: of the whole picture, where it was cut, what is made."""
    sizes = {"width": width, "height": height, "crop_w": crop_w, "crop_h": crop_h}
    return _with(
        encode(ctx, {"l": text_l, "g": text_g}, clip), **sizes, target_width=target_width, target_height=target_height
    )


@node(
    "CLIPTextEncodeSDXLRefiner",
    category="advanced/conditioning",
    outputs=[Output("CONDITIONING")],
    reads=files_of_text,
    version=4,
)
def clip_text_encode_sdxl_refiner(
    ctx: NodeContext,
    *,
    ascore: Annotated[float, Range(0.0, 1000.0, step=0.01)] = 6.0,
    width: Side = 1024,
    height: Side = 1024,
    text: Text,
    clip: Clip,
) -> list[Any]:
    """A prompt for SDXL's refiner, with the size and the aesthetic score it is to aim at."""
    return _with(encode(ctx, text, clip), aesthetic_score=ascore, width=width, height=height)


@node(
    "CLIPTextEncodeSD3",
    category="advanced/conditioning",
    outputs=[Output("CONDITIONING")],
    reads=_files_of_three,
    version=4,
)
def clip_text_encode_sd3(
    ctx: NodeContext,
    clip: Clip,
    clip_l: Text,
    clip_g: Text,
    t5xxl: Text,
    empty_padding: Literal["none", "empty_prompt"],
) -> list[Any]:
    """A prompt for each of Stable Diffusion 3's text encoders; with empty_padding "none" an empty one says nothing at all."""
    empty = "" if empty_padding == "empty_prompt" else None
    # CLIP's encoders go side by side: where one has a text, the other has an empty one
    small, big = (clip_l, clip_g) if clip_l or clip_g else (empty, empty)
    return encode(ctx, {"l": small, "g": big, "t5": t5xxl or empty}, clip)


_Tokens = Annotated[int, Range(0, 10000, step=1)]


@node("T5TokenizerOptions", category="_for_testing/conditioning", outputs=[Output("CLIP")], experimental=True)
def t5_tokenizer_options(clip: Clip, min_padding: _Tokens = 0, min_length: _Tokens = 0) -> ModelRef:
    """How T5's texts are filled up: with so many paddings behind the end at least, and to so many tokens in all."""
    return clip.with_settings(
        **{diffusion.text.T5_BEHIND: min_padding, diffusion.text.T5_LEAST: min_length},
    )


@node(
    "CLIPTextEncodeControlnet",
    category="_for_testing/conditioning",
    outputs=[Output("CONDITIONING")],
    reads=files_of_text,
    version=4,
    experimental=True,
)
def clip_text_encode_controlnet(ctx: NodeContext, clip: Clip, conditioning: Conditioning, text: Text) -> list[Any]:
    """A prompt of its own for the ControlNets of a conditioning, which the model does not hear."""
    states, options = encode(ctx, text, clip)[0]
    return _with(conditioning, cross_attn_controlnet=states, pooled_output_controlnet=options.get("pooled_output"))


@node("CLIPSetLastLayer", title="CLIP Set Last Layer", category="conditioning", outputs=[Output("CLIP")])
def clip_set_last_layer(clip: Clip, stop_at_clip_layer: Annotated[int, Range(-24, -1, step=1)] = -1) -> ModelRef:
    """Clip skip: a prompt becomes the states of this layer, counted from the end (-1 the last)."""
    return clip.with_settings(last_layer=stop_at_clip_layer)
