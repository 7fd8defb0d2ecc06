"""What becomes of workers that hang, and of services that would share a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from engine.client import SyncClient
from engine.jobs.records import StoredEvent
from tests.service.process import ROOT, ServiceProcess
from tests.service.test_stream import shown


def _workers(service: ServiceProcess) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{service.url}/v1/system", timeout=10) as answer:
        workers: list[dict[str, Any]] = json.load(answer)["workers"]
        return workers


def _worker(service: ServiceProcess) -> int | None:
    pid: int | None = _workers(service)[0]["pid"]
    return pid


def test_a_worker_that_hangs_past_its_lease_is_replaced(tmp_path: Path) -> None:
    """Stopped in the middle of a job: another one takes that up, and every job comes to its end once."""
    service = ServiceProcess(tmp_path, "--lease", "2")
    try:
        service.start()
        with SyncClient(service.url) as client:
            jobs = [client.submit(shown(f"hang {index}", 400))["id"] for index in range(12)]
            client.wait(jobs[1])
            stopped = _worker(service)
            assert stopped is not None
            os.kill(stopped, signal.SIGSTOP)
            assert [client.wait(job)["state"] for job in jobs] == ["succeeded"] * 12
            assert _worker(service) != stopped
            told = [event for job in jobs for event in client.events(job) if isinstance(event, StoredEvent)]
        again = [event.data["reason"] for event in told if event.name == "job_queued" and event.data["reason"]]
        assert len(again) == 1
        assert "no sign of life for 2 s" in again[0]
        assert len([event for event in told if event.name == "job_finished"]) == 12
    finally:
        service.close()


def test_a_service_that_was_stopped_blames_no_worker(tmp_path: Path) -> None:
    """It finds that no sign of life was read for longer than the lease, and it was not the worker that gave none."""
    service = ServiceProcess(tmp_path, "--lease", "1")
    try:
        service.start()
        with SyncClient(service.url) as client:
            jobs = [client.submit(shown(f"stop {index}", 400))["id"] for index in range(12)]
            client.wait(jobs[1])
            worker = _worker(service)
            os.kill(service.pid, signal.SIGSTOP)
            time.sleep(2.5)
            os.kill(service.pid, signal.SIGCONT)
            assert [client.wait(job)["state"] for job in jobs] == ["succeeded"] * 12
        assert _worker(service) == worker
    finally:
        service.close()


def test_workers_end_with_their_service(tmp_path: Path) -> None:
    """Killed without a word, it leaves nobody behind."""
    service = ServiceProcess(tmp_path)
    try:
        service.start()
        with SyncClient(service.url) as client:
            client.wait(client.submit(shown("end"))["id"])
        worker = _worker(service)
        assert worker is not None
        service.kill()
        deadline = time.monotonic() + 10
        while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{worker}").exists()
    finally:
        service.close()


def test_a_worker_that_outlives_its_service_is_ended_by_the_next(tmp_path: Path) -> None:
    """It hangs with no job at hand, so that nothing but its own word tells of it."""
    service = ServiceProcess(tmp_path)
    try:
        service.start()
        with SyncClient(service.url) as client:
            client.wait(client.submit(shown("idle"))["id"])
        hangs = _worker(service)
        assert hangs is not None
        os.kill(hangs, signal.SIGSTOP)
        service.kill()
        service.start()
        assert not Path(f"/proc/{hangs}").exists() or _is_zombie(hangs)
        with SyncClient(service.url) as client:
            assert client.wait(client.submit(shown("next"))["id"])["state"] == "succeeded"
    finally:
        service.close()


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_state_folder_belongs_to_one_service(tmp_path: Path) -> None:
    """A second one says so and ends, and the first goes on."""
    service = ServiceProcess(tmp_path)
    try:
        service.start()
        command = [sys.executable, str(ROOT / "server.py"), "--port", "0"]
        second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode != 0
        assert "another service is at work in" in second.stderr
        with SyncClient(service.url) as client:
            assert client.wait(client.submit(shown("first"))["id"])["state"] == "succeeded"
    finally:
        service.close()


def test_two_devices_work_side_by_side(tmp_path: Path) -> None:
    """Each has a worker of its own: while one is held, the other does all the rest; what the held one was given ends there."""
    service = ServiceProcess(tmp_path, "--device", "cpu", "--devices", "cpu", "--lease", "600")
    try:
        service.start()
        held = _await_all(service)[0]["pid"]
        os.kill(held, signal.SIGSTOP)
        with SyncClient(service.url) as client:
            jobs = [client.submit(shown(f"two {index}"), client=f"client {index}")["id"] for index in range(6)]
            deadline = time.monotonic() + 60
            while len(client.list(states=["succeeded"])) < 5:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            (waiting,) = [job for job in jobs if client.get(job)["state"] != "succeeded"]
            assert next(worker["job"] for worker in _workers(service) if worker["pid"] == held) == waiting
            os.kill(held, signal.SIGCONT)
            assert client.wait(waiting)["state"] == "succeeded"
            told = [event.name for event in client.events(waiting) if isinstance(event, StoredEvent)]
        assert told.count("job_leased") == 1
    finally:
        service.close()


def _await_all(service: ServiceProcess) -> list[dict[str, Any]]:
    """The workers, once each of them is there."""
    deadline = time.monotonic() + 90
    while not all(worker["pid"] for worker in _workers(service)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return _workers(service)
