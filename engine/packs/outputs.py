"""What RETURN_TYPES and the attributes beside it say, as ``Output``s."""

from __future__ import annotations

from typing import Any, Final

from engine.packs.inputs import socket_type
from engine.spec import Output
from engine.types import ANY

_FURTHER: Final = 64
"""How many outputs more a node has whose RETURN_TYPES has a type for any number."""


def declared_outputs(cls: Any) -> tuple[Output, ...]:
    """Those that are declared one by one; a name may be missing, and a choice of values is a COMBO."""
    names, lists, tooltips = (_tuple(cls, name) for name in ("RETURN_NAMES", "OUTPUT_IS_LIST", "OUTPUT_TOOLTIPS"))
    return tuple(
        Output(socket_type(type_), _at(names, index), bool(_at(lists, index)), _at(tooltips, index))
        for index, type_ in enumerate(return_types(cls))
    )


def read_outputs(cls: Any) -> tuple[Output, ...]:
    """All there are: where RETURN_TYPES has a type for outputs beyond its end, some of these too."""
    return declared_outputs(cls) + (Output(ANY),) * (_FURTHER if _has_any_output(cls) else 0)


def return_types(cls: Any) -> tuple[Any, ...]:
    """RETURN_TYPES as it stands."""
    return _tuple(cls, "RETURN_TYPES")


def _has_any_output(cls: Any) -> bool:
    types = getattr(cls, "RETURN_TYPES", None) or ()
    try:
        return bool(types[len(types) + _FURTHER])
    except (IndexError, KeyError, TypeError):
        return False


def _tuple(cls: Any, name: str) -> tuple[Any, ...]:
    return tuple(getattr(cls, name, None) or ())


def _at(values: tuple[Any, ...], index: int) -> Any:
    return values[index] if index < len(values) else None
