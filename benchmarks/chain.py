"""What the engine itself costs: chains of nodes that do next to nothing.

    python -m benchmarks.chain [ROUNDS]

Prints the median and the best of several rounds, in one process: a chain of 500 nodes cold, with everything known, and with its last
node changed; and the time per node for chains from 100 to 20,000 nodes. CPU time is beside the wall's, which on a busy machine says
more about the others.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.fileref import FileRef
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.executor import Executor, Run
from engine.run.outputs import OutputFolder
from engine.run.results import Outputs
from engine.spec import FileChoice, Output, node

LIMITS_MS = {"cold": 150.0, "cached": 15.0, "leaf changed": 20.0}
LENGTH = 500
LENGTHS = (100, 500, 2_000, 20_000)


@node("Add", category="benchmark", outputs=[Output("INT")])
def add(a: int = 0, b: int = 1) -> int:
    """One trivial node."""
    return a + b


@node("Show", category="benchmark", output_node=True)
def show(value: int) -> Outputs:
    """The output."""
    return Outputs(ui={"text": [str(value)]})


class NoFiles:
    """The chain names none."""

    def choices(self, choice: FileChoice) -> list[str]:
        return []

    def resolve(self, choice: FileChoice, name: str) -> Path:
        raise AssertionError("no node of the chain names a file")

    def ref(self, choice: FileChoice, name: str) -> FileRef:
        raise AssertionError("no node of the chain names a file")


@dataclass(frozen=True, slots=True)
class Took:
    """One measurement, in seconds."""

    wall: float
    cpu: float


def chain(length: int, last: int = 1) -> Graph:
    """``length`` nodes in a row; ``last`` is an input of the one before the output."""
    calls = {"0": Call("Add", {"a": 0})}
    for index in range(1, length - 1):
        step = last if index == length - 2 else 1
        calls[str(index)] = Call("Add", {"a": Link(NodeId(str(index - 1)), 0), "b": step})
    calls["out"] = Call("Show", {"value": Link(NodeId(str(length - 2)), 0)})
    return Graph(calls)


class Bench:
    """An executor with a cache in memory, used round after round."""

    def __init__(self, folder: Path) -> None:
        self.cache = OutputCache()
        outputs = OutputFolder(folder / "output", folder / "temp")
        self.executor = Executor(
            Registry([add, show]), files=NoFiles(), cache=self.cache, outputs=outputs, numerics="none"
        )

    async def measure(self, graph: Graph, expected: int) -> Took:
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        result = await self.executor.run(Run(graph))
        took = Took(time.perf_counter() - wall, time.process_time() - cpu)
        if result.status != "succeeded" or len(result.ran) != expected:
            raise SystemExit(f"expected {expected} nodes to run, {len(result.ran)} did ({result.status})")
        return took

    async def cases(self, rounds: int) -> dict[str, list[Took]]:
        found: dict[str, list[Took]] = {name: [] for name in LIMITS_MS}
        for turn in range(rounds):
            self.cache.clear()
            found["cold"].append(await self.measure(chain(LENGTH), LENGTH))
            found["cached"].append(await self.measure(chain(LENGTH), 0))
            found["leaf changed"].append(await self.measure(chain(LENGTH, last=turn + 2), 2))
        return found

    async def per_node(self, length: int, rounds: int) -> list[Took]:
        found = []
        for _ in range(rounds):
            self.cache.clear()
            took = await self.measure(chain(length), length)
            found.append(Took(took.wall / length, took.cpu / length))
        return found


def summary(took: list[Took], scale: float) -> str:
    def column(pick: Callable[[Took], float]) -> str:
        values = [pick(one) * scale for one in took]
        return f"{statistics.median(values):8.1f} {min(values):8.1f}"

    return f"{column(lambda one: one.wall)}  {column(lambda one: one.cpu)}"


async def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        await bench.per_node(100, 1)  # imports and first calls
        print(f"{'':24}{'wall':>8} {'':8}  {'cpu':>8}\n{'':24}{'median':>8} {'best':>8}  {'median':>8} {'best':>8}")
        for name, took in (await bench.cases(rounds)).items():
            print(f"{LENGTH} nodes, {name:12} {summary(took, 1e3)}  ms, at most {LIMITS_MS[name]:.0f}")
        for length in LENGTHS:
            print(
                f"{length:6} nodes, cold     {summary(await bench.per_node(length, max(3, rounds // 3)), 1e6)}  us a node"
            )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 9))
