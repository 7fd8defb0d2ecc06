"""Settings of a recipe that are lists of options, in the order in which they were given. Settings are scalars, and so they are JSON."""

from __future__ import annotations

import json
from typing import Any

from engine.models import ModelRef


def with_option(model: ModelRef, setting: str, name: str, **values: Any) -> ModelRef:
    """``model`` with an option behind those that ``setting`` lists already."""
    return model.with_settings(**{setting: json.dumps([*options(model, setting), [name, values]], sort_keys=True)})


def options(model: ModelRef, setting: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and values of the options that ``setting`` of ``model`` lists."""
    listed = model.setting(setting)
    return [] if listed is None else [(name, values) for name, values in json.loads(str(listed))]
