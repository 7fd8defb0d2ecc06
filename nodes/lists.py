"""Lists: several values on one link. A node that takes single values is called for each of them.

What is here gets its inputs as whole lists; a single value is a list of one.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from engine.errors import InputError
from engine.spec import Multiline, Output, Range, Socket, node

MOST: Final = 1_000_000
"""Elements a list is made with; more only comes of a mistake."""

_INT_LIMIT: Final = 2**53

Values = Any | None
Whole = Annotated[int, Range(-_INT_LIMIT, _INT_LIMIT)]
OneInt = Annotated[Any, Socket("INT"), Range(-_INT_LIMIT, _INT_LIMIT)]
"""An INT of a node that takes lists: a list of one."""


def only(values: list[Any], name: str) -> Any:
    """The one element of an input that takes a single value, in a node that takes lists."""
    if len(values) != 1:
        raise InputError(f"expected one value, found a list of {len(values)}; take one out with ListItem", input=name)
    return values[0]


@node("ListRange", title="List: Range", category="flow/list", outputs=[Output("INT", is_list=True)])
def list_range(start: Whole = 0, stop: Whole = 10, step: Whole = 1) -> list[int]:
    """The numbers from ``start`` up to, not including, ``stop``, ``step`` apart. A negative step counts down."""
    if step == 0:
        raise InputError("expected a step that is not 0; it would never come to an end", input="step")
    numbers = range(start, stop, step)
    if len(numbers) > MOST:
        raise InputError(f"expected at most {MOST} numbers, found {len(numbers)}; take a larger step", input="step")
    return list(numbers)


@node("ListLines", title="List: Lines", category="flow/list", outputs=[Output("STRING", is_list=True)])
def list_lines(text: Annotated[str, Multiline()], skip_empty: bool = True) -> list[str]:
    """The lines of a text. With ``skip_empty`` those that hold nothing but blanks are left out."""
    return [line for line in text.splitlines() if line.strip() or not skip_empty]


@node("MakeList", title="List: Make", category="flow/list", outputs=[Output("*", "list", is_list=True)])
def make_list(
    value0: Values = None,
    value1: Values = None,
    value2: Values = None,
    value3: Values = None,
    value4: Values = None,
    value5: Values = None,
    value6: Values = None,
    value7: Values = None,
    value8: Values = None,
    value9: Values = None,
) -> list[Any]:
    """A list of the values given, in the order of their numbers.

    Of lists it makes rows: their first elements, then their second ones. ListJoin puts one list behind the other instead.
    """
    values = (value0, value1, value2, value3, value4, value5, value6, value7, value8, value9)
    return [value for value in values if value is not None]


@node(
    "ListJoin", title="List: Join", category="flow/list", outputs=[Output("*", "list", is_list=True)], takes_lists=True
)
def list_join(
    list0: Values = None,
    list1: Values = None,
    list2: Values = None,
    list3: Values = None,
    list4: Values = None,
    list5: Values = None,
    list6: Values = None,
    list7: Values = None,
    list8: Values = None,
    list9: Values = None,
) -> list[Any]:
    """All elements of the first list, then all of the second, and so on. A single value counts as a list of one."""
    lists = (list0, list1, list2, list3, list4, list5, list6, list7, list8, list9)
    return [value for values in lists for value in values or ()]


@node("ListItem", title="List: Item", category="flow/list", outputs=[Output("*", "item")], takes_lists=True)
def list_item(list: Any, index: OneInt = 0) -> Any:
    """One element of the list; 0 is the first, -1 the last."""
    position = only(index, "index")
    if not -len(list) <= position < len(list):
        ends = f"from 0 to {len(list) - 1}, or from -{len(list)} to -1" if list else "of a list that has elements"
        raise InputError(f"expected a position {ends}, found {position}", input="index")
    return (list[position],)


@node(
    "ListSlice",
    title="List: Slice",
    category="flow/list",
    outputs=[Output("*", "list", is_list=True)],
    takes_lists=True,
)
def list_slice(
    list: Any,
    start: OneInt = 0,
    count: Annotated[Any, Socket("INT"), Range(0, MOST)] = 0,
    step: Annotated[Any, Socket("INT"), Range(-MOST, MOST)] = 1,
) -> list[Any]:
    """``count`` elements from the position ``start`` on, or all that follow if that is 0.

    A negative start counts from the end. With a step of 2 it takes every second element, with -1 it goes backwards.
    """
    pace = only(step, "step")
    if pace == 0:
        raise InputError("expected a step that is not 0", input="step")
    first, most = only(start, "start"), only(count, "count") or None
    return [*list[first::pace][:most]]


@node("ListLength", title="List: Length", category="flow/list", outputs=[Output("INT", "length")], takes_lists=True)
def list_length(list: Any) -> int:
    """How many elements the list has."""
    return len(list)
