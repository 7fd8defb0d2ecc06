"""What can be wrong with a workflow. The list of types is closed; clients may switch on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ProblemType = Literal[
    # ComfyUI's own
    "required_input_missing",
    "bad_linked_input",
    "return_type_mismatch",
    "invalid_input_type",
    "value_smaller_than_min",
    "value_bigger_than_max",
    "value_not_in_list",
    "custom_validation_failed",
    "exception_during_inner_validation",
    "exception_during_validation",
    # and what it does not tell apart
    "missing_node_type",
    "missing_file",
    "cycle",
    "prompt_no_outputs",
    "unknown_input",
    "bad_link",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``node`` is None only where the whole workflow is meant."""

    type: ProblemType
    message: str
    """One line: what was expected, what was found, what to do."""
    node: str | None = None
    class_type: str | None = None
    title: str | None = None
    input: str | None = None
    expected: str | None = None
    found: str | None = None
    nearest: str | None = None
    """The valid name most like the one found."""

    def to_json(self) -> dict[str, str | None]:
        return {
            "type": self.type,
            "node": self.node,
            "class_type": self.class_type,
            "title": self.title,
            "input": self.input,
            "message": self.message,
        }
