"""Prompt text, read: weights in parentheses, named embeddings, chunks of what CLIP can take at once.

``(text)`` weighs 1.1 times what is around it, ``(text:1.3)`` weighs 1.3 whatever is around it, ``\\(`` and ``\\)`` are plain
signs. Parentheses without a partner are read as ComfyUI reads them, see ``_runs``. ``embedding:name`` at the start of a segment or
after a space or a line end names a textual inversion; there may be space behind the colon. Everything here is pure: text in, numbers out.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

EMPHASIS: Final = 1.1
CHUNK: Final = 75
"""Tokens of a prompt that fit between the start and the end token."""
WORD_LIMIT: Final = 8
"""A group of fewer tokens is not torn apart by the end of a chunk."""

_PARENTHESES: Final = re.compile(r"\\[()]|[()]")
_ESCAPED: Final = re.compile(r"\\([()])")
_EMBEDDING: Final = re.compile(r"(?:^|(?<=[ \n]))embedding:\s*(\S+)")

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


@dataclass(frozen=True, slots=True)
class _Parentheses:
    """Those of a prompt that are not escaped: where each is, whether it opens, and the number of its partner, or how many there are."""

    places: list[int]
    opens: list[bool]
    partners: list[int]

    @classmethod
    def of(cls, prompt: str) -> _Parentheses:
        found = [sign for sign in _PARENTHESES.finditer(prompt) if len(sign[0]) == 1]
        partners = [len(found)] * len(found)
        waiting: list[int] = []
        for number, sign in enumerate(found):
            if sign[0] == "(":
                waiting.append(number)
            elif waiting:
                partners[waiting.pop()] = number
        return cls([sign.start() for sign in found], [sign[0] == "(" for sign in found], partners)

    def are_at(self, place: int) -> bool:
        number = bisect_left(self.places, place)
        return number < len(self.places) and self.places[number] == place


def parse(prompt: str) -> list[Segment]:
    """The segments of ``prompt`` in order; none of them is empty."""
    signs = _Parentheses.of(prompt)
    segments: list[Segment] = []
    # a stack of its own, because a prompt may nest deeper than Python calls may; the next run is on top
    waiting = [(start, end, 1.0) for start, end in _runs(signs, 0, len(prompt))][::-1]
    while waiting:
        start, end, weight = waiting.pop()
        is_group = prompt[start] == "(" and prompt[end - 1] == ")" and signs.are_at(start) and signs.are_at(end - 1)
        if is_group:
            end, weight = _weighed(prompt, start + 1, end - 1, weight)
            waiting += [(*run, weight) for run in _runs(signs, start + 1, end)][::-1]
        else:
            segments.append(Segment(_ESCAPED.sub(r"\1", prompt[start:end]), weight))
    return segments


def _runs(signs: _Parentheses, start: int, end: int) -> Iterator[tuple[int, int]]:
    """What ``prompt[start:end]`` consists of: groups, from ``(`` to its partner or to the end, and what is between them.

    A ``)`` without a partner is text, and so is, for each of these, one ``(`` behind it. A group that is open at the end is one
    all the same if its last sign happens to be ``)``.
    """
    too_many, begun = 0, start
    number = bisect_left(signs.places, start)
    while number < len(signs.places) and (place := signs.places[number]) < end:
        if not signs.opens[number]:
            too_many += 1
        elif too_many:
            too_many -= 1
        else:
            if begun < place:
                yield begun, place
            number = signs.partners[number]
            begun = min(signs.places[number] + 1, end) if number < len(signs.places) else end
            yield place, begun
        number += 1
    if begun < end:
        yield begun, end


def _weighed(prompt: str, start: int, end: int, around: float) -> tuple[int, float]:
    """Where the text of the group between ``start`` and ``end`` ends, without a ``:weight`` behind it, and its weight."""
    colon = prompt.rfind(":", start, end)
    if colon > start:
        try:
            weight = float(prompt[colon + 1 : end])
        except ValueError:
            weight = math.nan
        if math.isfinite(weight):
            return colon, weight
    return end, around * EMPHASIS


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
        text = ""
        runs: list[Sequence[Item]] = []
        for part in split_embeddings(segment.text):
            if isinstance(part, EmbeddingName):
                runs.append(tokenize(text) if text else ())
                found, text = vectors(part.name)
                runs.append(found)
            else:
                # what a name gives back goes on with the text behind it
                text = f"{text} {part.strip()}" if text else part
        runs.append(tokenize(text) if text else ())
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
