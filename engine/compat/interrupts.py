"""Stopping a run from inside of a node, and noticing that one was told to stop.

``InterruptProcessingException`` is a ``Cancelled``: raised by a pack it ends the run as cancelled, exactly as if the user had stopped it,
and a pack's ``except Exception`` does not swallow it. Packs that catch it by name to tidy up catch what the progress bar raises too.
"""

from __future__ import annotations

from engine.compat.host import current, host
from engine.errors import Cancelled
from engine.run.context import NodeContext


class InterruptProcessingException(Cancelled):
    """The run was told to stop, by its user or by this pack."""


def is_interrupted(context: NodeContext | None = None) -> bool:
    """Whether the run whose node is under way, or that of ``context``, was told to stop."""
    context = context or current.get()
    return context is not None and (context.is_cancelled() or context.job in host().interrupted)


def check(context: NodeContext | None = None) -> None:
    """Raise ``InterruptProcessingException`` if the run was told to stop. Does nothing outside of a call."""
    context = context or current.get()
    if context is not None and is_interrupted(context):
        host().interrupted.discard(context.job)  # that ends the run; the job may be run again
        raise InterruptProcessingException


def interrupt(value: bool = True) -> None:
    """Tell the run to stop whose node is under way; outside of a call, whatever runs.

    It takes effect at the next check: the one at the end of the call is the latest. False takes it back as far as this call's own
    checks go: a run that was told to stop is not started again.
    """
    context = current.get()
    if not value:
        if context is not None:
            host().interrupted.discard(context.job)
        return
    if context is not None:
        host().interrupted.add(context.job)
    host().cancel(context.job if context else None)
