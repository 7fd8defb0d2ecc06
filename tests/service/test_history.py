"""Jobs as ComfyUI's clients read them: whole entries of queue, history and jobs API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from engine.jobs.records import Job, JobState, Payload
from engine.service.comfy.history import (
    clean_extra_data,
    history_entry,
    job_detail,
    job_item,
    queue_item,
)

PROMPT: Mapping[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
}
EXTRA = {"client_id": "c", "extra_pnginfo": {"workflow": {"id": "w-1"}}}
PAYLOAD = Payload(PROMPT, ("2",), EXTRA | {"auth_token_comfy_org": "secret"}, {}, use_cache=True, stop_on_failure=False)
SAVED = {"filename": "a_00001_.png", "subfolder": "", "type": "output"}
SHOWN = {"filename": "t_00001_.png", "subfolder": "", "type": "temp"}
DONE = Job(
    id="j",
    state="succeeded",
    client="c",
    priority=0,
    number=3.0,
    labels={},
    created=100.0,
    started=101.5,
    finished=104.25,
    outputs={"1.0.3": {"images": [SHOWN]}, "2": {"images": [SAVED], "animated": [False]}},
)
MESSAGES: list[list[Any]] = [
    ["execution_start", {"prompt_id": "j", "timestamp": 101_500}],
    ["execution_cached", {"nodes": [], "prompt_id": "j", "timestamp": 101_500}],
    ["execution_success", {"prompt_id": "j", "timestamp": 104_250}],
]
ITEM = [3, "j", PROMPT, EXTRA, ["2"]]
FAILURE = {"node": "2", "shown": "2", "class_type": "SaveImage", "pack": None, "input": None, "reason": "OSError: full"}


def test_secrets() -> None:
    """Keys to other people's services are neither kept nor shown; all else is."""
    extra = {"auth_token_comfy_org": "a", "api_key_comfy_org": "b", "extra_pnginfo": {"workflow": {}}, "x": 1}
    assert clean_extra_data(extra) == {"extra_pnginfo": {"workflow": {}}, "x": 1}
    assert "secret" not in json.dumps([queue_item(DONE, PAYLOAD), job_detail(DONE, PAYLOAD, MESSAGES)])


def test_queue_item() -> None:
    """Number, id, prompt, extra data, and the outputs to run; a number with a fraction keeps it."""
    assert queue_item(DONE, PAYLOAD) == ITEM
    assert isinstance(queue_item(DONE, PAYLOAD)[0], int)
    assert queue_item(replace(DONE, number=-2.5), PAYLOAD)[0] == -2.5


def test_history_of_success() -> None:
    """A whole entry: an inner node is seen at the node of the prompt that its id begins with."""
    assert history_entry(DONE, PAYLOAD, MESSAGES) == {
        "prompt": ITEM,
        "outputs": DONE.outputs,
        "meta": {
            "1.0.3": {"node_id": "1.0.3", "display_node": "1", "parent_node": "1", "real_node_id": "1"},
            "2": {"node_id": "2", "display_node": "2", "parent_node": None, "real_node_id": "2"},
        },
        "status": {"status_str": "success", "completed": True, "messages": MESSAGES},
    }


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_history_of_what_did_not_succeed(state: JobState) -> None:
    """What failed or was interrupted is an error and not complete, even if it never began."""
    job = replace(DONE, state=state, started=None, outputs={})
    assert history_entry(job, PAYLOAD, []) == {
        "prompt": ITEM,
        "outputs": {},
        "meta": {},
        "status": {"status_str": "error", "completed": False, "messages": []},
    }


def test_job_item() -> None:
    """A whole item: times in milliseconds, the saved picture before the temporary one."""
    assert job_item(DONE, PAYLOAD) == {
        "id": "j",
        "status": "completed",
        "priority": 3,
        "create_time": 100_000,
        "execution_start_time": 101_500,
        "execution_end_time": 104_250,
        "outputs_count": 2,
        "previewable_outputs_count": 2,
        "preview_output": {**SAVED, "nodeId": "2", "mediaType": "images"},
        "workflow_id": "w-1",
    }


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("queued", "pending"),
        ("paused", "pending"),
        ("running", "in_progress"),
        ("succeeded", "completed"),
        ("failed", "failed"),
        ("cancelled", "cancelled"),
    ],
)
def test_statuses(state: JobState, status: str) -> None:
    """Each state has its word; a paused job is pending."""
    assert job_item(replace(DONE, state=state), PAYLOAD)["status"] == status


