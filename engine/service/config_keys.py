"""What a service can be told, key by key, and how each value is read."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine.errors import UsageError
from engine.run.settings import parse_budget
from engine.service.origins import checked_origin


class Unfit(Exception):
    """A value that is not of its key's kind. Its text says what was expected."""


Read = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """``read`` takes what a command line, a TOML file or, as text, the environment gives, and raises ``Unfit``."""

    table: str
    read: Read
    separator: str = ""
    """What parts the items where a list comes as text; empty for what is no list."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise Unfit("text of one line")
    return value


def _path(value: Any) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise Unfit("a path")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise Unfit("a path below a home folder that there is") from error


def _choice(*choices: str) -> Read:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise Unfit("one of " + ", ".join(choices) if len(choices) > 1 else f'"{choices[0]}"')
        return value

    return read


def _whole(least: int, most: int = 2**63 - 1) -> Read:
    def read(value: Any) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise Unfit(f"a whole number from {least}" + (f" to {most}" if most < 2**63 - 1 else ""))
        return value

    return read


def _number(*, zero: bool = False) -> Read:
    def read(value: Any) -> float:
        wanted = Unfit("a number, 0 or more" if zero else "a number above 0")
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise wanted
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise wanted from None
        if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
            raise wanted
        return number

    return read


_ANSWERS: Final[Mapping[str, bool]] = {
    "true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False,
}  # fmt: skip


def _yes(value: Any) -> bool:
    answer = _ANSWERS.get(value.casefold()) if isinstance(value, str) else value
    if not isinstance(answer, bool):
        raise Unfit("true or false")
    return answer


def _budget(value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    try:
        parse_budget(_text(text), 0)
    except UsageError:
        raise Unfit("a memory budget such as 4GB or 80%") from None
    return str(text)


def _origin(value: Any) -> str:
    try:
        checked_origin(_text(value))
    except UsageError:
        raise Unfit("origins such as https://example.com") from None
    return str(value)


def _network(value: Any) -> str:
    try:
        return str(ipaddress.ip_network(_text(value)))
    except ValueError:
        raise Unfit("addresses such as 10.0.0.2, or networks such as 10.0.0.0/24") from None


def _list(table: str, item: Read, separator: str) -> Key:
    def read(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(separator) if part.strip()]
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise Unfit("a list")
        return tuple(item(part) for part in value)

    return Key(table, read, separator)


KEYS: Final[Mapping[str, Key]] = {
    "host": Key("service", _text),
    "port": Key("service", _whole(0, 65535)),
    "token_file": Key("service", _path),
    "allow_origin": _list("service", _origin, ","),
    "trusted_proxy": _list("service", _network, ","),
    "log_format": Key("service", _choice("text", "json")),
    "log_level": Key("service", _choice("debug", "info", "warning", "error", "critical")),
    "models": _list("places", _path, os.pathsep),
    "input": Key("places", _path),
    "output": Key("places", _path),
    "temp": Key("places", _path),
    "state": Key("places", _path),
    "extra_model_paths": Key("places", _path),
    "custom_nodes": _list("places", _path, os.pathsep),
    "installed_packs": Key("places", _yes),
    "device": Key("device", _text),
    # by commas: the name of a device may have a colon
    "devices": _list("device", _text, ","),
    "dtype": Key("device", _choice("float32", "float16", "bfloat16")),
    "vram_budget": Key("device", _budget),
    "noise_device": Key("device", _choice("cpu")),
    "checkpoint_seconds": Key("device", _number(zero=True)),
    "max_body": Key("limits", _whole(1)),
    "max_pixels": Key("limits", _whole(1)),
    "max_nodes": Key("limits", _whole(1)),
    "max_queue": Key("limits", _whole(1)),
    "max_sockets": Key("limits", _whole(1)),
    "node_timeout": Key("patience", _number()),
    "grace": Key("patience", _number(zero=True)),
    "lease": Key("patience", _number()),
    "shutdown": Key("patience", _number(zero=True)),
    "keep_jobs": Key("retention", _whole(0)),
    "keep_days": Key("retention", _number(zero=True)),
}
"""Each key has one name everywhere: ``--keep-jobs``, ``MEZZOTINT_KEEP_JOBS``, and ``keep_jobs`` in its table of the file."""

TABLES: Final = tuple(dict.fromkeys(key.table for key in KEYS.values()))
