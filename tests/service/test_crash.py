"""Whatever is killed, and whenever: no job is lost, none is done twice, and every picture is the one of an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.client import SyncClient
from engine.jobs.records import StoredEvent
from tests.service.process import ROOT, ServiceProcess

LONG = os.environ.get("CHAOS") == "1"
JOBS, KILLS = (50, 200) if LONG else (3, 10)
LONGEST = 6.0 if LONG else 2.0
"""Seconds between two kills, at most: few jobs must not be done before the last of them."""
STEPS = 24
SEED = int(os.environ.get("CHAOS_SEED", "7"))


def workflow(seed: int) -> dict[str, Any]:
    """A small picture in many steps."""
    graph: dict[str, Any] = json.loads((ROOT / "workflows" / "txt2img.json").read_text())
    api: dict[str, Any] = graph
    api["3"]["inputs"] |= {"seed": seed, "steps": STEPS}
    api["5"]["inputs"] |= {"width": 64, "height": 64}
    api["9"]["inputs"]["filename_prefix"] = f"s{seed}"
    return api


@pytest.fixture
def undisturbed(tmp_path: Path) -> Iterator[dict[int, bytes]]:
    """The file of each seed as a service makes it that nobody disturbs."""
    service = ServiceProcess(tmp_path / "calm")
    try:
        service.start()
        with SyncClient(service.url) as client:
            jobs = [client.submit(workflow(seed))["id"] for seed in range(JOBS)]
            assert [client.wait(job)["state"] for job in jobs] == ["succeeded"] * JOBS
        yield {seed: (tmp_path / "calm" / "output" / f"s{seed}_00001_.png").read_bytes() for seed in range(JOBS)}
    finally:
        service.close()


def _worker(service: ServiceProcess) -> tuple[int | None, str | None]:
    """The worker's process and the job it is at."""
    with urllib.request.urlopen(f"{service.url}/v1/system", timeout=10) as answer:
        worker = json.load(answer)["workers"][0]
    return worker["pid"], worker["job"]


def _is_idle(client: SyncClient) -> bool:
    return not client.list(states=["queued", "running"])


def _has_progress(client: SyncClient, job: str, since: int) -> bool:
    """Whether the job has done something that a lost worker does not take with it."""
    found = client.get(job)
    return bool(found["attempts"] == 0 and found["last_event"] > since + 3)


@pytest.mark.slow
def test_killing_anything_at_any_moment_loses_nothing(tmp_path: Path, undisturbed: dict[int, bytes]) -> None:
    """Worker and service are killed at random moments, the service is started again; what comes of it is as if nothing had been."""
    draw = random.Random(SEED)
    service = ServiceProcess(tmp_path / "chaos")
    try:
        service.start()
        with SyncClient(service.url, patience=60) as client:
            jobs = {seed: client.submit(workflow(seed), labels={"seed": str(seed)})["id"] for seed in range(JOBS)}
            kills = _kill_again_and_again(service, client, draw)
            ended = {seed: client.wait(job) for seed, job in jobs.items()}
            everything = [event for event in _events(client) if isinstance(event, StoredEvent)]
        assert kills == KILLS or LONG, f"the jobs were done after {kills} kills"
        assert {seed: job["state"] for seed, job in ended.items()} == dict.fromkeys(range(JOBS), "succeeded")
        made = {path.name: path.read_bytes() for path in (tmp_path / "chaos" / "output").glob("*.png")}
        assert made == {f"s{seed}_00001_.png": data for seed, data in undisturbed.items()}
        finished = Counter(event.job for event in everything if event.name == "job_finished")
        assert finished == Counter(jobs.values())
        assert [event.seq for event in everything] == list(range(1, everything[-1].seq + 1))
        for job in jobs.values():
            _check_resumed([event for event in everything if event.job == job])
    finally:
        service.close()


def _kill_again_and_again(service: ServiceProcess, client: SyncClient, draw: random.Random) -> int:
    """Returns how often. A worker is killed only after progress: three in a row without any end a job, as they should."""
    kills, seen = 0, 0
    while kills < KILLS and not _is_idle(client):
        time.sleep(draw.uniform(0.1, LONGEST if kills % 2 else LONGEST / 2))
        if draw.random() < 0.5:
            service.kill()
            service.start()
            kills += 1
            continue
        pid, job = _worker(service)
        if pid is None or job is None or not _has_progress(client, job, seen):
            continue
        seen = client.get(job)["last_event"]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        kills += 1
    return kills


def _events(client: SyncClient) -> list[Any]:
    """All that is stored."""
    found: list[Any] = []
    last = max(job["last_event"] for job in client.list(limit=1000))
    for event in client.events(after=0):
        found.append(event)
        if isinstance(event, StoredEvent) and event.seq >= last:
            return found
    return found


def _check_resumed(events: list[StoredEvent]) -> None:
    """After each interruption the sampler goes on behind its last checkpoint: no step before that is done again."""
    kept, done, is_new = 0, 0, False
    for event in events:
        if event.name == "job_leased":
            is_new = True
        elif event.name == "node_progress" and event.data["node"] == "3":
            if is_new:
                assert event.data["done"] > kept, (event, kept)
            is_new, done = False, event.data["done"]
        elif event.name == "node_checkpointed" and event.data["node"] == "3":
            kept = done


@pytest.mark.slow
def test_a_job_goes_on_after_pause_shutdown_and_preemption(tmp_path: Path) -> None:
    """Each stops a sampling at a step, and each time it goes on from that very step."""
    service = ServiceProcess(tmp_path)
    try:
        service.start()
        with SyncClient(service.url, patience=60) as client:
            job = client.submit(workflow(1))["id"]
            _await_step(client, job, 2)
            assert client.pause(job)
            _await_event(client, job, "job_paused")
            assert client.get(job)["state"] == "paused"
            assert client.resume(job)
            _await_step(client, job, 6)
            urgent = client.submit(workflow(2), priority=5)["id"]
            _await_event(client, job, "job_queued", count=2)
            assert client.wait(urgent)["state"] == "succeeded"
            assert client.get(job)["state"] in ("queued", "running")
            _await_step(client, job, 10)
            assert service.stop() in (0, -signal.SIGTERM)
            service.start()
            assert client.wait(job)["state"] == "succeeded"
            happened = [event for event in client.events(job) if isinstance(event, StoredEvent)]
        steps = [
            event.data["done"] for event in happened if event.name == "node_progress" and event.data["node"] == "3"
        ]
        # the step at which it was told to stop is done and kept, and not told of
        assert steps == sorted(set(steps))
        assert steps[-1] == STEPS
        assert len(steps) >= STEPS - 3
    finally:
        service.close()


def _await_step(client: SyncClient, job: str, step: int) -> None:
    for event in client.events(job):
        if isinstance(event, StoredEvent) and event.name == "node_progress" and event.data["done"] >= step:
            return
    raise AssertionError("it ended before")


def _await_event(client: SyncClient, job: str, name: str, count: int = 1) -> None:
    for event in client.events(job):
        if isinstance(event, StoredEvent) and event.name == name:
            count -= 1
            if not count:
                return
    raise AssertionError("it ended before")
