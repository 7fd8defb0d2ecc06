"""Prompt text, read: weights in parentheses, named embeddings, chunks of what CLIP can take at once.

``(text)`` weighs 1.1 times what is around it, ``(text:1.3)`` weighs 1.3 whatever is around it, ``\\(`` and ``\\)`` are plain
signs, and a parenthesis without its partner is one too. ``embedding:name`` at the start of a segment or after white space
names a textual inversion. Everything here is pure: text in, numbers out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

EMPHASIS: Final = 1.1
CHUNK: Final = 75
"""Tokens of a prompt that fit between the start and the end token."""
WORD_LIMIT: Final = 8
"""A group of fewer tokens is not torn apart by the end of a chunk."""

_PIECES: Final = re.compile(r"\\[()]|[()]|[^\\()]+|\\")
_EMBEDDING: Final = re.compile(r"(?:^|(?<=\s))embedding:(\S+)")

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of text with one weight."""

    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class EmbeddingName:
    """``embedding:name`` as it stands in the prompt, whatever follows it up to the next white space included."""

    name: str


@dataclass(frozen=True, slots=True)
class Weighted(Generic[Item]):
    """A token, or something in a token's place, with its weight."""

    item: Item
    weight: float


_Tree = list["str | _Tree"]


def parse(prompt: str) -> list[Segment]:
    """The segments of ``prompt`` in order; none of them is empty."""
    return [segment for segment in _flatten(_tree(prompt)) if segment.text]


def _tree(prompt: str) -> _Tree:
    """Text and groups as nested lists; a parenthesis without a partner has become text."""
    stack: list[_Tree] = [[]]
    for piece in _PIECES.findall(prompt):
        if piece == "(":
            stack.append([])
        elif piece == ")" and len(stack) > 1:
            group = stack.pop()
            stack[-1].append(group)
        else:
            _add_text(stack[-1], piece[1:] if piece in ("\\(", "\\)") else piece)
    while len(stack) > 1:
        unclosed = stack.pop()
        _add_text(stack[-1], "(")
        for child in unclosed:
            if isinstance(child, str):
                _add_text(stack[-1], child)
            else:
                stack[-1].append(child)
    return stack[0]


def _add_text(group: _Tree, text: str) -> None:
    if group and isinstance(group[-1], str):
        group[-1] += text
    else:
        group.append(text)


def _flatten(tree: _Tree) -> Iterator[Segment]:
    # a stack of its own, because a prompt may nest deeper than Python calls may
    stack: list[tuple[Iterator[str | _Tree], float]] = [(iter(tree), 1.0)]
    while stack:
        children, weight = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
        elif isinstance(child, str):
            yield Segment(child, weight)
        else:
            given = _given_weight(child)
            stack.append((iter(child), weight * EMPHASIS) if given is None else (iter(given[0]), given[1]))


def _given_weight(group: _Tree) -> tuple[_Tree, float] | None:
    """The group without its ``:weight`` at the end, and that weight; None when it gives none."""
    if not group or not isinstance(group[-1], str):
        return None
    text, colon, number = group[-1].rpartition(":")
    if not colon or not (text or len(group) > 1):
        return None
    try:
        weight = float(number)
    except ValueError:
        return None
    return ([*group[:-1], text], weight) if math.isfinite(weight) else None


def split_embeddings(text: str) -> list[str | EmbeddingName]:
    """The text of a segment and the embeddings it names, in order; no empty text."""
    parts: list[str | EmbeddingName] = []
    end = 0
    for found in _EMBEDDING.finditer(text):
        parts += [text[end : found.start()], EmbeddingName(found[1])]
        end = found.end()
    parts.append(text[end:])
    return [part for part in parts if isinstance(part, EmbeddingName) or part.strip()]


def groups(
    prompt: str, tokenize: Callable[[str], Sequence[Item]], vectors: Callable[[str], tuple[Sequence[Item], str]]
) -> list[list[Weighted[Item]]]:
    """The groups of a prompt, each a run of tokens that stays together if it is short.

    Args:
        prompt: the text as the user wrote it.
        tokenize: the tokens of plain text.
        vectors: what stands for the embedding of a name, and the end of the name that is plain text after all.
    """
    result: list[list[Weighted[Item]]] = []
    for segment in parse(prompt):
        for part in split_embeddings(segment.text):
            found, rest = vectors(part.name) if isinstance(part, EmbeddingName) else ((), part)
            runs = (found, tokenize(rest) if rest else ())
            result += [[Weighted(item, segment.weight) for item in run] for run in runs if len(run)]
    return result


def chunks(token_groups: Iterable[Sequence[Item]], size: int = CHUNK) -> list[list[Item]]:
    """Lay groups into chunks of at most ``size``; there is always one chunk.

    A group that does not fit into what is left of a chunk is torn when it has ``WORD_LIMIT`` tokens or more, else it
    goes to the next chunk whole.
    """
    laid: list[list[Item]] = [[]]
    for group in token_groups:
        rest = list(group)
        while rest:
            room = size - len(laid[-1])
            may_tear = len(group) >= WORD_LIMIT or len(group) > size
            take = len(rest) if len(rest) <= room else room * may_tear
            laid[-1] += rest[:take]
            rest = rest[take:]
            if rest:
                laid.append([])
    return laid
