"""What packs make of a workflow that is posted, before anything else is done with it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from engine.compat.host import asking
from engine.run.failures import one_line

_log = logging.getLogger(__name__)


def handled(handlers: Sequence[Callable[[dict[str, Any]], Any]], posted: str) -> str:
    """``posted`` after each of ``handlers``, as JSON. One that raises or returns no JSON object leaves it as it was, and is logged."""
    for handler in handlers:
        name = f"{getattr(handler, '__module__', '?')}.{getattr(handler, '__qualname__', type(handler).__name__)}"
        try:
            with asking(f"the prompt handler {name}"):
                returned = handler(json.loads(posted))  # its own copy: it may change it and fail then
            if not isinstance(returned, dict):
                raise TypeError(f"expected a JSON object, found {type(returned).__name__}")
            posted = json.dumps(returned)
        except (Exception, SystemExit) as error:
            _log.warning("the prompt handler %s failed, the workflow stays as it was: %s", name, one_line(error))
    return posted
