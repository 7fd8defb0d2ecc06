"""``comfy_execution.utils``: which call is under way."""

from __future__ import annotations

from typing import NamedTuple

from engine.compat.host import current
from engine.compat.missing import module_getattr


class ExecutionContext(NamedTuple):
    """Which run, which node, which of its calls."""

    prompt_id: str
    node_id: str
    list_index: int | None


def get_executing_context() -> ExecutionContext | None:
    """The call under way in this thread or task, if any."""
    context = current.get()
    return None if context is None else ExecutionContext(context.job, context.node, context.index)


__getattr__ = module_getattr(__name__)
