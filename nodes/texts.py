"""Texts made of values and of chance."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import accumulate
from typing import Annotated, Any, Final

from engine.errors import InputError
from engine.spec import Multiline, Output, Socket, node
from nodes import draws
from nodes.formatting import format_text, format_value
from nodes.lists import only
from nodes.widgets import SeedInt

Value = Any | None

_WEIGHTED: Final = re.compile(r"(?P<text>.*)::\s*(?P<weight>-?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30}))\s*", re.DOTALL)
_ESCAPES: Final = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}


@node("FormatText", title="Format Text", category="utils/text", outputs=[Output("STRING")])
def fill_template(
    template: Annotated[str, Multiline()], a: Value = None, b: Value = None, c: Value = None, d: Value = None
) -> str:
    """The template with {a}, {b}, {c} and {d} replaced by the values linked to them.

    {a:05} pads a number with zeros, {b:.2f} rounds to two digits, {c:>8} aligns; {{ and }} are braces.
    """
    given = {name: value for name, value in {"a": a, "b": b, "c": c, "d": d}.items() if value is not None}
    return format_text(template, given, input="template")


@node("TextJoin", title="Join Texts", category="utils/text", outputs=[Output("STRING")], takes_lists=True)
def text_join(texts: Any, separator: Annotated[Any, Socket("STRING")] = ", ") -> str:
    r"""One text of a list of texts or numbers, the separator between them. \n in it is a line end, \t a tab."""
    between = re.sub(r"\\[nt\\]", lambda match: _ESCAPES[match[0]], only(separator, "separator"))
    return str(between.join(format_value(text, "", input="texts", name="texts") for text in texts))


@node(
    "RandomChoice",
    title="Random Choice",
    category="utils/text",
    outputs=[Output("STRING", "choice"), Output("INT", "index")],
)
def random_choice(choices: Annotated[str, Multiline()], seed: SeedInt = 0) -> tuple[str, int]:
    """One line of the text, drawn by the seed, and its number from 0 on. Empty lines do not count.

    A line that ends in ::2 is drawn twice as often as one without, one that ends in ::0 never. The same seed and lines give the same
    choice on every machine.
    """
    lines = [_weighted(line) for line in choices.splitlines() if line.strip()]
    total = sum((weight for _, weight in lines), Fraction())
    if total == 0:
        found = "none" if not lines else "only such as are never drawn"
        raise InputError(f"expected at least one line to choose from, found {found}", input="choices")
    drawn = Fraction(draws.below(2**128, seed, "mezzotint RandomChoice 1"), 2**128) * total
    index = next(index for index, end in enumerate(accumulate(weight for _, weight in lines)) if drawn < end)
    return lines[index][0], index


def _weighted(line: str) -> tuple[str, Fraction]:
    found = _WEIGHTED.fullmatch(line)
    if found is None:
        return line.strip(), Fraction(1)
    weight = Fraction(found["weight"])
    if weight < 0:
        raise InputError(f"expected a weight of 0 or more, found {found['weight']} in {line[:80]!r}", input="choices")
    return found["text"].strip(), weight
