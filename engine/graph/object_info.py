"""A node type as editors are told of it: the schema of ``/object_info``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from engine.fileref import Files
from engine.graph.coerce import NotCoercibleError, coerce
from engine.spec import MISSING, InputSpec, NodeSpec
from engine.types import COMBO, FLOAT, INT

_NUMBERS: Final = frozenset({INT, FLOAT})


def object_info(spec: NodeSpec, files: Files | None = None) -> dict[str, Any]:
    """The definition of one node type as plain JSON data.

    Choices have the older shape ``[[options], {...}]``, which every editor takes. Without ``files`` a choice among
    files has no options.
    """
    if spec.describe is not None:
        return spec.describe()
    required = [known for known in spec.inputs if known.required]
    optional = [known for known in spec.inputs if not known.required]
    return {
        "input": _groups(_inputs(required, files), _inputs(optional, files), dict(spec.hidden)),
        "input_order": _groups(
            [known.name for known in required], [known.name for known in optional], list(spec.hidden)
        ),
        "output": [output.type for output in spec.outputs],
        "output_is_list": [output.is_list for output in spec.outputs],
        "output_name": [output.label for output in spec.outputs],
        "output_tooltips": [output.tooltip for output in spec.outputs],
        "name": spec.type,
        "display_name": spec.title,
        "description": spec.description,
        "category": spec.category,
        "python_module": spec.module,
        "output_node": spec.output_node,
        "deprecated": spec.deprecated,
        "experimental": spec.experimental,
    }


def _groups(required: Any, optional: Any, hidden: Any) -> dict[str, Any]:
    groups = {"required": required}
    if optional:
        groups["optional"] = optional
    if hidden:
        groups["hidden"] = hidden
    return groups


def _inputs(inputs: Iterable[InputSpec], files: Files | None) -> dict[str, list[Any]]:
    return {known.name: _input(known, files) for known in inputs}


def _input(spec: InputSpec, files: Files | None) -> list[Any]:
    """``[type]`` or ``[type, options]``; the type of a choice is the list of what can be chosen."""
    kind: Any = spec.type
    if spec.files is not None and spec.files.route is not None:
        kind = COMBO
    elif spec.files is not None:
        kind = list(files.choices(spec.files)) if files is not None else []
    elif (choices := spec.options) is not None:
        kind = list(choices)
    options = _options(spec)
    return [kind, options] if options else [kind]


def _options(spec: InputSpec) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if spec.default is not MISSING and spec.is_widget:
        options["default"] = _number(spec, spec.default)
    if spec.range is not None:
        options["min"] = _number(spec, spec.range.min)
        options["max"] = _number(spec, spec.range.max)
        for name, value in (("step", spec.range.step), ("round", spec.range.round)):
            if value is not None:
                options[name] = _number(spec, value)
    flags = {
        "control_after_generate": spec.seed,
        "multiline": spec.multiline,
        "dynamicPrompts": spec.dynamic_prompts,
        "image_upload": spec.files is not None and spec.files.upload,
        "forceInput": spec.socket_only,
        "lazy": spec.lazy,
    }
    options |= {name: True for name, flag in flags.items() if flag}
    if spec.files is not None and spec.files.route is not None:
        options["image_folder"] = spec.files.folder
        options["remote"] = {"route": spec.files.route, "refresh_button": True, "control_after_refresh": "first"}
    texts = {"display": spec.display, "tooltip": spec.tooltip}
    return options | {name: text for name, text in texts.items() if text is not None}


def _number(spec: InputSpec, value: Any) -> Any:
    """Numbers of an INT without and of a FLOAT with a fraction; an INT keeps all its digits."""
    if spec.type not in _NUMBERS:
        return value
    try:
        return coerce(spec, value)
    except NotCoercibleError:
        return value
