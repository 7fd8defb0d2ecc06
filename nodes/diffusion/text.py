"""Prompts into conditioning: text encoders, with weights, long prompts, textual inversion and clip skip.

A prompt of any length is laid into chunks of 77 tokens, each encoded alone by CLIP's towers; the results follow each other on the token
axis. T5 takes it whole. A weight moves a token's encoding away from, or towards, that of the empty prompt at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from engine.errors import InputError
from nodes.diffusion import prompts
from nodes.diffusion.configs import PartConfig, T5Config, TextConfig, Tower, TowersConfig
from nodes.diffusion.embeddings import EmbeddingFinder, FindEmbedding, Warn
from nodes.diffusion.family import FAMILIES, Family, TowerRule
from nodes.diffusion.observing import kept_output
from nodes.diffusion.prompts import Weighted
from nodes.diffusion.store import LoadedModel
from nodes.diffusion.tokenizer import END_TOKEN, START_TOKEN, t5_tokenizer, tokenize

Token = int | Tensor
"""A number of the vocabulary, or a learned vector in its place."""

Entry = list[Any]
"""One conditioning entry: ``[tensor [1, T, D], {"pooled_output": tensor [1, D]}]``."""

FindTokenizer = Callable[[], Path | None]
"""Finds the file of T5's tokenizer."""

FAMILY_SETTING: Final = "family"
"""The setting of a recipe for text encoders that names the family they are used for."""

_CHUNKS_AT_ONCE: Final = 16
_T5_END: Final = 1
_T5_LEAST: Final = 77
T5_LEAST: Final = "t5_min_length"
T5_BEHIND: Final = "t5_min_padding"
"""Settings of a recipe: how many tokens T5 is given at least, and how many paddings behind the end of a text."""


def _no_file(name: str = "") -> Path | None:
    return None


def _silent(message: str) -> None:
    del message


@dataclass(frozen=True, slots=True)
class Encoder:
    """A leased set of text encoders, and what a prompt may refer to."""

    clip: LoadedModel
    layer: int | None = None
    """The layer whose states are taken, counted from the end: -1 the last, -2 the one before ("clip skip 2"). A layer beyond the first one
    means the last. None: what the family was trained with."""
    find_embedding: FindEmbedding = _no_file
    find_tokenizer: FindTokenizer = _no_file
    warn: Warn = _silent
    """Told of what is left out."""
    projects: bool = True
    """Whether the pooled state is projected, in families that do so."""

    @property
    def config(self) -> TowersConfig:
        assert isinstance(self.clip.config, TowersConfig)
        return self.clip.config

    @property
    def family(self) -> Family:
        """Whose rules hold: a recipe may say that of encoders that several families have."""
        said = self.clip.ref.setting(FAMILY_SETTING)
        return next((family for name, family in FAMILIES.items() if name == said), FAMILIES[self.config.kind])

    def rule(self, tower: Tower) -> TowerRule:
        return self.family.towers[tower]

    def finder(self, tower: Tower) -> EmbeddingFinder:
        loras = [Path(patch.location) for patch in self.clip.ref.patches if patch.kind == "lora"]
        return EmbeddingFinder(self.find_embedding, self.config[tower].width, self.warn, tower, loras)


def encode(
    text: str | Mapping[Tower, str | None],
    clip: LoadedModel,
    *,
    layer: int | None = None,
    find_embedding: FindEmbedding = _no_file,
    find_tokenizer: FindTokenizer = _no_file,
    warn: Warn = _silent,
    projects: bool = True,
) -> list[Entry]:
    """The conditioning of a prompt.

    Args:
        text: the prompt, as ``nodes.diffusion.prompts`` reads it, or one for each text encoder; None for one that is to say nothing: of T5
            that leaves its end token.
        clip: leased text encoders.
        layer: see ``Encoder``.
        find_embedding: finds the file of ``embedding:name``.
        find_tokenizer: finds T5's tokenizer, which no checkpoint holds.
        warn: told of what is left out.
        projects: whether the pooled state is projected, in families that do so.

    Returns:
        One entry: float32 [1, tokens, width] on the CPU, and the first chunk's unweighted state at its end token.

    Raises:
        ModelFileError: an embedding's file is broken or a pickle.
    """
    encoder = Encoder(clip, layer, find_embedding, find_tokenizer, warn, projects)
    texts = {tower: text if isinstance(text, str) else text.get(tower, "") for tower in encoder.config.names}
    said = {tower: its for tower, its in texts.items() if its is not None}
    chunks = {tower: _chunks(its, encoder, tower) for tower, its in said.items() if tower != "t5"}
    most = max(map(len, chunks.values()), default=0)
    encoded: dict[Tower, Encoded] = {
        tower: _encode_clip(_filled(its, most, encoder, tower), encoder, tower) for tower, its in chunks.items()
    }
    return [_joined(encoder, encoded, _encode_t5(texts["t5"], encoder) if "t5" in texts else None)]


