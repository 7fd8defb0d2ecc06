"""Styles: named pairs of texts that are put around a prompt, in the files that style packs are shared as.

JSON is a list of ``{"name", "prompt", "negative_prompt"}``; CSV has columns of these names (or ``text`` for the prompt, as older ones).
A prompt goes where the style's prompt says ``{prompt}``.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import blake3

from engine.errors import InputError, MissingFile
from engine.models import Digest
from engine.paths import nearest

LARGEST: Final = 10 * 2**20
"""Bytes of a file of styles."""

_PLACE: Final = "{prompt}"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Style:
    """What is put around a prompt and a negative prompt."""

    name: str
    prompt: str
    negative_prompt: str = ""

    @property
    def digest(self) -> Digest:
        """Of the texts; the name does not count."""
        return Digest(blake3.blake3(json.dumps(["style", self.prompt, self.negative_prompt]).encode()).hexdigest())

    def apply(self, positive: str, negative: str) -> tuple[str, str]:
        """Both texts in this style.

        Where the style's text has no place for one, a positive text comes before it and a negative one after it.
        """
        styled = self.prompt.replace(_PLACE, positive) if _PLACE in self.prompt else _joined(positive, self.prompt)
        if _PLACE in self.negative_prompt:
            return styled, self.negative_prompt.replace(_PLACE, negative)
        return styled, _joined(self.negative_prompt, negative)


def _joined(first: str, second: str) -> str:
    return f"{first}, {second}" if first.strip() and second.strip() else first if first.strip() else second


@dataclass(frozen=True, slots=True)
class StyleBook:
    """The styles of several files by the names they are chosen by."""

    entries: dict[str, tuple[Path, Style]]
    broken: tuple[str, ...]
    """What is wrong with each file that cannot be read."""

    def find(self, name: str) -> tuple[Path, Style]:
        """The style and its file. Raises MissingFile where there is none of this name."""
        if name in self.entries:
            return self.entries[name]
        reasons = "".join(f"; {reason}" for reason in self.broken)
        raise MissingFile(f"expected a style, found none called {name!r}; {nearest(name, list(self.entries))}{reasons}")


def read_book(files: Iterable[Path]) -> StyleBook:
    """The styles of ``files`` in their order. A name that is taken gets ``_1``, ``_2`` behind it; broken files are left out and told."""
    entries: dict[str, tuple[Path, Style]] = {}
    broken = []
    for path in files:
        styles = _remembered(path)
        if isinstance(styles, str):
            broken.append(styles)
            continue
        for style in styles:
            entries[_free_name(style.name, entries)] = (path, style)
    return StyleBook(entries, tuple(broken))


def _free_name(name: str, taken: dict[str, Any]) -> str:
    free, number = name, 0
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def style_of(path: Path, digest: Digest) -> Style:
    """The style of a file whose texts have this digest. Raises InputError where the file no longer has it."""
    found = next((style for style in read_styles(path) if style.digest == digest), None)
    if found is None:
        raise InputError(
            f"expected the style in {path.name} as it was when the run began, found it changed; run it again"
        )
    return found


def _remembered(path: Path) -> tuple[Style, ...] | str:
    """The styles of a file, or what is wrong with it; read again only when it has changed."""
    try:
        status = path.stat()
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return _read_once(path, status.st_mtime_ns, status.st_size)


@lru_cache(256)
def _read_once(path: Path, _mtime_ns: int, _size: int) -> tuple[Style, ...] | str:
    try:
        return read_styles(path)
    except InputError as error:
        _log.warning("a file of styles is left out: %s", error)
        return str(error)


def read_styles(path: Path) -> tuple[Style, ...]:
    """The styles of one file, in its order. Raises InputError that names the file and what is wrong with it."""
    try:
        return tuple(_parsed(path))
    except OSError as error:
        raise InputError(f"{path.name} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is no text in UTF-8 (byte {error.start}); save it as UTF-8") from error
    except RecursionError as error:
        raise InputError(f"{path.name} is JSON nested too deeply; no file of styles is") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path.name} cannot be read as styles: {error}") from error


def _parsed(path: Path) -> Iterator[Style]:
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST // 2**20} MiB")
    text = data.decode("utf-8-sig")
    return _from_csv(text) if path.suffix.lower() == ".csv" else _from_json(text)


def _from_json(text: str) -> Iterator[Style]:
    content = json.loads(text)
    if not isinstance(content, list):
        raise ValueError(f'expected a list of {{"name", "prompt", "negative_prompt"}}, found {_kind(content)}')
    for number, entry in enumerate(content, 1):
        if not isinstance(entry, dict):
            raise ValueError(f"expected an object as entry {number}, found {_kind(entry)}")
        yield _style(entry, f"entry {number}")


def _from_csv(text: str) -> Iterator[Style]:
    head = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if ";" in head and "," not in head else ",")
    columns = rows.fieldnames or []
    if "name" not in columns or not {"prompt", "text"} & set(columns):
        raise ValueError(f"expected columns name, prompt, negative_prompt, found {', '.join(columns) or 'none'}")
    for row in rows:
        name = row["name"] or ""
        if name.strip() and not name.startswith("#"):  # empty lines, and remarks
            yield _style(row, f"line {rows.line_num}")


def _style(entry: dict[str, Any], where: str) -> Style:
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"expected a name in {where}, found {_kind(name)}")
    texts = [entry.get("prompt", entry.get("text")), entry.get("negative_prompt")]
    for text in texts:
        if not isinstance(text, str | None):
            raise ValueError(f"expected texts in {where} ({name[:80]!r}), found {_kind(text)}")
    return Style(name.strip(), texts[0] or "", texts[1] or "")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "none"}
    return names.get(type(value), "a number")
