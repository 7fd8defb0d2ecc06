"""What graphs cost that decide while they run: loops by expansion, async nodes, lazy branches.

    python -m benchmarks.dynamic [ROUNDS]

Prints the median and the best of several rounds, in one process: a loop of 1,000 turns by expansion, each of three nodes, the turn that
makes the next among them; the same number of turns between LoopStart and LoopEnd, with a condition asked after each; ten async nodes
that sleep half a second each; and a graph of 20,000 nodes, one in a hundred of which has a lazy branch that nobody asks for, beside the
same graph without lazy inputs.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import nodes
from benchmarks.chain import NoFiles, add, show
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.executor import Executor, Run
from engine.run.outputs import OutputFolder
from engine.run.results import Demand, Expand
from engine.spec import Lazy, Output, node

TURNS = 1_000
LENGTH = 20_000
EVERY = 100


@node("Turn", category="benchmark", outputs=[Output("INT")], expands=True)
def turn(value: int, left: int) -> Any:
    """``left`` further turns: each adds one, takes one off, and becomes the next."""
    if left == 0:
        return value
    calls = {
        "value": Call("Add", {"a": value, "b": 1}),
        "left": Call("Add", {"a": left, "b": -1}),
        "next": Call("Turn", {"value": Link(NodeId("value"), 0), "left": Link(NodeId("left"), 0)}),
    }
    return Expand(Graph(calls), (Link(NodeId("next"), 0),))


@node("Sleep", category="benchmark", outputs=[Output("INT")])
async def sleep(number: int) -> int:
    """Half a second."""
    await asyncio.sleep(0.5)
    return number


@node("Pick", category="benchmark", outputs=[Output("INT")])
def pick(first: int, a: Annotated[int | None, Lazy()] = None, b: Annotated[int | None, Lazy()] = None) -> Any:
    """``a`` if ``first`` is not 0."""
    wanted = a if first else b
    return Demand(frozenset({"a" if first else "b"})) if wanted is None else wanted


@node("Sum", category="benchmark", outputs=[Output("INT")])
def total(**values: int) -> int:
    """Of all inputs."""
    return sum(values.values())


def loop() -> Graph:
    return Graph({"1": Call("Turn", {"value": 0, "left": TURNS}), "2": Call("Show", {"value": Link(NodeId("1"), 0)})})


def conditional_loop() -> Graph:
    """The same with the nodes a user has: add one, compare, go on."""
    start, total, less = (NodeId(name) for name in ("start", "total", "less"))
    return Graph(
        {
            "start": Call("LoopStart", {"initial": 0}),
            "total": Call("MathExpression", {"expression": "a + 1", "a": Link(start, 3)}),
            "less": Call("Compare", {"a": Link(total, 0), "b": TURNS, "operator": "<"}),
            "end": Call("LoopEnd", {"loop": Link(start, 0), "carried": Link(total, 0), "go_on": Link(less, 0)}),
            "out": Call("Show", {"value": Link(NodeId("end"), 0)}),
        }
    )


def sleepers(count: int) -> Graph:
    calls = {str(index): Call("Sleep", {"number": index}) for index in range(count)}
    calls["sum"] = Call("Sum", {f"value{index}": Link(NodeId(str(index)), 0) for index in range(count)})
    calls["out"] = Call("Show", {"value": Link(NodeId("sum"), 0)})
    return Graph(calls)


def chain(*, lazy: bool) -> Graph:
    """A chain; every hundredth node picks between the chain and a branch, lazily, or stands on the chain alone."""
    calls: dict[str, Call] = {"0": Call("Add", {"a": 0})}
    index = 1
    while index < LENGTH - 1:
        before = Link(NodeId(str(index - 1)), 0)
        if index % EVERY == 0 and lazy:
            calls[f"branch{index}"] = Call("Add", {"a": before, "b": 7})
            calls[str(index)] = Call("Pick", {"first": 1, "a": before, "b": Link(NodeId(f"branch{index}"), 0)})
        else:
            calls[str(index)] = Call("Add", {"a": before, "b": 1})
        index += 1
    calls["out"] = Call("Show", {"value": Link(NodeId(str(index - 1)), 0)})
    return Graph(calls)


class Bench:
    """An executor with a cache in memory, emptied before each measurement."""

    def __init__(self, folder: Path) -> None:
        self.cache = OutputCache()
        outputs = OutputFolder(folder / "output", folder / "temp")
        registry = Registry([add, show, turn, sleep, pick, total])
        nodes.register(registry)
        self.executor = Executor(registry, files=NoFiles(), cache=self.cache, outputs=outputs, numerics="none")

    async def measure(self, graph: Graph) -> float:
        """Seconds."""
        self.cache.clear()
        gc.collect()
        began = time.perf_counter()
        result = await self.executor.run(Run(graph))
        took = time.perf_counter() - began
        if result.status != "succeeded":
            raise SystemExit(f"did not succeed: {result.failures}")
        return took


def told(name: str, took: list[float], limit: str) -> None:
    print(f"{name:48} {statistics.median(took):7.3f} {min(took):7.3f}  {limit}")


async def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        await bench.measure(sleepers(1))  # imports and first calls
        print(f"{'':48} {'median':>7} {'best':>7}  s")
        told(f"{TURNS} turns of three nodes", [await bench.measure(loop()) for _ in range(rounds)], "at most 1.0")
        told(f"{TURNS} turns with a condition", [await bench.measure(conditional_loop()) for _ in range(rounds)], "")
        told("10 async nodes of 0.5 s", [await bench.measure(sleepers(10)) for _ in range(3)], "at most 0.7")
        plain, lazy = [], []
        for _ in range(rounds):
            plain.append(await bench.measure(chain(lazy=False)))
            lazy.append(await bench.measure(chain(lazy=True)))
        told(f"{LENGTH} nodes", plain, "")
        told(f"{LENGTH} nodes, 1 % with a lazy branch", lazy, "at most 1.1 times the one before")
        ratios = [second / first for first, second in zip(plain, lazy, strict=True)]
        print(f"ratio, the median of {rounds} pairs: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
