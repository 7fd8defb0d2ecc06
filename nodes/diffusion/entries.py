"""CONDITIONING values before a run: options set on their entries, entries joined and mixed. Nothing that is given is changed.

What the options mean when sampling begins is in ``conditioning``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion.conditioning import Conditioning, for_batch
from nodes.diffusion.weight_hooks import HOOKS, WeightHooks, hooks_of, joined, recipe

Warn = Callable[[str], None]


def with_options(conditioning: Conditioning, options: Mapping[str, Any]) -> list[Any]:
    """Every entry with ``options`` added or replaced."""
    return [[embedding, {**known, **options}] for embedding, known in conditioning]


def with_more(conditioning: Conditioning, name: str, item: Any) -> list[Any]:
    """Every entry with ``item`` behind those of the list that its option ``name`` is."""
    return [[embedding, {**known, name: [*known.get(name, ()), item]}] for embedding, known in conditioning]


def with_hooks(conditioning: Conditioning, hooks: WeightHooks) -> list[Any]:
    """Every entry with ``hooks`` behind those it has."""
    if not hooks:
        return list(conditioning)
    return [
        [embedding, {**known, HOOKS: recipe(joined(hooks_of(known.get(HOOKS)), hooks))}]
        for embedding, known in conditioning
    ]


def concatenated(to: Conditioning, source: Conditioning, warn: Warn) -> list[Any]:
    """The tokens of the first entry of ``source`` behind those of every entry of ``to``: [B,T1,D] and [B,T2,D] give [B,T1+T2,D].

    Raises InputError where ``source`` is empty or of another embedding size.
    """
    tail, _ = _first(source, warn)
    return [[torch.cat(_together(embedding, tail), dim=1), dict(known)] for embedding, known in to]


def averaged(to: Conditioning, source: Conditioning, strength: float, warn: Warn) -> list[Any]:
    """``strength * to + (1 - strength) * source`` for every entry of ``to`` and the first one of ``source``.

    ``source`` is cut, or filled up with zeros, to the tokens of the entry. Pooled outputs are mixed alike; one that the entry lacks
    is taken over as it is. Raises InputError where ``source`` is empty or of another embedding size.
    """
    first, options = _first(source, warn)
    pooled = options.get("pooled_output")
    mixed = []
    for embedding, known in to:
        whole, other = _together(embedding, _fitted(first, embedding.shape[1]))
        own = known.get("pooled_output")
        change = {}
        if pooled is not None:
            change["pooled_output"] = pooled if own is None else own * strength + pooled * (1 - strength)
        mixed.append([whole * strength + other * (1 - strength), {**known, **change}])
    return mixed


def zeroed(conditioning: Conditioning) -> list[Any]:
    """Every entry with zeros for its embedding and its pooled output: the model is told nothing, in the usual shape."""
    return [
        [
            torch.zeros_like(embedding),
            {
                name: torch.zeros_like(value) if name == "pooled_output" and value is not None else value
                for name, value in known.items()
            },
        ]
        for embedding, known in conditioning
    ]


def _first(source: Conditioning, warn: Warn) -> tuple[Tensor, Mapping[str, Any]]:
    if not source:
        raise InputError("expected a prompt, found a conditioning without entries", input="conditioning_from")
    if len(source) > 1:
        warn(f"expected one entry in conditioning_from, found {len(source)}; the first one is used")
    embedding, options = source[0]
    return embedding, options


def _together(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both with one batch size; a batch of one goes with any."""
    if a.shape[-1] != b.shape[-1]:
        raise InputError(
            f"expected embeddings of {a.shape[-1]} numbers a token, found {b.shape[-1]}; "
            "encode both prompts with the text encoder of the same model",
            input="conditioning_from",
        )
    count = max(len(a), len(b))
    return for_batch(a, count), for_batch(b, count)


def _fitted(embedding: Tensor, tokens: int) -> Tensor:
    return torch.nn.functional.pad(embedding[:, :tokens], (0, 0, 0, max(0, tokens - embedding.shape[1])))
