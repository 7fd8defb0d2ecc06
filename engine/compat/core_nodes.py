"""What packs find in ``nodes``: core node types in the shape of ComfyUI's node classes, and a few functions.

A class is made of a ``NodeSpec`` when it is asked for. Its method goes by the name it has there and takes its arguments in the order it
takes them there; it runs under the context of the pack's own call.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Iterator, MutableMapping
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, Final

from engine.compat import interrupts
from engine.compat.comfy_execution.graph_utils import ExecutionBlocker
from engine.compat.core_names import METHODS, ORDERS
from engine.compat.host import current, host
from engine.compat.missing import NotProvidedError, message, refuse
from engine.compat.model_values import unwrapped, wrapped
from engine.compat.save_image import PreviewImage, SaveImage
from engine.errors import MissingFile
from engine.fileref import FileRef
from engine.graph.object_info import object_info
from engine.run.outputs import OutputFolder
from engine.run.results import Blocked, Demand, Expand, Outputs
from engine.spec import FileChoice, NodeSpec

MAX_RESOLUTION: Final = 16384


class CoreNode:
    """Base of the classes made of node types."""

    SPEC: ClassVar[NodeSpec]
    ORDER: ClassVar[tuple[str, ...]]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        groups = object_info(cls.SPEC, host().files)["input"]
        return {group: _tuples(inputs) if group != "hidden" else inputs for group, inputs in groups.items()}

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the node; V1 results."""
        spec = self.SPEC
        given = dict(zip(self.ORDER, args, strict=False)) | kwargs
        known = {name: _argument(spec, name, value) for name, value in given.items() if name not in spec.hidden}
        returned = spec.fn(*_context(spec), **known)
        return _later(spec, returned) if inspect.isawaitable(returned) else _results(spec, returned)


def _tuples(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(described) for name, described in inputs.items()}


def _context(spec: NodeSpec) -> tuple[Any, ...]:
    if not spec.takes_context:
        return ()
    context = current.get()
    if context is None:
        raise NotProvidedError(f"{spec.type} was called outside of a node's call; call it from a node's own function")
    return (context,)


def _argument(spec: NodeSpec, name: str, value: Any) -> Any:
    """A file that is given by its name is looked up, in the folders of packs too."""
    value = unwrapped(value)
    known = spec.input(name)
    if known is None or known.files is None or not isinstance(value, str):
        return value
    return _file(known.files, value)


def _file(choice: FileChoice, name: str) -> FileRef:
    from engine.compat import folder_paths

    files = host().files
    try:
        return files.ref(choice, name)
    except MissingFile:
        path = folder_paths.get_full_path(choice.folder, name)
        if path is None:
            raise
        return FileRef(files.digests.digest(Path(path)), Path(path), name)


async def _later(spec: NodeSpec, returned: Awaitable[Any]) -> Any:
    return _results(spec, await returned)


def _results(spec: NodeSpec, returned: Any) -> Any:
    if isinstance(returned, Expand | Demand):
        raise NotProvidedError(
            f"{spec.type} becomes other nodes when it runs; put it into a graph instead of calling it"
        )
    if isinstance(returned, Blocked):
        return tuple(ExecutionBlocker(returned.reason) for _ in spec.outputs)
    if not isinstance(returned, Outputs):
        return tuple(map(wrapped, returned if isinstance(returned, tuple) else (returned,)))
    ui = {name: list(items) for name, items in returned.ui.items()}
    roots, context = host().files.roots, current.get()
    folder = OutputFolder(roots.output, roots.temp)
    for file in returned.files:
        ui.setdefault(file.ui, []).append(folder.place(file, context.metadata if context else {}))
    return {"ui": ui, "result": returned.values} if ui else returned.values


def _make_class(spec: NodeSpec) -> type:
    method = METHODS.get(spec.type, "execute")
    attributes: dict[str, Any] = {
        "__doc__": spec.description,
        "__module__": "nodes",
        "SPEC": spec,
        "ORDER": ORDERS.get(spec.type) or tuple(known.name for known in spec.inputs),
        "FUNCTION": method,
        "CATEGORY": spec.category,
        "DESCRIPTION": spec.description,
        "RETURN_TYPES": tuple(output.type for output in spec.outputs),
        "RETURN_NAMES": tuple(output.label for output in spec.outputs),
        "OUTPUT_IS_LIST": tuple(output.is_list for output in spec.outputs),
        "OUTPUT_NODE": spec.output_node,
        "INPUT_IS_LIST": spec.takes_lists,
        "DEPRECATED": spec.deprecated,
        "EXPERIMENTAL": spec.experimental,
        method: CoreNode.run,
    }
    return type(spec.type, (CoreNode,), attributes)


