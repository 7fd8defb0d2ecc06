"""What the service costs around the engine: a real one in a process of its own, asked over HTTP and websockets.

    python -m benchmarks.service [CASE ...] [--rounds N]

Cases: start, queue, chain, thousand, watchers, memory; all by default. Nodes are ours and do next to nothing. Every figure is printed
beside its target, which is for a machine with nothing else to do: the best of several rounds is what to compare, the median stands
beside it. Needs Linux: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgpack
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.served import Served, body_of, chain, resident_mb, unused

QUEUED: Final = 10_000
LENGTH: Final = 500
WATCHERS: Final = 500
BUSY: Final = 2_000
"""Nodes of the job that is watched."""
CACHED: Final = 1_000
IN_A_ROW: Final = 2_000
SETTLED: Final = 200
"""Jobs after which memory is to stay as it is."""


def told(name: str, values: list[float], limit: float, unit: str, *, at_least: bool = False) -> None:
    best = (max if at_least else min)(values)
    is_met = best >= limit if at_least else best <= limit
    bound = f"at {'least' if at_least else 'most'} {limit:g}"
    verdict = "" if is_met else "  missed"
    print(f"{name:58} {best:9.1f} {statistics.median(values):9.1f}  {unit}, {bound}{verdict}", flush=True)


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# the cases


def start(place: Path, rounds: int) -> None:
    took = []
    for turn in range(rounds):
        began = time.perf_counter()
        with Served(place / str(turn)) as served:
            served.first_answer("/object_info")
            took.append(time.perf_counter() - began)
    told("process start to the first /object_info", took, 1.5, "s")


def queue(place: Path, rounds: int) -> None:
    with Served(place) as served:
        warm(served)
        body = body_of(chain(10))
        with served.held():
            empty = [seconds(lambda: served.post(body)) * 1e3 for _ in range(50)]
            for _ in range(QUEUED - len(empty)):
                served.post(body)
            medians = []
            for _ in range(rounds):
                medians.append(statistics.median(seconds(lambda: served.post(body)) * 1e3 for _ in range(50)))
        print(f"{'POST /prompt, at most 50 queued':58} {'':9} {statistics.median(empty):9.1f}  ms")
        told(f"POST /prompt, {QUEUED} queued, the median of 50", medians, 10, "ms")


def chains(place: Path, rounds: int) -> None:
    with Served(place) as served:
        warm(served)

        def run(prompt: dict[str, Any]) -> float:
            body = body_of(prompt)
            return seconds(lambda: served.await_history(served.post(body))) * 1e3

        new, cached, leaf, short = [], [], [], []
        for turn in range(rounds):
            first = unused()
            new.append(run(chain(LENGTH, first=first)))
            cached.append(run(chain(LENGTH, first=first)))
            leaf.append(run(chain(LENGTH, first=first, last=turn + 1)))
            run(chain(10))
            short += [run(chain(10)) for _ in range(5)]
        told(f"{LENGTH} nodes, new, POST to /history", new, 200, "ms")
        told(f"{LENGTH} nodes, cached", cached, 60, "ms")
        told(f"{LENGTH} nodes, the last one changed", leaf, 70, "ms")
        told("10 nodes, cached", short, 8, "ms")


def thousand(place: Path, rounds: int) -> None:
    with Served(place) as served:
        warm(served)
        body = body_of(chain(10))
        rates = []
        for _ in range(rounds):

            def all_of_them() -> None:
                for _ in range(CACHED):
                    served.post(body)
                served.await_idle()

            rates.append(CACHED / seconds(all_of_them))
        told(f"{CACHED} jobs of a cached graph of 10 nodes", rates, 100, "jobs a second", at_least=True)


def watchers(place: Path, rounds: int) -> None:
    with Served(place) as served:
        warm(served)
        one = [asyncio.run(watch(served, 1)) for _ in range(rounds)]
        many = [asyncio.run(watch(served, WATCHERS)) for _ in range(rounds)]
        told(f"service with {WATCHERS} watchers", [rss for _, rss in many], 300, "MB")
        alone = min(latency for latency, _ in one)
        print(f"{'POST /prompt beside a job with one watcher':58} {alone:9.1f}  ms")
        told(f"POST /prompt beside a job with {WATCHERS}", [latency for latency, _ in many], 2 * alone, "ms")


def memory(place: Path, rounds: int) -> None:
    """Without rounds: it takes long, and what has grown stays.

    A hundred workflows again and again: all that a worker keeps of them by design is there before the first look.
    """
    with Served(place) as served:
        warm(served)
        pids = {"service": served.pid, "worker": served.worker}
        before: dict[str, float] = {}
        for count in range(IN_A_ROW):
            if count == SETTLED:
                before = {name: resident_mb(pid) for name, pid in pids.items()}
            served.await_history(served.submit(chain(10, first=count % 100)))
        for name, pid in pids.items():
            grown = 100 * (resident_mb(pid) / before[name] - 1)
            told(f"{name} grown from {before[name]:.1f} MB, jobs {SETTLED} to {IN_A_ROW}", [grown], 2, "%")


# what they share


def warm(served: Served) -> None:
    """The worker is up, and has done what it does once."""
    served.first_answer("/object_info")
    for _ in range(3):
        served.await_history(served.submit(chain(10)))


async def watch(served: Served, count: int) -> tuple[float, float]:
    """Have ``count`` clients watch a job. Returns the median POST meanwhile in ms, and the service's memory after it in MB.

    Raises ``SystemExit`` when one of them was not told of everything.
    """
    with served.held():
        job = served.submit(chain(BUSY, first=unused()), "watched")
        clients = await asyncio.gather(*(subscribed(served, job) for _ in range(count)))
    latencies: list[float] = []
    is_over = threading.Event()
    posting = asyncio.create_task(asyncio.to_thread(post_meanwhile, served, is_over, latencies))
    heard = await asyncio.gather(*(events_to_the_end(client) for client in clients))
    is_over.set()
    await posting
    rss = resident_mb(served.pid)
    await asyncio.gather(*(client.close() for client in clients))
    served.await_history(job)
    check_complete([numbers(frames) for frames in heard])
    served.await_idle()
    return statistics.median(latencies), rss


async def subscribed(served: Served, job: str) -> ClientConnection:
    client = await connect(
        f"ws://127.0.0.1:{served.port}/v1/stream", compression=None, open_timeout=60, ping_interval=None
    )
    await client.send(msgpack.packb({"op": "subscribe", "id": 1, "job": job, "after": 0}))
    while msgpack.unpackb(await client.recv())["op"] != "subscribed":
        pass
    return client


async def events_to_the_end(client: ClientConnection) -> list[bytes]:
    """The frames up to the one that says the job has ended; read later, for the time it takes to read is not the service's."""
    frames: list[bytes] = []
    while not frames or b"job_finished" not in frames[-1]:
        frame = await client.recv()
        assert isinstance(frame, bytes)
        frames.append(frame)
    return frames


