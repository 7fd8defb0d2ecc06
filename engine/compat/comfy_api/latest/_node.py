"""The base of node classes with a schema. Such a class has the face of an older one: ``INPUT_TYPES``, ``FUNCTION`` and so on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from engine.compat.comfy_api.latest._schema import Schema
from engine.compat.comfy_api.latest._types import Autogrow
from engine.compat.comfy_execution.graph_utils import ExecutionBlocker


class HiddenHolder:
    """What ``cls.hidden`` is during a call: an attribute for each hidden input, None where it was not asked for."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        known = values or {}
        self.unique_id: str | None = known.get("unique_id")
        self.prompt: Any = known.get("prompt")
        self.extra_pnginfo: Any = known.get("extra_pnginfo")
        self.dynprompt: Any = known.get("dynprompt")
        self.auth_token_comfy_org: str | None = known.get("auth_token_comfy_org")
        self.api_key_comfy_org: str | None = known.get("api_key_comfy_org")

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class NodeOutput:
    """What a call gives: values, and what is beside them."""

    def __init__(
        self,
        *args: Any,
        ui: Any = None,
        expand: Mapping[str, Any] | None = None,
        block_execution: str | None = None,
        **_: Any,
    ) -> None:
        self.args = args
        self.ui = ui
        self.expand = expand
        self.block_execution = block_execution

    @property
    def result(self) -> tuple[Any, ...] | None:
        return self.args or None

    def __getitem__(self, index: int) -> Any:
        return self.args[index]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NodeOutput:
        """The same out of what an older node returns."""
        result = data.get("result", ())
        values = result if isinstance(result, list | tuple) else (result,)
        return cls(*values, ui=data.get("ui"), expand=data.get("expand"))


def older_results(returned: Any, outputs: int) -> Any:
    """What an older node would return in the place of what ``execute`` did."""
    if isinstance(returned, tuple | dict | ExecutionBlocker):
        return returned
    if not isinstance(returned, NodeOutput):
        return () if returned is None else (returned,)
    if returned.block_execution is not None:
        return tuple(ExecutionBlocker(returned.block_execution) for _ in range(max(outputs, 1)))
    if returned.ui is None and returned.expand is None:
        return returned.args
    found: dict[str, Any] = {"result": returned.args} if returned.args else {}
    if returned.ui is not None:
        found["ui"] = returned.ui if isinstance(returned.ui, dict) else returned.ui.as_dict()
    if returned.expand is not None:
        found["expand"] = dict(returned.expand)
    return found


class _FromSchema:
    """A class attribute that follows from the schema; a class may have one of its own instead."""

    def __init__(self, read: Callable[[Schema], Any]) -> None:
        self._read = read

    def __get__(self, instance: Any, owner: type[ComfyNode]) -> Any:
        return self._read(owner.known_schema())