def test_item_of_a_waiting_job() -> None:
    """What is not known of a job that waits is left out."""
    waiting = replace(DONE, state="queued", started=None, finished=None, outputs={})
    assert job_item(waiting, replace(PAYLOAD, extra_data={})) == {
        "id": "j",
        "status": "pending",
        "priority": 3,
        "create_time": 100_000,
        "outputs_count": 0,
        "previewable_outputs_count": 0,
    }


@pytest.mark.parametrize(
    ("outputs", "preview", "counts"),
    [
        ({}, None, (0, 0)),
        ({"1": {"images": [SHOWN]}}, {**SHOWN, "nodeId": "1", "mediaType": "images"}, (1, 1)),
        (
            {"1": {"text": ["hi", "there"]}, "2": {"latents": [{**SAVED, "filename": "a.latent"}]}},
            {"content": "hi", "nodeId": "1", "mediaType": "text"},
            (3, 2),
        ),
        (
            {"1": {"text": ["hi"]}, "2": {"clips": [{**SHOWN, "filename": "a.MP4"}]}},
            {**SHOWN, "filename": "a.MP4", "nodeId": "2", "mediaType": "clips"},
            (2, 2),
        ),
        ({"1": {"animated": [True], "odd": 5, "list": [1, None, {"filename": 3}]}, "2": {}}, None, (0, 0)),
    ],
)
def test_preview_output(outputs: Any, preview: Any, counts: tuple[int, int]) -> None:
    """The first saved thing to see, else a temporary one, else a text; flags and latents are none of these."""
    item = job_item(replace(DONE, outputs=outputs), PAYLOAD)
    assert item.get("preview_output") == preview
    assert (item["outputs_count"], item["previewable_outputs_count"]) == counts


def test_error_of_a_job() -> None:
    """A failed job says what failed; by itself it says it as it was told."""
    failed = replace(DONE, state="failed", errors=(FAILURE,), outputs={})
    error = {
        "prompt_id": "j",
        "node_id": "2",
        "node_type": "SaveImage",
        "executed": [],
        "exception_message": "full\n",
        "exception_type": "OSError",
        "traceback": ["node 2 (SaveImage): OSError: full\n"],
        "current_inputs": {"images": ["['1', 0]"]},
        "current_outputs": [],
        "timestamp": 104_250,
    }
    assert job_item(failed, PAYLOAD)["execution_error"] == error
    told = {**error, "executed": ["1"]}
    messages = [*MESSAGES[:2], ["execution_error", told]]
    assert job_detail(failed, PAYLOAD, messages)["execution_error"] == told


def test_error_within_an_expansion() -> None:
    """The node of the prompt is named, also where nothing else is known of the inner one."""
    failure = {**FAILURE, "node": "1.0.3", "shown": "1", "class_type": "ImageScale"}
    error = job_item(replace(DONE, state="failed", errors=(failure,)), PAYLOAD)["execution_error"]
    assert (error["node_id"], error["node_type"]) == ("1", "EmptyImage")
    assert error["exception_message"] == "inner node 1.0.3 (ImageScale): full\n"


@pytest.mark.parametrize("errors", [(), ({"node": None, "shown": None, "class_type": None, "reason": "no worker"},)])
def test_failed_before_it_began(errors: tuple[Any, ...]) -> None:
    """An error without a node has the same fields, all of their types."""
    job = replace(DONE, state="failed", started=None, errors=errors, outputs={})
    error = job_item(job, PAYLOAD)["execution_error"]
    assert (error["node_id"], error["node_type"], error["current_inputs"]) == ("", "", {})
    assert error["exception_message"] in ("no worker\n", "no reason was given\n")


def test_job_detail() -> None:
    """A job by itself adds its outputs, how it went, and what it is."""
    assert job_detail(DONE, PAYLOAD, MESSAGES) == {
        **job_item(DONE, PAYLOAD),
        "outputs": DONE.outputs,
        "execution_status": {"status_str": "success", "completed": True, "messages": MESSAGES},
        "workflow": {"prompt": PROMPT, "extra_data": EXTRA},
    }


def test_detail_of_a_running_job() -> None:
    """How a job went is not said before it has ended."""
    running = replace(DONE, state="running", finished=None, outputs={})
    detail = job_detail(running, PAYLOAD, MESSAGES[:2])
    assert detail["execution_status"] is None
    assert detail["outputs"] == {}
    assert "execution_end_time" not in detail
