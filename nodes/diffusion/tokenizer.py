"""CLIP's byte pair tokenizer (Sennrich et al. 2016; Radford et al. 2021), built from the vocabulary that open_clip ships.

A checkpoint holds no tokenizer. The vocabulary file is found without importing open_clip, and the tokenizer is built in memory,
so neither a download nor a cache is needed.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine.errors import MissingFile, ModelFileError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

START_TOKEN: Final = 49406
END_TOKEN: Final = 49407
VOCABULARY: Final = 49408

_PACKAGE: Final = "open_clip"
_FILE: Final = "bpe_simple_vocab_16e6.txt.gz"
_MERGES: Final = VOCABULARY - 2 * 256 - 2
_WORD_END: Final = "</w>"
_WORDS: Final = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What a text is cut into before pairs are merged: English endings, runs of letters, single digits, runs of signs."""


def tokenize(text: str) -> list[int]:
    """Token numbers of ``text``, without start, end or padding."""
    ids: list[int] = _tokenizer().encode(text, add_special_tokens=False).ids
    return ids


@functools.lru_cache(maxsize=4)
def t5_tokenizer(path: Path) -> Callable[[str], list[int]]:
    """T5's tokenizer out of the ``tokenizer.json`` at ``path``, or in the folder there. Raises ModelFileError for a broken one."""
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        loaded = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more special
        raise ModelFileError(f"expected a tokenizer at {file}, found: {error}") from error

    def split(text: str) -> list[int]:
        ids: list[int] = loaded.encode(text, add_special_tokens=False).ids
        return ids

    return split


@functools.cache
def _tokenizer() -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    merges = _merges(_vocabulary_file())
    letters = list(_byte_letters())
    words = [*letters, *(letter + _WORD_END for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=_WORD_END))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _vocabulary_file() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        if (path := Path(folder, _FILE)).is_file():
            return path
    raise MissingFile(
        f"expected CLIP's vocabulary {_FILE} in the package {_PACKAGE}, found none; install open_clip_torch"
    )


def _merges(path: Path) -> list[tuple[str, str]]:
    """The pairs that are merged, most frequent first; the file's first line is a title, and it lists more than are used."""
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    pairs = (line.split() for line in lines[1 : _MERGES + 1])
    return [(first, second) for first, second in pairs]


def _byte_letters() -> Iterator[str]:
    """A visible letter for each of the 256 bytes: itself where it is one, else one from beyond Latin 1.

    The order is that of the vocabulary: visible bytes first.
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    yield from map(chr, visible)
    yield from (chr(256 + number) for number in range(256 - len(visible)))
