"""CLIP's byte-pair tokenizer (Radford et al., 2021), from the merge list that the open_clip package carries.

The vocabulary is 256 byte symbols, the same symbols at the end of a word, 48,894 merges and two marks: 49,408 in all.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path

import regex

LENGTH = 77
MERGES = 49152 - 256 - 2
START, END = "<|startoftext|>", "<|endoftext|>"
PIECES = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE)


def merges_file() -> Path:
    """The merge list inside the installed open_clip, found without importing it (that would import torch and timm)."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("expected the package open_clip_torch, found none; install it for its merge list")
    return Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz")


def byte_symbols() -> dict[int, str]:
    """A printable character for each byte, as GPT-2 chose them: itself where printable, else the next free one from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


class Tokenizer:
    """Text to token numbers. `vocabulary` maps symbols to 0..49407 in CLIP's order."""

    def __init__(self, path: Path) -> None:
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : MERGES + 1]
        pairs = [tuple(line.split()) for line in lines]
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._bytes = byte_symbols()
        symbols = list(self._bytes.values())
        listed = [*symbols, *(f"{s}</w>" for s in symbols), *("".join(pair) for pair in pairs), START, END]
        self.vocabulary = {symbol: number for number, symbol in enumerate(listed)}

    @cached_property
    def start(self) -> int:
        return self.vocabulary[START]

    @cached_property
    def end(self) -> int:
        return self.vocabulary[END]

    def pieces(self, text: str) -> Iterator[int]:
        """Token numbers of a text without marks and padding."""
        for word in PIECES.findall(" ".join(html.unescape(text).lower().split())):
            yield from (self.vocabulary[symbol] for symbol in self._merge(word))

    def _merge(self, word: str) -> list[str]:
        symbols = [self._bytes[byte] for byte in word.encode()]
        symbols[-1] += "</w>"
        while len(symbols) > 1:
            best = min(pairwise(symbols), key=lambda pair: self._ranks.get(pair, MERGES))
            if best not in self._ranks:
                break
            symbols = _join(symbols, best)
        return symbols

    def __call__(self, text: str) -> list[int]:
        """77 token numbers: start mark, text cut to 75, end marks to the end, as Stable Diffusion 1 pads."""
        row = [self.start, *list(self.pieces(text))[: LENGTH - 2]]
        return row + [self.end] * (LENGTH - len(row))


def _join(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined


@lru_cache(maxsize=1)
def clip_tokenizer() -> Tokenizer:
    return Tokenizer(merges_file())
