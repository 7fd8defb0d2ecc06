"""Which way a run goes: choosing between branches, comparing, closing gates."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from engine.errors import InputError
from engine.run.context import NodeContext
from engine.run.results import Blocked, Demand
from engine.spec import Lazy, Optional, Output, Range, node

LazyValue = Annotated[Any, Lazy()]
MaybeLazy = Annotated[Any | None, Lazy()]
Operator = Literal["==", "!=", "<", "<=", ">", ">=", "contains"]


def _wanted(ctx: NodeContext, name: str, value: Any) -> Any:
    """The value of a lazy input, or the demand for it where it was not asked for yet."""
    return Demand(frozenset({name})) if name in ctx.missing else (value,)


@node("Switch", category="flow", outputs=[Output("*", "value")])
def switch(ctx: NodeContext, condition: bool, if_true: LazyValue, if_false: LazyValue) -> Any:
    """One of two values, by a condition. What leads to the other one alone does not run."""
    return _wanted(ctx, "if_true", if_true) if condition else _wanted(ctx, "if_false", if_false)


@node("SwitchIndex", title="Switch (Index)", category="flow", outputs=[Output("*", "value")])
def switch_index(
    ctx: NodeContext,
    index: Annotated[int, Range(0, 9)] = 0,
    value0: MaybeLazy = None,
    value1: MaybeLazy = None,
    value2: MaybeLazy = None,
    value3: MaybeLazy = None,
    value4: MaybeLazy = None,
    value5: MaybeLazy = None,
    value6: MaybeLazy = None,
    value7: MaybeLazy = None,
    value8: MaybeLazy = None,
    value9: MaybeLazy = None,
) -> Any:
    """The value with the number ``index``. What leads to the others alone does not run."""
    values = (value0, value1, value2, value3, value4, value5, value6, value7, value8, value9)
    name = f"value{index}"
    given = ctx.graph[ctx.node].inputs
    if name not in given:
        there = ", ".join(sorted(key.removeprefix("value") for key in given if key.startswith("value")))
        raise InputError(
            f"expected the number of a linked value ({there or 'none is linked'}), found {index}; link {name}",
            input="index",
        )
    return _wanted(ctx, name, values[index])


_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "contains": operator.contains,
}


def _kind(name: str, value: Any) -> str:
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    raise InputError(f"expected a number, a text or a truth value, found a {type(value).__name__}", input=name)


@node("Compare", title="Compare Values", category="flow", outputs=[Output("BOOLEAN")])
def compare(a: Any, b: Any, operator: Operator = "==") -> bool:
    """Whether ``a`` and ``b`` compare like that: numbers by size, texts by their letters.

    ``contains`` asks for the text ``b`` in the text ``a``. A number and a text are never equal, and neither is the greater.
    """
    kinds = _kind("a", a), _kind("b", b)
    if operator == "contains" and kinds != ("text", "text"):
        raise InputError(f"contains takes two texts, found a {kinds[0]} and a {kinds[1]}", input="operator")
    if operator not in ("==", "!=") and kinds[0] != kinds[1]:
        raise InputError(
            f"{operator} takes two numbers or two texts, found a {kinds[0]} and a {kinds[1]}; "
            "make a number of the text with TextToNumber, or a text of the number with NumberToText",
            input="operator",
        )
    return _OPERATORS[operator](a, b)


_LOGIC: Final[dict[str, Callable[[bool, bool], bool]]] = {
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "xor": lambda a, b: a is not b,
    "nand": lambda a, b: not (a and b),
    "nor": lambda a, b: not (a or b),
    "equal": lambda a, b: a is b,
    "not": lambda a, b: not a,
}


@node("Logic", category="flow", outputs=[Output("BOOLEAN")])
def logic(
    *,
    a: bool,
    b: Annotated[bool, Optional()] = False,
    operator: Literal["and", "or", "xor", "nand", "nor", "equal", "not"] = "and",
) -> bool:
    """Two truth values in one. ``not`` takes ``a`` alone."""
    return _LOGIC[operator](bool(a), bool(b))


@node("Gate", category="flow", outputs=[Output("*", "value")])
def gate(ctx: NodeContext, value: LazyValue, open: bool = True, message: Annotated[str, Optional()] = "") -> Any:
    """The value, if the gate is open. Otherwise nothing that depends on it runs, nor does what leads to it alone.

    A message is shown to the user where the run stops.
    """
    return _wanted(ctx, "value", value) if open else Blocked(message or None)