class ComfyNode:
    """A node: ``define_schema`` and ``execute``, both class methods.

    It may have ``fingerprint_inputs``, ``validate_inputs`` and ``check_lazy_status`` too; only then has the class ``IS_CHANGED``,
    ``VALIDATE_INPUTS`` and ``check_lazy_status``.
    """

    hidden: ClassVar[HiddenHolder] = HiddenHolder()
    """During a call, its hidden inputs."""

    _schema: ClassVar[Schema]
    FUNCTION: ClassVar[str] = "run"
    RETURN_TYPES = _FromSchema(lambda schema: tuple(output.io_type for output in schema.outputs or ()))
    RETURN_NAMES = _FromSchema(lambda schema: tuple(output.label for output in schema.outputs or ()))
    OUTPUT_IS_LIST = _FromSchema(lambda schema: tuple(output.is_output_list for output in schema.outputs or ()))
    OUTPUT_TOOLTIPS = _FromSchema(lambda schema: tuple(output.tooltip for output in schema.outputs or ()))
    INPUT_IS_LIST = _FromSchema(lambda schema: schema.is_input_list)
    OUTPUT_NODE = _FromSchema(lambda schema: schema.is_output_node)
    CATEGORY = _FromSchema(lambda schema: schema.category)
    DESCRIPTION = _FromSchema(lambda schema: schema.description)
    DEPRECATED = _FromSchema(lambda schema: schema.is_deprecated)
    EXPERIMENTAL = _FromSchema(lambda schema: schema.is_experimental)
    API_NODE = _FromSchema(lambda schema: schema.is_api_node)
    NOT_IDEMPOTENT = _FromSchema(lambda schema: schema.not_idempotent)
    ACCEPT_ALL_INPUTS = _FromSchema(lambda schema: schema.accept_all_inputs)
    ENABLE_EXPAND = _FromSchema(lambda schema: schema.enable_expand)
    SEARCH_ALIASES = _FromSchema(lambda schema: list(schema.search_aliases or ()))

    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError(f"{cls.__name__} defines no schema")

    @classmethod
    def execute(cls, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{cls.__name__} has no execute")

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """The schema as it is now: choices may be others each time."""
        schema = cls.define_schema()
        schema.validate()
        return schema

    @classmethod
    def known_schema(cls) -> Schema:
        """The schema as it was first, for all but the choices of its inputs."""
        if "_schema" not in vars(cls):
            cls._schema = cls.GET_SCHEMA()
        return cls._schema

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        return cls.GET_SCHEMA().input_types()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if "execute" in own:
            cls.FUNCTION = "run_async" if inspect.iscoroutinefunction(cls.execute) else "run"
        if "validate_inputs" in own:
            cls.VALIDATE_INPUTS = own["validate_inputs"]  # type: ignore[attr-defined]  # the same, parameters and all
        if "fingerprint_inputs" in own:
            cls.IS_CHANGED = classmethod(_with_hidden(own["fingerprint_inputs"]))  # type: ignore[attr-defined]
        if "check_lazy_status" in own:
            cls.check_lazy_status = classmethod(_with_hidden(own["check_lazy_status"]))  # type: ignore[attr-defined]

    def run(self, **kwargs: Any) -> Any:
        """The call of a node whose ``execute`` is a plain function."""
        bound, inputs, outputs = _call_of(type(self), kwargs)
        return older_results(bound.execute(**inputs), outputs)

    async def run_async(self, **kwargs: Any) -> Any:
        """The call of a node whose ``execute`` is async."""
        bound, inputs, outputs = _call_of(type(self), kwargs)
        return older_results(await bound.execute(**inputs), outputs)


def _call_of(cls: type[ComfyNode], given: Mapping[str, Any]) -> tuple[type[ComfyNode], dict[str, Any], int]:
    """A class for this one call, whose ``hidden`` is the call's; the inputs it is to get; how many outputs there are."""
    schema = cls.known_schema()
    hidden = {one.name for one in schema.hidden_inputs()}
    declared = {known.id for known in schema.inputs or ()}
    values = {name: given[name] for name in hidden - declared if name in given}
    if schema.is_input_list:
        values = {name: value[0] if isinstance(value, list) and value else value for name, value in values.items()}
    inputs = {name: value for name, value in given.items() if name not in values}
    for known in schema.inputs or ():
        if isinstance(known, Autogrow.Input):
            gathered = known.gathered(inputs)
            inputs = {name: value for name, value in inputs.items() if name not in known.slots()} | {known.id: gathered}
    if not schema.accept_all_inputs:
        inputs = {name: value for name, value in inputs.items() if name in declared}
    bound = type(cls.__name__, (cls,), {"hidden": HiddenHolder(values), "__module__": cls.__module__})
    return bound, inputs, len(schema.outputs or ())


def _with_hidden(method: Any) -> Callable[..., Any]:
    """A function of a class that calls its ``method``, a class or static method as it was declared, as ``execute`` is called."""

    def call(cls: type[ComfyNode], **kwargs: Any) -> Any:
        bound, inputs, _ = _call_of(cls, kwargs)
        function = method.__get__(None, bound)
        parameters = inspect.signature(function).parameters
        takes_all = any(known.kind is inspect.Parameter.VAR_KEYWORD for known in parameters.values())
        return function(**{name: value for name, value in inputs.items() if takes_all or name in parameters})

    return call
