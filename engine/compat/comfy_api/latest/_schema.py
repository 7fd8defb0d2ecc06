"""A node's schema: what stands in the place of ``INPUT_TYPES`` and its like."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.compat.comfy_api.latest._types import Input, Output


class Hidden(str, enum.Enum):  # noqa: UP042  (packs compare and format members as they do ComfyUI's)
    """Inputs that no editor shows."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"
    auth_token_comfy_org = "AUTH_TOKEN_COMFY_ORG"
    api_key_comfy_org = "API_KEY_COMFY_ORG"


@dataclass
class Schema:
    """Everything about a node that can be known without running it."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: Sequence[Input] = field(default_factory=list)
    outputs: Sequence[Output] = field(default_factory=list)
    hidden: Sequence[Hidden] = field(default_factory=list)
    description: str = ""
    search_aliases: Sequence[str] = field(default_factory=list)
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_dev_only: bool = False
    is_api_node: bool = False
    price_badge: Any = None
    not_idempotent: bool = False
    enable_expand: bool = False
    accept_all_inputs: bool = False
    essentials_category: str | None = None
    has_intermediate_output: bool = False

    def hidden_inputs(self) -> list[Hidden]:
        """Those it names, and those that an output node needs to put the workflow into its files."""
        own = [Hidden.prompt, Hidden.extra_pnginfo] if self.is_output_node else []
        return list(dict.fromkeys([*(self.hidden or ()), *own]))

    def input_types(self) -> dict[str, dict[str, Any]]:
        """The inputs in the shape of ``INPUT_TYPES``."""
        groups: dict[str, dict[str, Any]] = {"required": {}}
        for known in self.inputs or ():
            for name, (optional, slot) in known.slots().items():
                groups.setdefault("optional" if optional else "required", {})[name] = slot.described()
        shown = {known.id for known in self.inputs or ()}
        if hidden := {one.name: one.value for one in self.hidden_inputs() if one.name not in shown}:
            groups["hidden"] = hidden
        return groups

    def validate(self) -> None:
        """Raises ``ValueError`` where two inputs, or two outputs, have one name."""
        for kind, items in (("inputs", self.inputs), ("outputs", self.outputs)):
            ids = [item.id for item in items or () if item.id is not None]
            if len(set(ids)) != len(ids):
                raise ValueError(f"node {self.node_id} has two {kind} of one name among {', '.join(ids)}; rename one")
