"""Numbers: working them out, drawing them, and between them and texts."""

from __future__ import annotations

import math
from typing import Annotated, Any, Final

from engine.errors import InputError
from engine.spec import Output, Range, Seed, Socket, node
from nodes import draws, expressions
from nodes.formatting import format_value

_LIMIT: Final = 2**53

Number = Annotated[Any, Socket("INT,FLOAT,BOOLEAN")]
MaybeNumber = Annotated[Any | None, Socket("INT,FLOAT,BOOLEAN")]
Bound = Annotated[float, Range(-_LIMIT, _LIMIT, step=0.01)]


def _number(name: str, value: Any) -> Any:
    if isinstance(value, int | float) and math.isfinite(value):
        return value
    raise InputError(f"expected a number, found {str(value)[:80]!r}; TextToNumber makes one of a text", input=name)


def _check_expression(expression: str | None, **_: Any) -> str | None:
    try:
        if expression is not None:
            expressions.parse(expression)
    except expressions.ExpressionError as error:
        return f"input expression: {error}"
    return None


@node(
    "MathExpression",
    title="Math Expression",
    category="utils/number",
    outputs=[Output("INT"), Output("FLOAT"), Output("BOOLEAN")],
    check=_check_expression,
)
def math_expression(
    expression: str = "a + b",
    a: MaybeNumber = None,
    b: MaybeNumber = None,
    c: MaybeNumber = None,
    d: MaybeNumber = None,
) -> tuple[int, float, bool]:
    """The value of an expression in a, b, c and d, as INT (its fraction cut off), as FLOAT, and whether it is other than 0.

    It may use + - * / // % **, comparisons, and, or, not, x if y else z, the constants pi, e and tau, and functions such as min, max,
    abs, round, floor, ceil, sqrt, sin, cos, log, clamp(value, low, high) and lerp(from, to, part).
    """
    given = {name: _number(name, value) for name, value in zip("abcd", (a, b, c, d), strict=True) if value is not None}
    value = expressions.evaluate(expression, given)
    return int(value), float(value), bool(value)


@node("Clamp", category="utils/number", outputs=[Output("INT"), Output("FLOAT")])
def clamp(value: Number, minimum: Bound = 0.0, maximum: Bound = 1.0) -> tuple[int, float]:
    """The number, or the bound it lies beyond. INT is its fraction cut off."""
    if minimum > maximum:
        raise InputError(f"expected a minimum of at most the maximum {maximum}, found {minimum}", input="minimum")
    number = _number("value", value)
    inside = minimum if number < minimum else maximum if number > maximum else number
    return int(inside), float(inside)


@node("NumberToText", title="Number to Text", category="utils/number", outputs=[Output("STRING")])
def number_to_text(value: Number, format: str = "") -> str:
    """The number as a text. The format is Python's: 05d pads with zeros, .2f rounds to two digits, e writes a power of ten."""
    return format_value(_number("value", value), format, input="format")


@node("TextToNumber", title="Text to Number", category="utils/number", outputs=[Output("INT"), Output("FLOAT")])
def text_to_number(text: str) -> tuple[int, float]:
    """The number that a text holds, with blanks around it or not. INT is its fraction cut off."""
    try:
        number = int(text)
    except ValueError:
        number = _float(text)
    try:
        return int(number), float(number)
    except OverflowError as error:
        raise _no_number(text) from error


def _float(text: str) -> Any:
    try:
        number = float(text)
    except ValueError as error:
        raise _no_number(text) from error
    if not math.isfinite(number):
        raise _no_number(text)
    return number


def _no_number(text: str) -> InputError:
    return InputError(f"expected a number such as 12 or 0.5, found {text[:80]!r}", input="text")


@node("RandomNumber", title="Random Number", category="utils/number", outputs=[Output("INT"), Output("FLOAT")])
def random_number(
    seed: Annotated[int, Range(0, 2**64 - 1), Seed()] = 0, minimum: Bound = 0.0, maximum: Bound = 100.0
) -> tuple[int, float]:
    """A number drawn by the seed: INT a whole one from minimum to maximum, FLOAT any from minimum up to, not including, maximum.

    The same seed and bounds give the same numbers on every machine. Between bounds with no whole number between them INT is the
    one nearest to FLOAT.
    """
    if minimum > maximum:
        raise InputError(f"expected a minimum of at most the maximum {maximum}, found {minimum}", input="minimum")
    part = draws.unit(seed, "mezzotint RandomNumber 1 FLOAT")
    real = min(max(minimum + part * (maximum - minimum), minimum), maximum)
    low, high = math.ceil(minimum), math.floor(maximum)
    whole = low + draws.below(high - low + 1, seed, "mezzotint RandomNumber 1 INT") if low <= high else round(real)
    return whole, real
