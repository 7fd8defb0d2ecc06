"""Every exception the engine raises, in one tree.

    MezzotintError
    ├── WorkflowError            the file is no workflow, or the graph in it is wrong          (exit code 2)
    │   ├── UnreadableWorkflow   not JSON, not a picture that carries one, neither known format
    │   └── InvalidGraph         readable but wrong; carries every problem found
    ├── UsageError               an argument names something that is not there                 (exit code 2)
    ├── DefinitionError          a node's declaration contradicts its function (a bug in a node)
    ├── InputError               what a node was given cannot be used; may name the input      (exit code 1)
    │   ├── PathOutsideRoots     a name that leaves the folders it may name
    │   ├── MissingFile          a model or picture that is in none of the roots
    │   └── ModelFileError       broken, of an unknown family, or of a refused format
    ├── ResourceError            the machine ran out: memory, disk                             (exit code 1)
    ├── DownloadError            the hub does not give a model, or gives another than it says  (exit code 1)
    └── NodeFailed               a node of a run raised; names the node, keeps the cause       (exit code 1)

    Cancelled(BaseException)     the run was told to stop. It derives from BaseException so that a library's
                                 ``except Exception`` cannot swallow it.

A message is one line that says what was expected, what was found and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.graph.problems import Problem


class MezzotintError(Exception):
    """Base of everything a caller may want to catch."""


class WorkflowError(MezzotintError):
    """The workflow cannot be run as it is."""


class UnreadableWorkflow(WorkflowError):
    """The file is not a workflow in any known format."""


class InvalidGraph(WorkflowError):
    """The workflow was read and is wrong; ``problems`` lists all that was found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        first = self.problems[0].message if self.problems else "no problem given"
        super().__init__(first if count == 1 else f"{count} problems, the first: {first}")


class UsageError(MezzotintError):
    """An argument of the command line or of a call names something that does not exist."""


class DefinitionError(MezzotintError):
    """A node's declaration and its function do not agree."""


class InputError(MezzotintError):
    """A value a node was given cannot be used. ``input`` names it where it is known."""

    def __init__(self, message: str, *, input: str | None = None) -> None:
        self.input = input
        super().__init__(message)


class PathOutsideRoots(InputError):
    """A file name that would leave the folders it may name."""


class MissingFile(InputError):
    """A named file is in none of the folders that were searched."""


class ModelFileError(InputError):
    """A model file that is broken, of no known family, or of a format that is refused."""


class ResourceError(MezzotintError):
    """The machine has too little of something: memory, disk space."""


class DownloadError(MezzotintError):
    """A model could not be downloaded, or what arrived is not what the hub says it is."""


class NodeFailed(MezzotintError):
    """A node of a run raised. ``__cause__`` is what it raised."""

    def __init__(
        self,
        node: str,
        class_type: str,
        message: str,
        *,
        input: str | None = None,
        shown: str | None = None,
        pack: str | None = None,
    ) -> None:
        """``shown`` is the node of the workflow that became ``node``; ``pack`` the third-party pack that ``node`` comes from."""
        self.node = node
        self.class_type = class_type
        self.input = input
        self.reason = message
        self.shown = shown or node
        self.pack = pack
        type_ = f"{class_type} of pack {pack}" if pack else class_type
        inner = f"node {shown}, in its inner node {node}"
        where = f"{inner if self.shown != node else f'node {node}'} ({type_})"
        super().__init__(f"{where}{f', input {input}' if input else ''}: {message}")

    def located(self, shown: str, pack: str | None) -> NodeFailed:
        """This failure, with the place in the workflow and in the installation where it happened."""
        found = NodeFailed(self.node, self.class_type, self.reason, input=self.input, shown=shown, pack=pack)
        found.__cause__ = self.__cause__
        return found


class Cancelled(BaseException):
    """The run was cancelled. Never caught by nodes; the executor alone ends the run on it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device or the machine has no memory left, be it torch's own or any other's."""
    text = str(error)
    told = "out of memory" in text or "can't allocate memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and told)
