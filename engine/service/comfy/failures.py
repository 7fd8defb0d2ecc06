"""What went wrong in a node, as ComfyUI tells it: an exception's type, its message, the inputs it was raised over. Pure."""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

OWN_TYPE: Final = "mezzotint.NodeFailed"
"""The type of a failure that the engine itself puts into words."""

_NAMED: Final = re.compile(r"(?P<type>[A-Za-z_]\w*)(?:: (?P<text>.*))?", re.DOTALL)
_LIKE_A_TYPE: Final = re.compile(r"[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Warning|Expired|Timeout)")
_OUT_OF_MEMORY: Final = re.compile(
    r"needs more memory than there is|out of memory|\b(?:OutOfMemory|Memory)Error\b", re.IGNORECASE
)
_TIP: Final = "Tip: a smaller picture or batch needs less memory, and so do the tiled VAE nodes.\n"


def split_reason(reason: str) -> tuple[str | None, str]:
    """``("ValueError", "no")`` of ``"ValueError: no"``; without a type in front the text alone, with None."""
    found = _NAMED.fullmatch(reason)
    if found is None or not _is_exception(found["type"]):
        return None, reason
    return found["type"], found["text"] or ""


def exception_type(reason: str) -> str:
    """The type of the exception that a reason begins with or, where memory ran out, names in brackets."""
    if _OUT_OF_MEMORY.search(reason):
        return "torch.OutOfMemoryError" if "OutOfMemoryError" in reason else "MemoryError"
    return split_reason(reason)[0] or OWN_TYPE


def class_type_of(prompt: Mapping[str, Any], node: str, usual: str | None = None) -> str:
    """The type of a node of the prompt; ``usual`` for one that is not in it."""
    entry = prompt.get(node)
    found = entry.get("class_type") if isinstance(entry, Mapping) else None
    return found if isinstance(found, str) else usual or ""


def error_data(
    job: str,
    prompt: Mapping[str, Any],
    failure: Mapping[str, Any],
    *,
    real: str,
    executed: Sequence[str],
    known: Sequence[str],
    timestamp: int,
) -> dict[str, Any]:
    """The data of ``execution_error``. ``failure`` is one of ``Job.errors``; ``real`` is the node of the prompt it happened in, empty
    where that is no node; ``executed`` are the nodes that ran, ``known`` those whose results are at hand."""
    reason = str(failure.get("reason") or "no reason was given")
    return {
        "prompt_id": job,
        "node_id": real,
        "node_type": class_type_of(prompt, real, failure.get("class_type")),
        "executed": list(executed),
        "exception_message": _message(failure, real, reason),
        "exception_type": exception_type(reason),
        "traceback": [f"{_place(failure)}: {reason}\n"] if failure.get("node") else [f"{reason}\n"],
        "current_inputs": _inputs(prompt.get(real)),
        "current_outputs": list(known),
        "timestamp": timestamp,
    }


def _is_exception(name: str) -> bool:
    known = getattr(builtins, name, None)
    return _LIKE_A_TYPE.fullmatch(name) is not None or (isinstance(known, type) and issubclass(known, BaseException))


def _message(failure: Mapping[str, Any], real: str, reason: str) -> str:
    """The text, with the place where it is another than the node itself."""
    text = split_reason(reason)[1] or reason
    if failure.get("input"):
        text = f"input {failure['input']}: {text}"
    node = failure.get("node")
    if node and node != real:
        text = f"inner node {node} ({failure.get('class_type')}): {text}"
    return f"{text}\n{_TIP}" if _OUT_OF_MEMORY.search(reason) else f"{text}\n"


def _place(failure: Mapping[str, Any]) -> str:
    pack = f" of pack {failure['pack']}" if failure.get("pack") else ""
    at = f", input {failure['input']}" if failure.get("input") else ""
    return f"node {failure['node']} ({failure.get('class_type')}{pack}){at}"


def _inputs(entry: Any) -> dict[str, list[Any]]:
    inputs = entry.get("inputs") if isinstance(entry, Mapping) else None
    return {name: [_shown(value)] for name, value in inputs.items()} if isinstance(inputs, Mapping) else {}


def _shown(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
