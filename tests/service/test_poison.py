"""What is kept can be told again: nothing that one client sends spoils what others are told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.service.plain import DEEPEST
from engine.service.user_files import SETTINGS_FILE
from tests.service.jobs_app import Jobs, jobs_at
from tests.service.running import harmless

ODD = '[NaN, Infinity, -Infinity, 1e999, 1.5, "NaN", {"a": NaN}]'
"""JSON as Python reads it and browsers do not."""
TOLD = [None, None, None, None, 1.5, "NaN", {"a": None}]
DEPTHS = (DEEPEST, 500, 950)


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[Jobs]:
    async with jobs_at(tmp_path) as found:
        yield found


def strictly(text: str) -> Any:
    """JSON as browsers read it."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def posted(extra: str) -> bytes:
    return f'{{"prompt": {json.dumps(harmless())}, "prompt_id": "j", "extra_data": {{"x": {extra}}}}}'.encode()


async def test_numbers_that_are_none(jobs: Jobs) -> None:
    """NaN and infinities in what belongs to a job become null, and every list tells the job."""
    assert (await jobs.client.post("/prompt", content=posted(ODD))).status_code == 200
    (item,) = strictly((await jobs.client.get("/queue")).text)["queue_pending"]
    assert item[3] == {"x": TOLD}
    await jobs.run("k", extra_data={"extra_pnginfo": {"workflow": {"id": float("nan")}}})
    assert strictly((await jobs.client.get("/history")).text)["k"]["prompt"][3] == {
        "extra_pnginfo": {"workflow": {"id": None}}
    }
    assert len(strictly((await jobs.client.get("/api/jobs")).text)["jobs"]) == 2


async def test_numbers_that_are_none_are_no_inputs(jobs: Jobs) -> None:
    """As a node's input such a number is refused, and the answer names the input."""
    prompt = json.dumps(harmless()).replace('"width": 8', '"width": NaN')
    answer = await jobs.client.post("/prompt", content=f'{{"prompt": {prompt}}}')
    assert answer.status_code == 400
    assert strictly(answer.text)["node_errors"]["1"]["errors"][0]["details"].startswith("width")


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    ("path", "status"), [("/prompt", 400), ("/settings", 400), ("/settings/a", 400), ("/queue", 400), ("/history", 400)]
)
async def test_what_is_too_deep_is_refused(jobs: Jobs, path: str, status: int, depth: int) -> None:
    """Wherever it is in a body, and nothing of it is kept."""
    await jobs.run("before")
    body = posted(nested(depth)) if path == "/prompt" else f'{{"a": {nested(depth)}}}'.encode()
    answer = await jobs.client.post(path, content=body)
    assert answer.status_code == status
    if path == "/prompt":
        assert answer.json()["error"]["type"] == "invalid_prompt"
        assert f"at most {DEEPEST} objects and lists" in answer.json()["error"]["message"]
    assert list(await jobs.history()) == ["before"]
    assert (await jobs.client.get("/settings")).json() == {}


@pytest.mark.parametrize("depth", DEPTHS)
async def test_what_is_too_deep_is_refused_by_our_own_routes(jobs: Jobs, depth: int) -> None:
    """In a workflow and beside it."""
    deep = f'{{"workflow": {{"nodes": [], "links": [], "version": 0.4, "extra": {nested(depth)}}}}}'
    for path in ("/v1/jobs", "/v1/validate", "/v1/plan"):
        for body in (deep, f'{{"other": {deep}}}'):
            answer = await jobs.client.post(path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code in (400, 422), answer.text
    assert (await jobs.client.get("/v1/jobs")).json()["jobs"] == []


async def test_one_job_that_cannot_be_told(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    """It is left out of each list, which the log says, and the others are told."""
    deep = {"x": json.loads(nested(600)), "y": float("nan")}
    for name in ("a", "bad", "c"):
        await jobs.run(name, extra_data=deep if name == "bad" else {})
        await jobs.submit(f"{name}-waits", extra_data=deep if name == "bad" else {})
    assert list(await jobs.history()) == ["a", "c"]
    assert await jobs.history("/bad") == {}
    pending = (await jobs.client.get("/queue")).json()["queue_pending"]
    assert {item[1] for item in pending} == {"a-waits", "c-waits"}
    assert "job bad cannot be told and is left out (RecursionError" in caplog.text


async def test_settings_that_cannot_be_told(jobs: Jobs) -> None:
    """A setting of an older file that is nested too deeply is left out; the others are told, and can be changed."""
    path = jobs.desk.settings.user_folder / "default" / SETTINGS_FILE
    path.parent.mkdir(parents=True)
    path.write_text(f'{{"a": 1, "deep": {nested(900)}}}')
    assert (await jobs.client.get("/settings")).json() == {"a": 1}
    assert (await jobs.client.post("/settings", json={"b": 2})).status_code == 200
    assert (await jobs.client.get("/settings")).json() == {"a": 1, "b": 2}


async def test_settings_are_json(jobs: Jobs) -> None:
    """The file that an editor's settings are in is one that every reader of JSON reads."""
    assert (await jobs.client.post("/settings", content=f'{{"odd": {ODD}}}')).status_code == 200
    path = jobs.desk.settings.user_folder / "default" / SETTINGS_FILE
    assert strictly(path.read_text()) == {"odd": TOLD}