def check_towers(config: PartConfig, name: str) -> None:
    """Raise InputError where ``config`` has text encoders that the family called ``name`` has no use for, or lacks one that it needs."""
    assert isinstance(config, TowersConfig)
    family = next(family for known, family in FAMILIES.items() if known == name)
    wanted = set(family.towers)
    if wanted.issuperset(config.names) and (name == "sd3" or wanted == set(config.names)):
        return
    raise InputError(
        f"expected text encoders {', '.join(it.upper() for it in family.towers)} for {family.title}, "
        f"found {', '.join(it.upper() for it in config.names)}; choose files that belong to the model",
        input="type",
    )


Encoded = tuple[Tensor, Tensor]
"""States [1, tokens, width] and pooled state [1, width]."""


def _joined(encoder: Encoder, encoded: Mapping[Tower, Encoded], t5: Tensor | None) -> Entry:
    """The states of all towers as the family wants them: beside each other, T5's after those of CLIP."""
    if encoder.family.name != "sd3":
        states = _beside([it for it, _ in encoded.values()])
        return [states, {"pooled_output": [pooled for _, pooled in encoded.values()][-1]}]
    beside = {tower: encoded.get(tower) for tower in ("l", "g")}
    widths: dict[str, int] = {"l": 768, "g": 1280}
    pooled = torch.cat([it[1] if it else torch.zeros(1, widths[tower]) for tower, it in beside.items()], -1)
    tokens = max((it[0].shape[1] for it in beside.values() if it), default=0 if t5 is not None else _T5_LEAST)
    clip = _beside([it[0] if it else torch.zeros(1, tokens, widths[tower]) for tower, it in beside.items()])
    width = t5.shape[-1] if t5 is not None else 2 * clip.shape[-1]
    padded = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
    states = padded if t5 is None else torch.cat([padded, t5], 1)
    return [states, {"pooled_output": pooled}]


def _beside(states: Sequence[Tensor]) -> Tensor:
    """Next to each other, cut to the shortest."""
    shortest = min(it.shape[1] for it in states)
    return torch.cat([it[:, :shortest] for it in states], -1)


def _chunks(text: str, encoder: Encoder, tower: Tower) -> list[list[Weighted[Token]]]:
    config = encoder.config[tower]
    assert isinstance(config, TextConfig)
    return tokens_of(text, encoder.finder(tower), config.positions, encoder.rule(tower).padding)


def _filled(
    chunks: list[list[Weighted[Token]]], count: int, encoder: Encoder, tower: Tower
) -> list[list[Weighted[Token]]]:
    """``chunks``, and empty ones up to ``count``: towers with texts of their own go side by side."""
    return chunks + _chunks("", encoder, tower) * (count - len(chunks))


def _encode_clip(chunks: Sequence[Sequence[Weighted[Token]]], encoder: Encoder, tower: Tower) -> Encoded:
    config = encoder.config[tower]
    assert isinstance(config, TextConfig)
    weights = torch.tensor([[token.weight for token in chunk] for chunk in chunks])
    weighted = bool((weights != 1).any())
    tokens = [[token.item for token in chunk] for chunk in chunks]
    if weighted:
        empty = _framed([], config.positions, encoder.rule(tower).padding)
        tokens.append([token.item for token in empty])
    states, pooled = _encode_chunks(tokens, encoder, tower)
    if weighted:
        states = weigh(states[:-1], states[-1], weights)
    return states.flatten(0, 1).unsqueeze(0), pooled[:1]


def tokens_of(
    text: str, finder: EmbeddingFinder, positions: int = prompts.CHUNK + 2, padding: int | None = None
) -> list[list[Weighted[Token]]]:
    """The chunks of a prompt, each of ``positions`` tokens: start, text, end, and the end token or ``padding`` after that."""
    groups: list[list[Weighted[Token]]] = prompts.groups(text, tokenize, finder)
    return [_framed(chunk, positions, padding) for chunk in prompts.chunks(groups, positions - 2)]


def _framed(chunk: Sequence[Weighted[Token]], positions: int, padding: int | None) -> list[Weighted[Token]]:
    start: Weighted[Token] = Weighted(START_TOKEN, 1.0)
    end: Weighted[Token] = Weighted(END_TOKEN, 1.0)
    after: Weighted[Token] = end if padding is None else Weighted(padding, 1.0)
    return [start, *chunk, end, *[after] * (positions - 2 - len(chunk))]


def weigh(states: Tensor, empty: Tensor, weights: Tensor) -> Tensor:
    """``z_empty + w (z - z_empty)`` for each token; tokens of weight 1 stay exactly as they are.

    Shapes: ``states`` [chunks, tokens, width], ``empty`` [tokens, width], ``weights`` [chunks, tokens].
    """
    factor = weights.unsqueeze(-1)
    return torch.where(factor == 1, states, empty + factor * (states - empty))