def post_meanwhile(served: Served, is_over: threading.Event, latencies: list[float]) -> None:
    body = body_of(chain(10))
    while not is_over.is_set() or not latencies:
        latencies.append(seconds(lambda: served.post(body)) * 1e3)
        time.sleep(0.02)


def numbers(frames: list[bytes]) -> list[int]:
    """The numbers of the events in frames."""
    unpacked = (msgpack.unpackb(frame) for frame in frames)
    return [event[0] for frame in unpacked if frame["op"] == "events" for event in frame["events"]]


def check_complete(heard: list[list[int]]) -> None:
    if any(one != heard[0] for one in heard) or len(heard[0]) < BUSY or heard[0] != sorted(set(heard[0])):
        raise SystemExit(f"expected every client to hear all, found {sorted({len(one) for one in heard})} events")


CASES: Final[dict[str, Callable[[Path, int], None]]] = {
    "start": start,
    "queue": queue,
    "chain": chains,
    "thousand": thousand,
    "watchers": watchers,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"some of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    unknown = [case for case in asked.cases if case not in CASES]
    if unknown:
        parser.error(f"expected cases among {', '.join(CASES)}, found {unknown[0]}")
    print(f"{'':58} {'best':>9} {'median':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for case in asked.cases or CASES:
            CASES[case](Path(folder) / case, asked.rounds)


if __name__ == "__main__":
    main()
