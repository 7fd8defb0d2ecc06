"""What goes between the process that serves and a worker: msgpack, one message a frame.

To the worker: ``run``, ``cancel``, ``ask``, ``free``, ``close``. From it: ``loading``, ``ready``, ``beat``, ``events``, ``at_work``,
``rested``, ``asking``, ``result``, ``answer``, ``broadcast``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, get_args

import msgpack

from engine.errors import NodeFailed
from engine.graph.api_format import read_api, write_api
from engine.graph.graph import Graph, NodeId
from engine.jobs.records import Payload
from engine.places import Places
from engine.run import events
from engine.run.request import Limits, Run, RunResult
from engine.run.settings import DeviceSettings

OnBroadcast = Callable[[str | int, Any, str | None], None]
"""Takes what a pack sends while none of its nodes runs: name, data, and the one client it is for, or None for everybody.

With a number for a name it is bytes.
"""

_EVENTS: Final = {kind.__name__: kind for kind in get_args(events.Event)}


@dataclass(frozen=True, slots=True)
class WorkerSettings(Places):
    """What a worker is started with."""

    skip: Mapping[str, str] = field(default_factory=dict)
    """Packs that are not to be imported, and why."""
    device: DeviceSettings = field(default_factory=DeviceSettings)
    shared: Path | None = None
    """The state folder of a service, where the worker says that it is at work. None: of a process that shares nothing."""

    @classmethod
    def of(cls, places: Places, device: DeviceSettings | None = None, shared: Path | None = None) -> WorkerSettings:
        """The folders of this process, for another."""
        here = {entry.name: getattr(places, entry.name) for entry in fields(Places)}
        return cls(**here, device=device or DeviceSettings(), shared=shared)

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> WorkerSettings:
        plain = json.loads(text)
        extra = plain["extra_model_paths"]
        return cls(
            models=tuple(map(Path, plain["models"])),
            **{name: Path(plain[name]) for name in ("input", "output", "temp", "state")},
            extra_model_paths=None if extra is None else Path(extra),
            custom_nodes=tuple(map(Path, plain["custom_nodes"])),
            installed_packs=plain["installed_packs"],
            skip=plain["skip"],
            device=DeviceSettings(**plain["device"]),
            shared=None if plain["shared"] is None else Path(plain["shared"]),
        )


def send(connection: Connection, message: Mapping[str, Any]) -> None:
    """Write one message. Raises ``OSError`` when nobody is there to read it."""
    try:
        packed = msgpack.packb(message, default=_odd, unicode_errors="surrogatepass")
    except (ValueError, RecursionError):  # nested more deeply than a message may be
        packed = msgpack.packb(_cut(message, 0), default=_odd, unicode_errors="surrogatepass")
    connection.send_bytes(packed)


def receive(connection: Connection) -> dict[str, Any]:
    """Wait for the next message. Raises ``EOFError`` or ``OSError`` when there will be none."""
    message: dict[str, Any] = msgpack.unpackb(
        connection.recv_bytes(),
        unicode_errors="surrogatepass",
        strict_map_key=False,
        object_pairs_hook=_mapping,
        ext_hook=_integer,
    )
    return message


_BIG_INT: Final = 1


def _integer(code: int, data: bytes) -> Any:
    return int.from_bytes(data, "big", signed=True) if code == _BIG_INT else msgpack.ExtType(code, data)


def _mapping(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """msgpack writes a tuple as a list, which is no key."""
    return {_key(name): value for name, value in pairs}


def _key(name: Any) -> Any:
    return tuple(map(_key, name)) if isinstance(name, list) else name


def _odd(value: Any) -> Any:
    """What a node may have put into its ui data beside plain values: large integers, numpy's numbers, sets, paths."""
    if isinstance(value, int):
        return msgpack.ExtType(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    try:
        return _plainer(value)
    except Exception:  # an object may do anything when it is looked at
        return f"<{type(value).__name__}>"


def _plainer(value: Any) -> Any:
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        return list(value)
    return str(value)


_DEEPEST: Final = 60


def _cut(value: Any, depth: int) -> Any:
    """``value`` without what is nested too deeply in it."""
    if depth > _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {name: _cut(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(item, depth + 1) for item in value]
    return value


def event_to_plain(event: events.Event) -> list[Any]:
    return [type(event).__name__, [getattr(event, entry.name) for entry in fields(event)]]


def event_from_plain(plain: Sequence[Any]) -> events.Event:
    name, values = plain
    made: events.Event = _EVENTS[name](*values)
    return made


def run_to_plain(run: Run) -> dict[str, Any]:
    """Graph and metadata as JSON, which unlike msgpack holds integers of any size."""
    return _plain(run, json.dumps(write_api(run.graph)))


def job_to_plain(job: str, payload: Payload) -> dict[str, Any]:
    """A job of the store as the message that ``run_to_plain`` makes. Its graph is read by the worker alone."""
    extra = payload.extra_data.get("extra_pnginfo")
    run = Run(
        graph=Graph(),
        targets=tuple(map(NodeId, payload.targets)),
        metadata=extra if isinstance(extra, dict) else {},
        job=job,
        client=payload.client,
        use_cache=payload.use_cache,
        stop_on_failure=payload.stop_on_failure,
        previews=True,
        claims_files=True,
    )
    return {**_plain(run, json.dumps(payload.prompt)), "shows_graph": True}


def _plain(run: Run, graph: str) -> dict[str, Any]:
    return {
        "graph": graph,
        "shows_graph": False,  # whether saved files are to carry it as ``prompt``, beside the metadata
        "metadata": json.dumps(dict(run.metadata)),
        "targets": run.targets,
        "job": run.job,
        "client": run.client,
        "use_cache": run.use_cache,
        "resume": run.resume,
        "previews": run.previews,
        "stop_on_failure": run.stop_on_failure,
        "watch_inputs": run.watch_inputs,
        "claims_files": run.claims_files,
        "limits": asdict(run.limits),
    }


def run_from_plain(plain: Mapping[str, Any]) -> Run:
    targets = plain["targets"]
    prompt, metadata = json.loads(plain["graph"]), json.loads(plain["metadata"])
    return Run(
        graph=read_api(prompt),
        targets=None if targets is None else tuple(map(NodeId, targets)),
        metadata={"prompt": prompt, **metadata} if plain["shows_graph"] else metadata,
        job=plain["job"],
        client=plain["client"],
        use_cache=plain["use_cache"],
        resume=plain["resume"],
        previews=plain["previews"],
        stop_on_failure=plain["stop_on_failure"],
        watch_inputs=plain["watch_inputs"],
        claims_files=plain["claims_files"],
        limits=Limits(**plain["limits"]),
    )


def result_to_plain(result: RunResult) -> dict[str, Any]:
    """Everything but kept values, which stay where they are."""
    return {
        "job": result.job,
        "status": result.status,
        "ui": {node: dict(ui) for node, ui in result.ui.items()},
        "failures": [failure_to_plain(failure) for failure in result.failures],
        "ran": result.ran,
        "cached": result.cached,
        "inner": dict(result.inner),
    }


def result_from_plain(plain: Mapping[str, Any]) -> RunResult:
    return RunResult(
        job=plain["job"],
        status=plain["status"],
        ui=plain["ui"],
        failures=tuple(failure_from_plain(failure) for failure in plain["failures"]),
        ran=tuple(map(NodeId, plain["ran"])),
        cached=tuple(map(NodeId, plain["cached"])),
        values={},
        inner=plain["inner"],
    )


def failure_to_plain(failure: NodeFailed) -> dict[str, Any]:
    names = ("node", "class_type", "reason", "input", "shown", "pack")
    return {name: getattr(failure, name) for name in names}


def failure_from_plain(plain: Mapping[str, Any]) -> NodeFailed:
    return NodeFailed(
        plain["node"],
        plain["class_type"],
        plain["reason"],
        input=plain["input"],
        shown=plain["shown"],
        pack=plain["pack"],
    )
