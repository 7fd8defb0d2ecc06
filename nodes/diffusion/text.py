"""Prompts into conditioning: CLIP's text tower, with weights, long prompts, textual inversion and clip skip.

A prompt of any length is laid into chunks of 77 tokens, each encoded alone; the results follow each other on the token axis.
A weight moves a token's encoding away from, or towards, that of the empty prompt at the same place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from nodes.diffusion import prompts
from nodes.diffusion.configs import TextConfig
from nodes.diffusion.embeddings import EmbeddingFinder, FindEmbedding, Warn
from nodes.diffusion.prompts import Weighted
from nodes.diffusion.store import LoadedModel
from nodes.diffusion.tokenizer import END_TOKEN, START_TOKEN, tokenize

Token = int | Tensor
"""A number of the vocabulary, or a learned vector in its place."""

Entry = list[Any]
"""One conditioning entry: ``[tensor [1, T, D], {"pooled_output": tensor [1, D]}]``."""

LAST_LAYER: Final = -1
_CHUNKS_AT_ONCE: Final = 16


def _no_embeddings(name: str) -> Path | None:
    return None


def _silent(message: str) -> None:
    del message


def encode(
    text: str,
    clip: LoadedModel,
    *,
    layer: int = LAST_LAYER,
    find_embedding: FindEmbedding = _no_embeddings,
    warn: Warn = _silent,
) -> list[Entry]:
    """The conditioning of a prompt.

    Args:
        text: the prompt, as ``nodes.diffusion.prompts`` reads it.
        clip: a leased text encoder.
        layer: the layer whose states are taken, counted from the end: -1 the last, -2 the one before ("clip skip 2").
            A layer beyond the first one means the last. The final layer norm is applied in any case.
        find_embedding: finds the file of ``embedding:name``.
        warn: told of embeddings that are left out.

    Returns:
        One entry: float32 [1, 77 * chunks, width] on the CPU, and the first chunk's unweighted state at its end token.

    Raises:
        ModelFileError: an embedding's file is broken or a pickle.
    """
    assert isinstance(clip.config, TextConfig)
    finder = EmbeddingFinder(find_embedding, clip.config.width, warn)
    chunks = tokens_of(text, finder, clip.config.positions)
    weights = torch.tensor([[token.weight for token in chunk] for chunk in chunks])
    weighted = bool((weights != 1).any())
    tokens = [[token.item for token in chunk] for chunk in chunks]
    states, pooled = _encode_chunks([*tokens, *_empty(clip.config.positions)] if weighted else tokens, clip, layer)
    if weighted:
        states = weigh(states[:-1], states[-1], weights)
    return [[states.flatten(0, 1).unsqueeze(0), {"pooled_output": pooled[:1]}]]


def tokens_of(text: str, finder: EmbeddingFinder, positions: int = prompts.CHUNK + 2) -> list[list[Weighted[Token]]]:
    """The chunks of a prompt, each of ``positions`` tokens: start, text, end, and the end token again as padding."""
    groups: list[list[Weighted[Token]]] = prompts.groups(text, tokenize, finder)
    return [_framed(chunk, positions) for chunk in prompts.chunks(groups, positions - 2)]


def _framed(chunk: Sequence[Weighted[Token]], positions: int) -> list[Weighted[Token]]:
    start: Weighted[Token] = Weighted(START_TOKEN, 1.0)
    end: Weighted[Token] = Weighted(END_TOKEN, 1.0)
    return [start, *chunk, *[end] * (positions - 1 - len(chunk))]


def _empty(positions: int) -> list[list[Token]]:
    return [[token.item for token in _framed([], positions)]]


def weigh(states: Tensor, empty: Tensor, weights: Tensor) -> Tensor:
    """``z_empty + w (z - z_empty)`` for each token; tokens of weight 1 stay exactly as they are.

    Shapes: ``states`` [chunks, tokens, width], ``empty`` [tokens, width], ``weights`` [chunks, tokens].
    """
    factor = weights.unsqueeze(-1)
    return torch.where(factor == 1, states, empty + factor * (states - empty))


@torch.inference_mode()
def _encode_chunks(chunks: Sequence[Sequence[Token]], clip: LoadedModel, layer: int) -> tuple[Tensor, Tensor]:
    """States [chunks, tokens, width] and pooled [chunks, width], float32 on the CPU."""
    starts = range(0, len(chunks), _CHUNKS_AT_ONCE)
    results = [_encode_batch(chunks[start : start + _CHUNKS_AT_ONCE], clip, layer) for start in starts]
    states, pooled = zip(*results, strict=True)
    return torch.cat(states), torch.cat(pooled)


def _encode_batch(chunks: Sequence[Sequence[Token]], clip: LoadedModel, layer: int) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([[END_TOKEN if isinstance(token, Tensor) else token for token in chunk] for chunk in chunks])
    ends = torch.tensor([_end_of(chunk) for chunk in chunks])
    # transformers 4 keeps the layers one level deeper than transformers 5
    tower: Any = getattr(clip.module, "text_model", clip.module)
    layers = tower.encoder.layers
    skipped = layer != LAST_LAYER and -layer <= len(layers)
    with _replaced(tower.embeddings.token_embedding, chunks), _kept(layers[layer if skipped else LAST_LAYER]) as kept:
        last = clip.module(input_ids=ids.to(clip.device)).last_hidden_state
    states = tower.final_layer_norm(kept[0]) if skipped else last
    return states.float().cpu(), last[torch.arange(len(chunks)), ends.to(last.device)].float().cpu()


def _end_of(chunk: Sequence[Token]) -> int:
    return next(place for place, token in enumerate(chunk) if not isinstance(token, Tensor) and token == END_TOKEN)


@contextmanager
def _kept(module: nn.Module) -> Iterator[list[Tensor]]:
    """While open, the list holds what ``module`` gave last.

    transformers would give all layers' states by ``output_hidden_states``, and leave hooks in the module for good.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        kept[:] = [output if isinstance(output, Tensor) else output[0]]

    handle = module.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


@contextmanager
def _replaced(token_embedding: nn.Module, chunks: Sequence[Sequence[Token]]) -> Iterator[None]:
    """While open, the token embedding gives learned vectors where ``chunks`` hold them."""
    learned = [
        (row, column, token)
        for row, chunk in enumerate(chunks)
        for column, token in enumerate(chunk)
        if isinstance(token, Tensor)
    ]

    def replace(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        output = output.clone()
        for row, column, vector in learned:
            output[row, column] = vector.to(output)
        return output

    handle = token_embedding.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
