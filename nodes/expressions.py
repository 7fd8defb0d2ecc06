"""Arithmetic as a person types it, worked out without running any of it as Python.

The text is read into Python's syntax tree, and only what is known here is worked out: numbers, names that were given, operators,
comparisons, ``and``, ``or``, ``not``, ``x if y else z``, and the functions of ``FUNCTIONS``.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from engine.errors import InputError

Number = int | float

LONGEST: Final = 2000
"""Characters of an expression."""
DEEPEST: Final = 150
"""Operations within one another; a sum of a hundred terms is that deep."""
_MOST_DIGITS: Final = 300
_MOST_BITS: Final = 1000
"""Of a whole number on the way; a FLOAT ends at 1024."""

_FROM_MATH: Final = (
    *("floor", "ceil", "trunc", "sqrt", "cbrt", "hypot", "fmod", "gcd", "lcm", "degrees", "radians"),
    *("exp", "log", "log2", "log10", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh"),
)

CONSTANTS: Final[Mapping[str, Number]] = {"pi": math.pi, "e": math.e, "tau": math.tau}

FUNCTIONS: Final[Mapping[str, Callable[..., Number]]] = {
    "abs": abs,
    "min": min,
    "max": max,
    "round": lambda value, digits=0: _rounded(value, digits),
    "int": int,
    "float": float,
    "bool": bool,
    "clamp": lambda value, low, high: max(low, min(high, value)),
    "lerp": lambda a, b, t: a + (b - a) * t,
    "sign": lambda value: (value > 0) - (value < 0),
    **{name: getattr(math, name) for name in _FROM_MATH},
}

_BINARY: Final[dict[type[ast.operator], Callable[[Any, Any], Number]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: Final[dict[type[ast.unaryop], Callable[[Any], Number]]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_COMPARISONS: Final[dict[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _rounded(value: Number, digits: Number) -> Number:
    if abs(digits) > _MOST_DIGITS or not isinstance(digits, int):
        raise ExpressionError(f"expected at most {_MOST_DIGITS} digits to round to, as a whole number, found {digits}")
    return round(value, digits) if digits else round(value)


class ExpressionError(InputError):
    """What is wrong with an expression."""

    def __init__(self, message: str) -> None:
        super().__init__(message, input="expression")


def parse(text: str) -> ast.expr:
    """The syntax tree of an expression. Raises ``ExpressionError``."""
    if len(text) > LONGEST:
        raise ExpressionError(f"expected at most {LONGEST} characters, found {len(text)}; split it over several nodes")
    try:
        # in brackets lines may be broken anywhere; but then nothing at all is a tuple
        tree = ast.parse(f"({text}\n)" if text.strip() else text, mode="eval").body
    except SyntaxError as error:
        raise ExpressionError(
            f"expected an expression such as a * 2 + 1, found {text.strip()[:80]!r} ({error.msg})"
        ) from error
    except (RecursionError, MemoryError, ValueError) as error:
        raise ExpressionError(f"expected an expression that can be read, found one that cannot ({error})") from error
    _check(tree, 0)
    return tree


def evaluate(text: str, variables: Mapping[str, Number]) -> Number:
    """The value of an expression. Raises ``ExpressionError`` for one that is none, or that has no value."""
    try:
        value = _value(parse(text), {**CONSTANTS, **variables})
        if isinstance(value, float) and not math.isfinite(value):
            raise ExpressionError(f"expected a finite number, found {value}")
    except ZeroDivisionError as error:
        raise ExpressionError("expected a number to divide by, found 0") from error
    except (ValueError, OverflowError, TypeError) as error:
        raise ExpressionError(f"the expression has no value: {error}") from error
    return value


def _check(node: ast.AST, depth: int) -> None:
    """Let through what ``_value`` knows, so that a wrong expression is told of before any of it is worked out."""
    if depth > DEEPEST:
        raise ExpressionError(
            f"expected at most {DEEPEST} operations within one another, found more; split it over several nodes"
        )
    match node:
        case ast.Constant(value=value) if type(value) in (int, float, bool):
            return
        case ast.Name() | ast.IfExp() | ast.BoolOp():
            pass
        case ast.BinOp(op=op) if type(op) in _BINARY:
            pass
        case ast.UnaryOp(op=op) if type(op) in _UNARY:
            pass
        case ast.Compare(ops=ops) if all(type(op) in _COMPARISONS for op in ops):
            pass
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            for argument in args:
                _check(argument, depth + 1)
            return
        case ast.Call(func=ast.Name(id=name)) if name not in FUNCTIONS:
            raise ExpressionError(f"there is no function {name}; there are {', '.join(sorted(FUNCTIONS))}")
        case _:
            raise ExpressionError(f"expected numbers, operators and functions, found {ast.unparse(node)[:80]!r}")
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            _check(child, depth + 1)


def _value(node: ast.expr, names: Mapping[str, Number]) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value):
            return _small(value)
        case ast.Name(id=name):
            return _named(name, names)
        case ast.BinOp(left=left, op=op, right=right):
            return _combined(op, _value(left, names), _value(right, names))
        case ast.UnaryOp(op=op, operand=operand):
            return _UNARY[type(op)](_value(operand, names))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _value(body if _value(test, names) else orelse, names)
        case ast.BoolOp(op=op, values=values):
            return _joined(op, values, names)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            return _compared([left, *comparators], ops, names)
        case ast.Call(func=ast.Name(id=function), args=args):
            return _called(function, [_value(argument, names) for argument in args])
    raise ExpressionError(f"expected numbers, operators and functions, found {ast.unparse(node)[:80]!r}")


def _named(name: str, names: Mapping[str, Number]) -> Number:
    if name not in names:
        raise ExpressionError(
            f"nothing is called {name}; there are {', '.join(sorted(names))}: link an input of that name"
        )
    return names[name]


def _combined(op: ast.operator, left: Number, right: Number) -> Number:
    if isinstance(op, ast.Pow) and isinstance(left, int) and isinstance(right, int) and right > 0:
        bits = (left.bit_length() - 1) * right
        if bits > _MOST_BITS:
            raise ExpressionError(f"expected numbers of at most {_MOST_BITS} bits, found a power of about {bits}")
    value = _BINARY[type(op)](left, right)
    if isinstance(value, complex):
        raise ExpressionError(f"{left} ** {right} is no real number")
    return _small(value)


def _joined(op: ast.boolop, values: list[ast.expr], names: Mapping[str, Number]) -> bool:
    """True or false; what no longer matters is not worked out."""
    results = (bool(_value(value, names)) for value in values)
    return all(results) if isinstance(op, ast.And) else any(results)


def _compared(operands: list[ast.expr], ops: list[ast.cmpop], names: Mapping[str, Number]) -> bool:
    """``a < b < c`` means what it does on paper."""
    values = [_value(operand, names) for operand in operands]
    return all(_COMPARISONS[type(op)](left, right) for left, op, right in zip(values, ops, values[1:], strict=False))


def _called(function: str, arguments: list[Number]) -> Number:
    try:
        return _small(FUNCTIONS[function](*arguments))
    except TypeError as error:
        raise ExpressionError(f"{function} cannot take {len(arguments)} such numbers: {error}") from error


def _small(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ExpressionError(f"expected numbers of at most {_MOST_BITS} bits, found one of {value.bit_length()}")
    return value