@torch.inference_mode()
def _encode_chunks(chunks: Sequence[Sequence[Token]], encoder: Encoder, tower: Tower) -> tuple[Tensor, Tensor]:
    """States [chunks, tokens, width] and pooled [chunks, width], float32 on the CPU."""
    starts = range(0, len(chunks), _CHUNKS_AT_ONCE)
    results = [_encode_batch(chunks[start : start + _CHUNKS_AT_ONCE], encoder, tower) for start in starts]
    states, pooled = zip(*results, strict=True)
    return torch.cat(states), torch.cat(pooled)


def _encode_batch(chunks: Sequence[Sequence[Token]], encoder: Encoder, tower: Tower) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([[END_TOKEN if isinstance(token, Tensor) else token for token in chunk] for chunk in chunks])
    ends = torch.tensor([_end_of(chunk) for chunk in chunks])
    config, rule = encoder.config[tower], encoder.rule(tower)
    assert isinstance(config, TextConfig)
    module: Any = encoder.clip.module.get_submodule(tower)
    layers = module.text.encoder.layers
    place = min((encoder.layer or rule.layer) + config.cut, -1)
    within = -place <= len(layers)
    with (
        _replaced(module.text.embeddings.token_embedding, chunks),
        kept_output(layers[place if within else -1]) as kept,
    ):
        last = module(ids.to(encoder.clip.device))
    hidden = within and (encoder.layer is not None or rule.layer != -1)
    states = last if not hidden else module.text.final_layer_norm(kept[0]) if rule.final_norm else kept[0]
    pooled = last[torch.arange(len(chunks)), ends.to(last.device)]
    if module.projection is not None and rule.projects and encoder.projects:
        pooled = module.projection(pooled)
    return states.float().cpu(), pooled.float().cpu()


def _encode_t5(text: str | None, encoder: Encoder) -> Tensor | None:
    """States [1, tokens, width], float32 on the CPU; None, and a warning, where there is no tokenizer."""
    config = encoder.config["t5"]
    assert isinstance(config, T5Config)
    if text is None:
        return _t5_states([], encoder, least=0)
    own = Path(encoder.clip.ref.location, "tokenizer_3", "tokenizer.json")  # a diffusers folder brings it
    path = own if own.is_file() else encoder.find_tokenizer()
    if path is None:
        encoder.warn(
            "expected T5's tokenizer.json in models/tokenizers/t5, found none; the prompt goes to CLIP's encoders alone "
            "(mezzotint models pull t5-tokenizer gets it)"
        )
        return None
    split = t5_tokenizer(path)
    groups: list[list[Weighted[Token]]] = prompts.groups(text, split, encoder.finder("t5"))
    tokens = [token for group in groups for token in group]
    too_large = next((it.item for it in tokens if isinstance(it.item, int) and it.item >= config.vocabulary), None)
    if too_large is not None:
        raise InputError(
            f"T5's tokenizer {path} gives token {too_large}, and the encoder knows {config.vocabulary}; it is of another model",
            input="clip",
        )
    weights = torch.tensor([token.weight for token in tokens] or [1.0])
    weighted = bool((weights != 1).any())
    ref = encoder.clip.ref
    least, behind = int(ref.setting(T5_LEAST, _T5_LEAST) or 0), int(ref.setting(T5_BEHIND) or 0)
    states = _t5_states([token.item for token in tokens], encoder, least, behind)
    if weighted:
        empty = _t5_states([], encoder, states.shape[1])
        full = torch.ones(states.shape[1])
        full[: len(tokens)] = weights
        states = weigh(states, empty[0], full[None])
    return states


@torch.inference_mode()
def _t5_states(tokens: Sequence[Token], encoder: Encoder, least: int, behind: int = 0) -> Tensor:
    """States of ``tokens``, their end, so many paddings ``behind`` it, and more up to the ``least`` length."""
    padded: list[Token] = [*tokens, _T5_END, *[0] * behind]
    padded += [0] * (least - len(padded))
    module: Any = encoder.clip.module.get_submodule("t5")
    ids = torch.tensor([[0 if isinstance(token, Tensor) else token for token in padded]])
    layers, place = module.text.block, encoder.layer or -1
    within = -place <= len(layers)
    with _replaced(module.text.embed_tokens, [padded]), kept_output(layers[place if within else -1]) as kept:
        last: Tensor = module(ids.to(encoder.clip.device))
    states = module.text.final_layer_norm(kept[0]) if within and place != -1 else last
    return states.float().cpu()


def _end_of(chunk: Sequence[Token]) -> int:
    return next(place for place, token in enumerate(chunk) if not isinstance(token, Tensor) and token == END_TOKEN)


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
