"""What an editor does to texts before it sends a workflow: draws choices, takes comments out, fills file names in.

    {a|b}  {a|{b|c}}  \\{ \\| \\}     one of the choices; braces and bars that mean themselves
    /* ... */   // ...              comments
    %date:yyyy-MM-dd%  %KSampler.seed%    in the names of saved files

All functions are pure: the seed and the time are arguments.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from engine.graph.graph import Call, Graph, NodeId, Value
from engine.registry import Registry

SAVERS: Final = frozenset(
    {
        "SaveImage",
        "SaveAnimatedWEBP",
        "SaveAnimatedPNG",
        "SaveWEBM",
        "SaveAudio",
        "SaveGLB",
        "CLIPSave",
        "VAESave",
        "ModelSave",
        "LoraSave",
        "SaveLatent",
    }
)
"""Node types whose ``filename_prefix`` is filled in."""

_COMMENT: Final = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_TOKEN: Final = re.compile(r"\\[{}|]|[{}|]|[^\\{}|]+|\\")
_FIELD: Final = re.compile(r"%([^%\n]+)%")
_DATE_PART: Final = re.compile(r"yyyy|yy|dd?|MM?|hh?|mm?|ss?")
_UNSAFE: Final = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')


def sent_graph(
    graph: Graph, registry: Registry, *, seed: int, now: datetime, names: Mapping[NodeId, str] | None = None
) -> Graph:
    """The graph as an editor would send it: dynamic prompts drawn by ``seed``, fields in file names filled in.

    ``names``: what file names may call a node besides its type and its title. The draws of one input do not depend on
    other nodes.
    """
    drawn = Graph({node: _drawn_call(node, call, registry, seed) for node, call in graph.items()})
    fields = _Fields(drawn, names or {})
    return Graph({node: _named_call(call, fields, now) for node, call in drawn.items()})


def draw_prompt(text: str, rng: random.Random) -> str:
    """The text without comments and with one choice drawn for every ``{a|b}``.

    A brace without its partner and a bar outside of braces stay as they are.
    """
    levels: list[list[str]] = [[""]]
    for token in _TOKEN.findall(_COMMENT.sub("", text)):
        if token == "{":
            levels.append([""])
        elif token == "|" and len(levels) > 1:
            levels[-1].append("")
        elif token == "}" and len(levels) > 1:
            choice = rng.choice(levels.pop())
            levels[-1][-1] += choice
        else:
            levels[-1][-1] += token[1:] if len(token) == 2 and token[0] == "\\" and token[1] in "{}|" else token
    while len(levels) > 1:
        unclosed = "{" + "|".join(levels.pop())
        levels[-1][-1] += unclosed
    return levels[0][0]


def format_date(pattern: str, now: datetime) -> str:
    """``now`` by a pattern of d, M, y, h, m, s: doubled letters are padded with a zero, years are ``yy`` or
    ``yyyy``."""
    parts = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match[str]) -> str:
        letters = match.group()
        if letters[0] == "y":
            return str(now.year)[-len(letters) :]
        return str(parts[letters[0]]).zfill(len(letters))

    return _DATE_PART.sub(part, pattern)


def _drawn_call(node: NodeId, call: Call, registry: Registry, seed: int) -> Call:
    spec = registry.get(call.type)
    drawn = {}
    for known in spec.inputs if spec else ():
        value = call.inputs.get(known.name)
        if known.dynamic_prompts and isinstance(value, str):
            drawn[known.name] = draw_prompt(value, random.Random(f"{seed}/{node}/{known.name}"))
    return call.with_inputs(**drawn) if drawn else call


def _named_call(call: Call, fields: _Fields, now: datetime) -> Call:
    prefix = call.inputs.get("filename_prefix")
    if call.type not in SAVERS or not isinstance(prefix, str):
        return call

    def fill(match: re.Match[str]) -> str:
        field = match.group(1)
        if field.startswith("date:"):
            return format_date(field.removeprefix("date:"), now)
        value = fields.find(field)
        return match.group() if value is None else _UNSAFE.sub("_", _as_text(value))

    return call.with_inputs(filename_prefix=_FIELD.sub(fill, prefix))


class _Fields:
    """Finds ``NodeNameOrTitle.widget``: names go before titles, the first of several nodes counts."""

    def __init__(self, graph: Graph, names: Mapping[NodeId, str]) -> None:
        self._by_name: dict[str, Call] = {}
        self._by_title: dict[str, Call] = {}
        for node, call in graph.items():
            self._by_name.setdefault(names.get(node, call.type), call)
            if call.title is not None:
                self._by_title.setdefault(call.title, call)

    def find(self, field: str) -> Value | None:
        name, dot, widget = field.rpartition(".")
        call = self._by_name.get(name) or self._by_title.get(name)
        return call.literals.get(widget) if dot and call else None


def _as_text(value: Value) -> str:
    """A value as an editor writes it: no fraction where there is none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
