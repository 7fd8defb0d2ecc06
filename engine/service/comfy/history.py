"""Jobs as ComfyUI's clients read them: items of the queue, entries of the history, items of its jobs API. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from engine.jobs.records import ENDED, Job, JobState, Payload
from engine.service.comfy.failures import error_data

STATUSES: Final[Mapping[JobState, str]] = {
    "queued": "pending",
    "paused": "pending",
    "running": "in_progress",
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}

_KEYS: Final = frozenset({"auth_token_comfy_org", "api_key_comfy_org"})
"""Secrets that editors send along; they are neither kept nor shown."""

_VISUAL: Final = frozenset({"images", "gifs", "video", "videos", "audio", "3d"})
_PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif")
_FILMS: Final = (".mp4", ".webm", ".mov", ".mkv")
_SOUNDS: Final = (".mp3", ".flac", ".wav", ".ogg", ".opus")
_SHAPES: Final = (".glb", ".gltf", ".obj", ".fbx", ".stl")
_VISUAL_SUFFIXES: Final = (*_PICTURES, *_FILMS, *_SOUNDS, *_SHAPES)

Messages = Sequence[Sequence[Any]]
"""``[event, data]`` each, as ``Narrator.history_messages`` gives them."""


def is_shown(job: Job) -> bool:
    """Whether ComfyUI's clients are told of a job: not of one that they took out of the history, or out of the queue before it began."""
    return not job.hidden and (job.state != "cancelled" or job.started is not None)


def clean_extra_data(extra: Mapping[str, Any]) -> dict[str, Any]:
    """``extra_data`` without secrets."""
    return {name: value for name, value in extra.items() if name not in _KEYS}


def queue_item(job: Job, payload: Payload) -> list[Any]:
    """``[number, id, prompt, extra_data, outputs to run]``."""
    return [_number(job), job.id, payload.prompt, clean_extra_data(payload.extra_data), list(payload.targets)]


def history_entry(job: Job, payload: Payload, messages: Messages) -> dict[str, Any]:
    """What the history says of a job that has ended."""
    return {
        "prompt": queue_item(job, payload),
        "outputs": job.outputs,
        "meta": {node: _meta(node, payload.prompt) for node in job.outputs},
        "status": _status(job, messages),
    }


def job_item(job: Job, payload: Payload) -> dict[str, Any]:
    """A job in a list. What is not known is left out."""
    files = list(_files(job.outputs))
    texts = list(_texts(job.outputs))
    visual = [item for item in files if _is_visual(item)]
    item = {
        "id": job.id,
        "status": STATUSES[job.state],
        "priority": _number(job),
        "create_time": _milliseconds(job.created),
        "execution_start_time": None if job.started is None else _milliseconds(job.started),
        "execution_end_time": None if job.finished is None else _milliseconds(job.finished),
        "outputs_count": len(files) + len(texts),
        "previewable_outputs_count": len(visual) + len(texts),
        "preview_output": _preview(visual, texts),
        "execution_error": _error(job, payload),
        "workflow_id": _workflow_id(payload),
    }
    return {name: value for name, value in item.items() if value is not None}


def job_detail(job: Job, payload: Payload, messages: Messages) -> dict[str, Any]:
    """A job by itself: also what it is and, once it has ended, how that went."""
    detail = {
        **job_item(job, payload),
        "outputs": job.outputs,
        "execution_status": _status(job, messages) if job.state in ENDED else None,
        "workflow": {"prompt": payload.prompt, "extra_data": clean_extra_data(payload.extra_data)},
    }
    told = next((data for event, data in reversed(messages) if event == "execution_error"), None)
    return detail if told is None else {**detail, "execution_error": told}


def _status(job: Job, messages: Messages) -> dict[str, Any]:
    succeeded = job.state == "succeeded"
    return {
        "status_str": "success" if succeeded else "error",
        "completed": succeeded,
        "messages": [list(message) for message in messages],
    }


def _number(job: Job) -> int | float:
    return int(job.number) if float(job.number).is_integer() else job.number


def _milliseconds(time: float) -> int:
    return round(time * 1000)


def _meta(node: str, prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Where a node is seen. One that an expansion made has the id of the node it comes from in front of its own."""
    shown = _outer(node, prompt)
    parent = None if shown == node else shown
    return {"node_id": node, "display_node": shown, "parent_node": parent, "real_node_id": shown}


def _outer(node: str, prompt: Mapping[str, Any]) -> str:
    outer = node
    while outer not in prompt:
        outer, dot, _ = outer.rpartition(".")
        if not dot:
            return node
    return outer


def _error(job: Job, payload: Payload) -> dict[str, Any] | None:
    """As far as it is known without what happened in the job."""
    if job.state != "failed":
        return None
    failure: Mapping[str, Any] = job.errors[0] if job.errors else {}
    shown = str(failure.get("shown") or failure.get("node") or "")
    real = _outer(str(failure.get("node") or ""), payload.prompt)
    return error_data(
        job.id,
        payload.prompt,
        failure,
        real=real if real in payload.prompt else shown,
        executed=[],
        known=[],
        timestamp=_milliseconds(job.created if job.finished is None else job.finished),
    )


def _workflow_id(payload: Payload) -> str | None:
    info = payload.extra_data.get("extra_pnginfo")
    workflow = info.get("workflow") if isinstance(info, Mapping) else None
    found = workflow.get("id") if isinstance(workflow, Mapping) else None
    return found if isinstance(found, str) else None


# outputs


def _items(outputs: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for node, ui in outputs.items():
        for key, items in ui.items() if isinstance(ui, Mapping) else ():
            for item in items if isinstance(items, list | tuple) else ():
                yield node, key, item


def _files(outputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for node, key, item in _items(outputs):
        if isinstance(item, Mapping) and isinstance(item.get("filename"), str):
            yield {"subfolder": "", "type": "output", **item, "nodeId": node, "mediaType": key}


def _texts(outputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for node, key, item in _items(outputs):
        if key == "text" and isinstance(item, str):
            yield {"content": item, "nodeId": node, "mediaType": "text"}


def _is_visual(item: Mapping[str, Any]) -> bool:
    return item["mediaType"] in _VISUAL or item["filename"].lower().endswith(_VISUAL_SUFFIXES)


def _preview(visual: Sequence[dict[str, Any]], texts: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The first saved file that can be looked at or listened to; else one that is not kept; else a text."""
    saved = [item for item in visual if item["type"] == "output"]
    return next(iter([*saved, *visual, *texts]), None)
