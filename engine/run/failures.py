"""Whatever a node raised, in one line a person can use."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from engine.errors import InputError, MezzotintError, NodeFailed, is_out_of_memory
from engine.fileref import FileRef

_LONGEST = 600
_log = logging.getLogger(__name__)


def one_line(error: BaseException) -> str:
    """The message of ``error`` on one line; errors that are not the engine's own are named by their type."""
    text = " ".join(str(error).split())
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    if isinstance(error, MezzotintError):
        return text
    if isinstance(error, SystemExit):
        return (
            f"called sys.exit({error.code}); a node ends by returning, or by raising an error that says what is wrong"
        )
    named = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if is_out_of_memory(error):
        return f"needs more memory than there is; make the picture or the batch smaller ({named})"
    return named


def input_of_file(error: BaseException, inputs: Mapping[str, object]) -> str | None:
    """The one of a node's ``inputs`` whose file the error names, the last where one file was chosen twice; None where none is, or several
    are."""
    text = str(error)
    files = {name: value.path for name, value in inputs.items() if isinstance(value, FileRef)}
    found = [name for name, path in files.items() if path.name in text]
    is_one = isinstance(error, InputError) and len({files[name] for name in found}) == 1
    return found[-1] if is_one else None


def node_failure(node: str, class_type: str, error: BaseException, *, input: str | None = None) -> NodeFailed:
    """``error`` as the failure of a node, its cause kept; the traceback goes to the log at level debug.

    Where it does not say which input it is about, that is ``input``.
    """
    if isinstance(error, NodeFailed):
        return error
    named = error.input if isinstance(error, InputError) and error.input else input
    failure = NodeFailed(node, class_type, one_line(error), input=named)
    failure.__cause__ = error
    _log.debug("node %s (%s) failed", node, class_type, exc_info=error)
    return failure
