"""A client of ComfyUI's against the whole service: what it posts, what it hears on its websocket, and what the history says."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.service.process import ServiceProcess
from tests.service.test_stream import shown


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    running = ServiceProcess(tmp_path_factory.mktemp("comfy"))
    try:
        running.start()
        yield running
    finally:
        running.close()


async def _run(
    url: str, prompt: dict[str, Any], client: str, **more: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the post is answered with, and all messages until nothing runs any more."""
    async with (
        connect(f"{url.replace('http', 'ws')}/ws?clientId={client}") as socket,
        httpx.AsyncClient(base_url=url) as http,
    ):
        first = json.loads(await socket.recv())
        assert first["type"] == "status"
        assert first["data"]["sid"] == client
        answer = (await http.post("/prompt", json={"prompt": prompt, "client_id": client, **more})).json()
        return answer, await _heard(socket)


async def _heard(socket: ClientConnection) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while not (found and found[-1]["type"] == "executing" and found[-1]["data"]["node"] is None):
        message = await asyncio.wait_for(socket.recv(), 30)
        assert isinstance(message, str)
        found.append(json.loads(message))
    return found


async def test_a_run_is_told_in_comfyuis_order(service: ServiceProcess) -> None:
    """Start, what is cached, each node, success, the queue, nothing runs; the history is there by then."""
    client = uuid.uuid4().hex
    answer, heard = await _run(service.url, shown("order", 3), client)
    assert set(answer) == {"prompt_id", "number", "node_errors"}
    kinds = [message["type"] for message in heard if message["type"] not in ("status", "progress_state")]
    assert kinds[:2] == ["execution_start", "execution_cached"]
    assert kinds.count("executing") == 5
    assert kinds[-3:] == ["executed", "execution_success", "executing"]
    assert [message["type"] for message in heard[-3:]] == ["execution_success", "status", "executing"]
    assert heard[-2]["data"]["status"]["exec_info"]["queue_remaining"] == 0
    executed = next(message["data"] for message in heard if message["type"] == "executed")
    assert executed["node"] == "out"
    assert executed["output"] == {"text": ["order-1-2"]}
    job = answer["prompt_id"]
    entry = httpx.get(f"{service.url}/history/{job}").json()[job]
    assert entry["outputs"] == {"out": {"text": ["order-1-2"]}}
    assert entry["status"]["status_str"] == "success"
    assert [name for name, _ in entry["status"]["messages"]] == [
        "execution_start",
        "execution_cached",
        "execution_success",
    ]
    assert entry["prompt"][1:3] == [job, httpx.get(f"{service.url}/v1/jobs/{job}/workflow").json()]


async def test_a_second_run_is_cached_and_shows_the_same(service: ServiceProcess) -> None:
    """Nothing executes; what was shown is shown again."""
    await _run(service.url, shown("again", 3), "one")
    _, heard = await _run(service.url, shown("again", 3), "two")
    cached = next(message["data"]["nodes"] for message in heard if message["type"] == "execution_cached")
    assert set(cached) == {"0", "1", "2", "out"}
    assert [message["data"]["node"] for message in heard if message["type"] == "executing"] == [None]
    assert [message["data"]["output"]["text"] for message in heard if message["type"] == "executed"] == [["again-1-2"]]


async def test_the_sound_outputs_of_a_prompt_run(service: ServiceProcess) -> None:
    """And the answer says what is wrong with the others."""
    prompt = shown("sound", 2) | {"bad": {"class_type": "PreviewAny", "inputs": {}}}
    answer, heard = await _run(service.url, prompt, "three")
    assert answer["node_errors"]["bad"]["errors"][0]["type"] == "required_input_missing"
    assert [message["data"]["node"] for message in heard if message["type"] == "executed"] == ["out"]


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_the_queue_and_refusals(service: ServiceProcess, prefix: str) -> None:
    """Both spellings of the routes; ids and numbers as the client gave them; errors in ComfyUI's shape."""
    with httpx.Client(base_url=service.url + prefix) as http:
        wanted = str(uuid.uuid4())
        body = json.dumps({"prompt": shown("q"), "prompt_id": wanted, "number": 7})
        answer = http.post(
            "/prompt", content=body, headers={"Content-Type": "application/x-www-form-urlencoded"}
        ).json()
        assert (answer["prompt_id"], answer["number"]) == (wanted, 7)
        assert http.get("/queue").json().keys() == {"queue_running", "queue_pending"}
        assert "queue_remaining" in http.get("/prompt").json()["exec_info"]
        assert http.post("/prompt", content="{").status_code == 500
        refused = http.post("/prompt", json={"prompt": {"1": {"class_type": "Nope", "inputs": {}}}})
        assert refused.status_code == 400
        assert refused.json()["error"]["type"] == "invalid_prompt"
        assert http.post("/interrupt").status_code == 200
        assert http.get("/history", params={"max_items": 1}).status_code == 200
        info = http.get("/object_info/KSampler").json()["KSampler"]
        assert info["input"]["required"]["steps"] == ["INT", {"default": 20, "min": 1, "max": 10000}]
        assert "ckpt_name" in http.get("/object_info").json()["CheckpointLoaderSimple"]["input"]["required"]


def test_jobs_as_the_newest_editor_asks_for_them(service: ServiceProcess) -> None:
    """The page, one job, and what is not there."""
    with httpx.Client(base_url=service.url) as http:
        page = http.get("/api/jobs", params={"status": "completed", "limit": 2}).json()
        assert page["pagination"]["limit"] == 2
        assert all(job["status"] == "completed" and isinstance(job["create_time"], int) for job in page["jobs"])
        assert http.get("/api/jobs/nope").status_code == 404
        assert http.get("/api/jobs", params={"status": "odd"}).status_code == 400
        assert http.get("/healthz").json() == {"status": "ok"}
        assert "mezzotint_jobs_total" in http.get("/metrics").text


async def test_who_asks_for_the_log_is_sent_it(service: ServiceProcess) -> None:
    """Line by line, as things happen; and no more once it is not wanted."""
    async with (
        connect(f"{service.url.replace('http', 'ws')}/ws?clientId=reader") as socket,
        httpx.AsyncClient() as http,
    ):
        address = f"{service.url}/internal/logs/subscribe"
        await http.patch(address, json={"clientId": "reader", "enabled": True})
        job = (await http.post(f"{service.url}/prompt", json={"prompt": shown("logged")})).json()["prompt_id"]
        while True:
            message = await asyncio.wait_for(socket.recv(), 30)
            assert isinstance(message, str)
            told = json.loads(message)
            if told["type"] == "logs" and any(job in entry["m"] for entry in told["data"]["entries"]):
                break
        await http.patch(address, json={"clientId": "reader", "enabled": False})
