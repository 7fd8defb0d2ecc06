"""Runs that watch what nodes do to their inputs, that end with the first failure, and what values sockets take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from engine.errors import DefinitionError
from engine.graph.graph import Call, Graph, NodeId
from engine.run import events
from engine.run.executor import Run
from engine.run.invoke import interpret
from engine.run.results import Blocked, Outputs
from engine.spec import NodeSpec, Output, Socket, node
from engine.types import VALUE_CHECKS
from nodes.checks import CHECKS
from tests.engine.run.toolbox import Array, Calls, Listener, graph, ids, make_executor

# watch_inputs


@node("Whiten", category="test", outputs=[Output("ARRAY")])
def whiten(array: Array) -> Any:
    """Writes where it should copy."""
    array[:] = 1
    return array


@node("Brighten", category="test", outputs=[Output("ARRAY")])
def brighten(array: Array) -> Any:
    """Copies before it writes."""
    copy = array.copy()
    copy += 1
    return copy


@node("Latent", category="test", outputs=[Output("LATENT")])
def latent() -> Any:
    """A value with another in it."""
    return {"samples": np.zeros(3), "names": ["a"]}


@node("Rename", category="test", outputs=[Output("INT")])
def rename(latent: Annotated[Any, Socket("LATENT")], how: str = "append") -> int:
    """Changes something deep in its input."""
    if how == "append":
        latent["names"].append("b")
    if how == "write":
        latent["samples"][1] = 5
    if how == "pop":
        latent.pop("samples")
    return 1


@node("RenameLater", category="test", outputs=[Output("INT")])
async def rename_later(latent: Annotated[Any, Socket("LATENT")]) -> int:
    """The same, from an async function."""
    await asyncio.sleep(0)
    latent["names"].append("b")
    return 1


def _watched(tmp_path: Path, run: Graph, *, watch: bool = True) -> Any:
    registry = Calls().registry(whiten, brighten, latent, rename, rename_later)
    return make_executor(registry, tmp_path).run_sync(Run(run, watch_inputs=watch))


WHITENED = graph(
    r=("Ramp", {"size": 3}), w=("Whiten", {"array": "r/0"}), t=("Sum", {"array": "w/0"}), s=("Show", {"value": "t/0"})
)


def test_a_node_that_changes_its_input_is_found_and_named(tmp_path: Path) -> None:
    """It fails instead of spoiling what others are given."""
    result = _watched(tmp_path, WHITENED)
    assert (result.status, result.ui) == ("failed", {})
    assert [str(failure) for failure in result.failures] == [
        "node w (Whiten): changed its input array, which other nodes are given too; it must copy before it writes"
    ]


def test_nobody_looks_where_the_run_does_not_ask(tmp_path: Path) -> None:
    """Without ``watch_inputs`` the same run succeeds."""
    result = _watched(tmp_path, WHITENED, watch=False)
    assert (result.status, result.ui) == ("succeeded", {"s": {"text": ["3"]}})


def test_a_node_that_copies_is_left_alone(tmp_path: Path) -> None:
    """Watching changes nothing for those who behave."""
    result = _watched(tmp_path, WHITENED.with_call("w", Call("Brighten", WHITENED["w"].inputs)))
    assert (result.status, result.ui) == ("succeeded", {"s": {"text": ["6"]}})


@pytest.mark.parametrize(
    "inputs", [{"how": "append"}, {"how": "write"}, {"how": "pop"}, None], ids=["list", "array", "dict", "async"]
)
def test_changes_deep_in_an_input_are_found_too(inputs: dict[str, Any] | None, tmp_path: Path) -> None:
    """A list, an array or a key inside of a dict; from sync and async functions."""
    run = graph(
        x=("Latent", {}),
        n=("RenameLater" if inputs is None else "Rename", {"latent": "x/0", **(inputs or {})}),
        s=("Show", {"value": "n/0"}),
    )
    assert [
        (failure.node, "changed its input latent" in failure.reason) for failure in _watched(tmp_path, run).failures
    ] == [("n", True)]


# stop_on_failure

TWO_BRANCHES = graph(
    f=("Fail", {"value": 1}), x=("Show", {"value": "f/0"}), a=("Const", {"value": 3}), y=("Show", {"value": "a/0"})
)


def test_the_first_failure_ends_a_run_that_says_so(tmp_path: Path) -> None:
    """It has failed, was not cancelled, and the branch that was to come never runs."""
    calls, listener = Calls(), Listener()
    result = make_executor(calls.registry(), tmp_path).run_sync(Run(TWO_BRANCHES, stop_on_failure=True), listener)
    assert (result.status, result.ui, [failure.node for failure in result.failures]) == ("failed", {}, ["f"])
    assert calls.log == [("Fail", 1)]
    assert listener.events[-1] == events.JobFinished(result.job, "failed")


def test_other_runs_go_on_after_a_failure(tmp_path: Path) -> None:
    """The counterpart: the other branch comes to its end."""
    calls = Calls()
    result = make_executor(calls.registry(), tmp_path).run_sync(Run(TWO_BRANCHES))
    assert (result.status, result.ui) == ("failed", {"y": {"text": ["3"]}})
    assert calls.log == [("Fail", 1), ("Const", 3), ("Show", 3)]


async def test_a_failure_ends_async_nodes_that_are_under_way(tmp_path: Path) -> None:
    """One waits for ever; when the other fails it is cancelled where it waits."""
    waiting, ended = asyncio.Event(), list[str]()

    @node("Forever", category="test", outputs=[Output("INT")])
    async def forever() -> int:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("forever")
        return 1

    @node("FailLater", category="test", outputs=[Output("INT")])
    async def fail_later() -> int:
        await waiting.wait()
        raise ValueError("enough")

    executor = make_executor(Calls().registry(forever, fail_later), tmp_path)
    run = Run(Graph({"x": Call("Forever"), "y": Call("FailLater")}), targets=ids("x", "y"), stop_on_failure=True)
    async with asyncio.timeout(30):
        result = await executor.run(run)
    assert (result.status, [str(failure) for failure in result.failures], ended) == (
        "failed",
        ["node y (FailLater): ValueError: enough"],
        ["forever"],
    )


def test_a_run_that_stops_on_failure_succeeds_where_nothing_fails(tmp_path: Path) -> None:
    """The option alone changes nothing."""
    run = Run(graph(a=("Const", {"value": 3}), y=("Show", {"value": "a/0"})), stop_on_failure=True)
    result = make_executor(Calls().registry(), tmp_path).run_sync(run)
    assert (result.status, result.ui) == ("succeeded", {"y": {"text": ["3"]}})


# what values sockets take

_ARRAY = np.zeros((1, 2, 2, 3), np.float32)

RIGHT: list[tuple[str, list[Any]]] = [
    ("INT", [0, True, 1.5, np.int64(3), np.float32(2)]),
    ("FLOAT", [0, 1.5, True, np.float32(2), np.int8(1)]),
    ("BOOLEAN", [True, False, 0, 1, "", "no", []]),
    ("STRING", ["", "text"]),
    ("IMAGE", [_ARRAY, _ARRAY.astype(np.float16)]),
    ("MASK", [_ARRAY[0], _ARRAY[0, 0], _ARRAY]),
    ("LATENT", [{"samples": _ARRAY}, {"samples": _ARRAY, "noise_mask": None}]),
    ("CONDITIONING", [[], [[_ARRAY, {}]], [(_ARRAY, {})], ([_ARRAY, {}],)]),
    ("SIGMAS", [np.zeros(3)]),
]
WRONG: list[tuple[str, Any, str]] = [
    ("INT", "1", "a whole number, found a str"),
    ("INT", None, "a whole number, found a NoneType"),
    ("INT", [1], "a whole number, found a list"),
    ("INT", {"samples": 1}, "a whole number, found a dict"),
    ("FLOAT", "1.0", "a number, found a str"),
    ("FLOAT", None, "a number, found a NoneType"),
    ("BOOLEAN", None, "true or false, found None"),
    ("STRING", None, "a text, found a NoneType"),
    ("STRING", 1, "a text, found a int"),
    ("STRING", b"text", "a text, found a bytes"),
    ("IMAGE", _ARRAY[0], "float32 [B,H,W,C] in 0..1, found float32 of shape [2, 2, 3]"),
    ("IMAGE", _ARRAY.astype(np.uint8), "float32 [B,H,W,C] in 0..1, found uint8 of shape [1, 2, 2, 3]"),
    ("IMAGE", [_ARRAY], "float32 [B,H,W,C] in 0..1, found a list"),
    ("IMAGE", None, "float32 [B,H,W,C] in 0..1, found a NoneType"),
    ("MASK", np.zeros(3), "float32 [B,H,W] in 0..1, found float64 of shape [3]"),
    ("MASK", "mask", "float32 [B,H,W] in 0..1, found a str"),
    ("LATENT", _ARRAY, "a dict with a tensor named samples, found float32 of shape [1, 2, 2, 3]"),
    ("LATENT", {"sample": _ARRAY}, "a dict with a tensor named samples, found a dict"),
    ("LATENT", {"samples": [1]}, "a dict with a tensor named samples, found a dict"),
    ("CONDITIONING", [_ARRAY], "a list of [tensor, dict], found a list"),
    ("CONDITIONING", [[_ARRAY]], "a list of [tensor, dict], found a list"),
    ("CONDITIONING", _ARRAY, "a list of [tensor, dict], found float32 of shape [1, 2, 2, 3]"),
    ("SIGMAS", _ARRAY, "float32 [steps+1], found float32 of shape [1, 2, 2, 3]"),
    ("SIGMAS", 1.0, "float32 [steps+1], found a float"),
]

ALL = {**VALUE_CHECKS, **CHECKS}


def _makes(type_: str, *, is_list: bool = False, pack: str | None = None) -> NodeSpec:
    @node("Makes", category="test", outputs=[Output(type_, "out", is_list=is_list)])
    def makes() -> Any: ...

    return replace(makes, pack=pack)


@pytest.mark.parametrize(("type_", "values"), RIGHT)
@pytest.mark.parametrize("pack", [None, "some_pack"])
def test_values_of_a_type_pass(type_: str, values: list[Any], pack: str | None) -> None:
    """Whatever a consumer can use, alone and in a list."""
    for value in values:
        assert interpret(_makes(type_, pack=pack), (value,), ALL) == Outputs((value,))
    listed = interpret(_makes(type_, is_list=True, pack=pack), (values,), ALL)
    assert isinstance(listed, Outputs)
    assert listed.values[0] is values


@pytest.mark.parametrize(("type_", "value", "message"), WRONG)
@pytest.mark.parametrize("is_list", [False, True])
def test_other_values_are_told_by_what_was_expected_and_found(
    type_: str, value: Any, message: str, is_list: bool
) -> None:
    """The output is named; one wrong element spoils a list."""
    returned = ([value],) if is_list else (value,)
    with pytest.raises(DefinitionError) as raised:
        interpret(_makes(type_, is_list=is_list), returned, ALL)
    assert str(raised.value) == f"output out is declared {type_}; expected {message}"


@pytest.mark.parametrize("type_", sorted(ALL))
def test_none_passes_from_packs_and_not_from_our_own(type_: str) -> None:
    """Packs return None for outputs they have nothing for; another wrong value of theirs fails."""
    assert interpret(_makes(type_, pack="some_pack"), (None,), ALL) == Outputs((None,))
    assert interpret(_makes(type_, is_list=True, pack="some_pack"), ([None],), ALL) == Outputs(([None],))
    with pytest.raises(DefinitionError, match=f"output out is declared {type_}"):
        interpret(_makes(type_), (None,), ALL)


def test_anything_passes_for_a_text_of_packs() -> None:
    """Some return a list of texts, and what takes it makes a text of it."""
    assert interpret(_makes("STRING", pack="some_pack"), (["a", "b"],), ALL) == Outputs((["a", "b"],))


@pytest.mark.parametrize(
    ("type_", "value"), [(type_, value) for type_, value, _ in WRONG if value is not None and type_ != "STRING"]
)
def test_what_is_wrong_is_wrong_from_packs_as_well(type_: str, value: Any) -> None:
    """Being lenient ends with None and texts."""
    with pytest.raises(DefinitionError, match="expected"):
        interpret(_makes(type_, pack="some_pack"), (value,), ALL)


@pytest.mark.parametrize("type_", sorted(ALL))
def test_blocked_values_pass(type_: str) -> None:
    """Alone, in a list, and in place of a list."""
    for is_list, value in ((False, Blocked()), (True, [Blocked("no")]), (True, Blocked())):
        assert interpret(_makes(type_, is_list=is_list), Outputs((value,)), ALL) == Outputs((value,))


def test_a_type_nobody_checks_takes_anything() -> None:
    """Packs have types of their own."""
    for value in (None, 1, "x", object()):
        assert interpret(_makes("THEIR_TYPE"), Outputs((value,)), ALL) == Outputs((value,))


def test_a_wrong_value_fails_its_node_and_what_needs_it(tmp_path: Path) -> None:
    """In a run: the message names the node that made the value, not the one that would have tripped over it."""

    @node("Liar", category="test", outputs=[Output("INT")])
    def liar() -> Any:
        return "one"

    run = graph(x=("Liar", {}), y=("Add", {"a": "x/0"}), s=("Show", {"value": "y/0"}))
    result = make_executor(Calls().registry(liar), tmp_path).run_sync(Run(run))
    assert [str(failure) for failure in result.failures] == [
        "node x (Liar): output INT is declared INT; expected a whole number, found a str"
    ]
    assert result.ran == ()


@pytest.mark.parametrize(
    ("make", "is_taken"),
    [
        (lambda size: {"text": ["x" * size]}, True),
        (lambda size: {"text": ["x" * (size + 1)]}, False),
        (lambda size: {"a": ["x" * (size // 2)], "b": [{"deep": "y" * (size // 2 + 10)}]}, False),
    ],
)
def test_ui_data_has_a_limit(make: Callable[[int], dict[str, Any]], is_taken: bool, tmp_path: Path) -> None:
    """32 MiB over all lists of a node; beyond it the node fails and says what to do."""

    @node("Talk", category="test", output_node=True)
    def talk() -> Outputs:
        return Outputs(ui=make((32 << 20) - len("text")))

    result = make_executor(Calls().registry(talk), tmp_path).run_sync(Run(Graph({"t": Call("Talk")})))
    if is_taken:
        assert len(result.ui[NodeId("t")]["text"][0]) == (32 << 20) - len("text")
    else:
        assert [str(failure) for failure in result.failures] == [
            "node t (Talk): returned 32 MiB of ui data, at most 32 are taken; save a file and name it instead"
        ]
