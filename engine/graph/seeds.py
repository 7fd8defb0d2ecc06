"""Seeds that change from run to run, as an editor changes them after it has queued a workflow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from engine.graph.graph import Call, Graph, Link, NodeId
from engine.registry import Registry
from engine.spec import InputSpec
from engine.types import INT

Control = Literal["fixed", "increment", "decrement", "randomize"]
CONTROLS: Final[tuple[Control, ...]] = ("fixed", "increment", "decrement", "randomize")

DRAWN_BITS: Final = 53
"""Drawn seeds stay below 2**53: an editor keeps numbers as doubles, and a larger one would come back changed."""


@dataclass(frozen=True, slots=True)
class SeedInput:
    """A literal input of a graph that holds a seed."""

    node: NodeId
    input: str
    control: Control = "fixed"
    widget: str = ""
    """What holds the value in the editor. Inputs with one widget have one value (a primitive, a subgraph's own
    seed)."""


def is_seed(spec: InputSpec) -> bool:
    """Whether an editor puts a control beside the input."""
    return spec.seed or (spec.type == INT and spec.name in ("seed", "noise_seed"))


def seed_inputs(graph: Graph, registry: Registry) -> tuple[SeedInput, ...]:
    """The seeds of a graph that came without an editor: every one that is a literal, each by itself."""
    return tuple(
        SeedInput(node, spec.name, widget=f"{node}.{spec.name}")
        for node, call in graph.items()
        if call.type in registry
        for spec in registry[call.type].inputs
        if is_seed(spec) and spec.name in call.inputs and not isinstance(call.inputs[spec.name], Link)
    )


def randomized(seeds: Iterable[SeedInput]) -> tuple[SeedInput, ...]:
    """The same seeds, all to be drawn anew."""
    return tuple(replace(seed, control="randomize") for seed in seeds)


def seed_of(graph: Graph, seeds: Iterable[SeedInput]) -> int:
    """One number for all seeds of a graph: the same seeds, the same number; 0 for a graph that has none."""
    values = [graph[seed.node].inputs.get(seed.input) for seed in seeds if seed.node in graph]
    number = 0
    for value in values:
        number = (number * 1_000_003 + (value if isinstance(value, int) else 0)) % 2**64
    return number


def next_seeds(graph: Graph, seeds: Iterable[SeedInput], registry: Registry, draw: Callable[[int], int]) -> Graph:
    """The graph with every seed as its control has it after a run.

    ``draw(n)`` gives a number from 0 up to but not including n (``random.Random(seed).randrange``). Increments stop
    at the end of the input's range, as they do in an editor.
    """
    values: dict[str, int] = {}
    calls: dict[NodeId, Call] = {}
    for seed in seeds:
        call = calls.get(seed.node) or graph.get(seed.node)
        value = call.inputs.get(seed.input) if call else None
        if call is None or seed.control == "fixed" or not isinstance(value, int):
            continue
        low, high = _range(registry, call, seed.input)
        if seed.widget not in values:
            values[seed.widget] = _after(seed.control, value, low, high, draw)
        calls[seed.node] = call.with_inputs(**{seed.input: min(max(values[seed.widget], low), high)})
    return Graph({**graph, **calls})


def _after(control: Control, value: int, low: int, high: int, draw: Callable[[int], int]) -> int:
    if control == "randomize":
        first = max(low, 0)
        return first + draw(max(1, min(high, 2**DRAWN_BITS - 1) - first + 1))
    return value + {"fixed": 0, "increment": 1, "decrement": -1}[control]


def _range(registry: Registry, call: Call, name: str) -> tuple[int, int]:
    spec = registry[call.type].input(name) if call.type in registry else None
    if spec is None or spec.range is None:
        return 0, 2**64 - 1
    return int(spec.range.min), int(spec.range.max)