@cache
def _missing_class(name: str) -> type:
    """Stands for a core node that is not here, so that a pack with one use of it loads; to call it is an error."""

    def run(self: Any, *_: Any, **__: Any) -> Any:
        raise NotProvidedError(message(f"the node {name}"))

    attributes: dict[str, Any] = {
        "__module__": "nodes",
        "INPUT_TYPES": classmethod(lambda cls: {"required": {}}),
        "RETURN_TYPES": (),
        "CATEGORY": "",
        "FUNCTION": METHODS[name],
        METHODS[name]: run,
    }
    return type(name, (), attributes)


_OWN: Final[dict[str, type]] = {"SaveImage": SaveImage, "PreviewImage": PreviewImage}
"""Classes that packs derive from, in the place of those that would be made."""


class NodeClasses(MutableMapping[str, Any]):
    """Node classes by id: those of packs as they are, core ones made on demand; what is put in stays."""

    def __getitem__(self, name: str) -> Any:
        here = host()
        if name not in here.classes:
            here.classes[name] = _OWN[name] if name in _OWN else _make_class(here.registry[name])
        return here.classes[name]

    def __setitem__(self, name: str, value: Any) -> None:
        host().classes[name] = value

    def __delitem__(self, name: str) -> None:
        del host().classes[name]

    def __contains__(self, name: object) -> bool:
        return name in host().classes or name in host().registry

    def __iter__(self) -> Iterator[str]:
        here = host()
        yield from dict.fromkeys([*here.registry, *here.classes])

    def __len__(self) -> int:
        return len(set(host().registry) | set(host().classes))

    def copy(self) -> dict[str, Any]:
        return dict(self)


class DisplayNames(MutableMapping[str, str]):
    """Names of nodes as people read them, by id."""

    def __getitem__(self, name: str) -> str:
        return host().display_names[name] if name in host().display_names else host().registry[name].title

    def __setitem__(self, name: str, value: str) -> None:
        host().display_names[name] = value

    def __delitem__(self, name: str) -> None:
        del host().display_names[name]

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys([*host().registry, *host().display_names])

    def __len__(self) -> int:
        return len(set(host().registry) | set(host().display_names))

    def copy(self) -> dict[str, str]:
        return dict(self)


NODE_CLASS_MAPPINGS: Final = NodeClasses()
NODE_DISPLAY_NAME_MAPPINGS: Final = DisplayNames()
LOADED_MODULE_DIRS: Final[dict[str, str]] = {}


def common_ksampler(
    model: Any,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Any,
    negative: Any,
    latent: Any,
    denoise: float = 1.0,
    disable_noise: bool = False,
    start_step: int | None = None,
    last_step: int | None = None,
    force_full_denoise: bool = False,
) -> Any:
    """Sample as KSampler does, or, where steps or noise are said, as KSampler (Advanced). ``(latent,)``."""
    settings = {"steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}
    inputs = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    advanced = disable_noise or start_step is not None or last_step is not None
    if not advanced:
        return _call("KSampler", seed=seed, denoise=denoise, **settings, **inputs)
    if denoise < 1.0:
        raise NotProvidedError(
            "a denoise below 1 cannot be joined with steps of its own or with no noise; say it by start_step"
        )
    return _call(
        "KSamplerAdvanced",
        noise_seed=seed,
        add_noise="disable" if disable_noise else "enable",
        start_at_step=start_step or 0,
        end_at_step=10_000 if last_step is None else last_step,
        return_with_leftover_noise="disable" if force_full_denoise else "enable",
        **settings,
        **inputs,
    )


def _call(type_: str, **inputs: Any) -> Any:
    return _make_class(host().registry[type_])().run(**inputs)


def interrupt_processing(value: bool = True) -> None:
    """Tell the run to stop whose node is under way."""
    interrupts.interrupt(value)


def before_node_execution() -> None:
    """Stop here if the run was told to."""
    interrupts.check()


def lookup(name: str, caller: FrameType | None) -> Any:
    """The attribute ``name`` of ``nodes``, for packs."""
    if name == "EXTENSION_WEB_DIRS":
        return host().web_directories
    if name in _PUBLIC:
        return globals()[name]
    if name in METHODS:
        return NODE_CLASS_MAPPINGS[name] if name in NODE_CLASS_MAPPINGS else _missing_class(name)
    return refuse("nodes", name, caller)


_PUBLIC: Final = frozenset(
    {
        "LOADED_MODULE_DIRS",
        "MAX_RESOLUTION",
        "NODE_CLASS_MAPPINGS",
        "NODE_DISPLAY_NAME_MAPPINGS",
        "before_node_execution",
        "common_ksampler",
        "interrupt_processing",
    }
)
