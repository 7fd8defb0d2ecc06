"""Prompts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.spec import Multiline, Output, Range, node
from nodes import diffusion
from nodes.sockets import Clip


def _embeddings_in(text: str | None, clip: None) -> Iterable[tuple[str, str | None]]:
    """The textual inversions a prompt names: their files are part of what it means. One that comes over a link may name any."""
    if text is None:
        yield "embeddings", None
        return
    for segment in diffusion.prompts.parse(text):
        for part in diffusion.prompts.split_embeddings(segment.text):
            if isinstance(part, diffusion.prompts.EmbeddingName):
                yield "embeddings", part.name.rstrip(",")


@node(
    "CLIPTextEncode",
    title="CLIP Text Encode (Prompt)",
    category="conditioning",
    outputs=[Output("CONDITIONING")],
    reads=_embeddings_in,
    version=2,
)
def clip_text_encode(ctx: NodeContext, text: Annotated[str, Multiline(dynamic_prompts=True)], clip: Clip) -> list[Any]:
    """A prompt as conditioning.

    (word) weighs a word 1.1 times, (word:1.3) exactly 1.3; embedding:name puts a textual inversion in its place.
    """

    def find(name: str) -> Path | None:
        found = ctx.find_file("embeddings", name)
        return found.path if found else None

    def find_tokenizer(name: str) -> Path | None:
        found = ctx.find_file("tokenizers", f"{name}/tokenizer.json")
        return found.path if found else None

    with ctx.models.lease(clip) as loaded:
        layer = clip.setting("last_layer")
        return diffusion.text.encode(
            text,
            loaded,
            layer=None if layer is None else int(layer),
            find_embedding=find,
            find_tokenizer=find_tokenizer,
            warn=ctx.warn,
        )


@node("CLIPSetLastLayer", title="CLIP Set Last Layer", category="conditioning", outputs=[Output("CLIP")])
def clip_set_last_layer(clip: Clip, stop_at_clip_layer: Annotated[int, Range(-24, -1, step=1)] = -1) -> ModelRef:
    """Clip skip: a prompt becomes the states of this layer, counted from the end (-1 the last)."""
    return clip.with_settings(last_layer=stop_at_clip_layer)
