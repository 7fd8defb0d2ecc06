"""Values typed in once and used in many places, and a look at any value."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

from engine.run.results import Outputs
from engine.spec import Multiline, Output, Range, Seed, node

_LIMIT: Final = 2**63 - 1


@node("PrimitiveString", title="String", category="utils/primitive", outputs=[Output("STRING")])
def primitive_string(value: str) -> str:
    """A text in one line."""
    return value


@node("PrimitiveStringMultiline", title="String (Multiline)", category="utils/primitive", outputs=[Output("STRING")])
def primitive_string_multiline(value: Annotated[str, Multiline()]) -> str:
    """A text of any number of lines."""
    return value


@node("PrimitiveInt", title="Int", category="utils/primitive", outputs=[Output("INT")])
def primitive_int(value: Annotated[int, Range(-_LIMIT, _LIMIT), Seed()]) -> int:
    """A whole number, which the editor may draw anew for each run."""
    return value


@node("PrimitiveFloat", title="Float", category="utils/primitive", outputs=[Output("FLOAT")])
def primitive_float(value: Annotated[float, Range(-_LIMIT, _LIMIT)]) -> float:
    """A number."""
    return value


@node("PrimitiveBoolean", title="Boolean", category="utils/primitive", outputs=[Output("BOOLEAN")])
def primitive_boolean(value: bool) -> bool:
    """True or false."""
    return value


@node("PreviewAny", title="Preview Any", category="utils", output_node=True)
def preview_any(source: Any) -> Outputs:
    """Show any value as text: lists and dictionaries as indented JSON, the rest as Python writes it."""
    return Outputs(ui={"text": [_shown(source)]})


def _shown(value: Any) -> str:
    if not isinstance(value, dict | list | tuple):
        return str(value)
    try:
        return json.dumps(value, indent=4, ensure_ascii=False)
    except (TypeError, ValueError):  # tensors and models have no JSON
        return str(value)
