"""What goes between the processes comes out as it went in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import NodeFailed
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.jobs.messages import (
    WorkerSettings,
    event_from_plain,
    event_to_plain,
    job_to_plain,
    receive,
    result_from_plain,
    result_to_plain,
    run_from_plain,
    run_to_plain,
    send,
)
from engine.jobs.records import Payload
from engine.run import events
from engine.run.request import Limits, Run, RunResult
from engine.run.settings import DeviceSettings

Ends = tuple[Connection, Connection]


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    """Two ends of a pipe."""
    one, other = Pipe()
    with one, other:
        yield one, other


def _through(ends: Ends, value: Any) -> Any:
    send(ends[0], {"value": value})
    return receive(ends[1])["value"]


TEXT = st.text(st.characters(), max_size=8)  # with lone surrogates, which JSON and names of files may hold
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers(), inner, max_size=3),
    max_leaves=10,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@given(value=PLAIN)
def test_plain_values_come_out_as_they_went_in(value: Any, ends: Ends) -> None:
    """Types too, integers of any size, and texts that are no Unicode."""
    again = _through(ends, value)
    assert again == value
    assert repr(again) == repr(value)


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ((1, (2,)), [1, [2]]),
        ({(1, ("a", 2)): 3}, {(1, ("a", 2)): 3}),
        ({frozenset({4}): 3}, {(4,): 3}),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array([7]), 7),
        (np.bool_(True), True),
        ({5}, [5]),
        (Path("/a/b"), "/a/b"),
        (np.array([1, 2]), "[1 2]"),
        (Call("A", {"x": 1}).inputs, {"x": 1}),
        (-(2**64), -(2**64)),
        (2**64, 2**64),
        (10**400, 10**400),
    ],
)
def test_odd_values_come_out_as_what_is_nearest(value: Any, sent: Any, ends: Ends) -> None:
    """What nodes put into their ui data must not keep the rest of it back."""
    assert _through(ends, {"ui": [value]}) == {"ui": [sent]}


def test_nothing_is_left_to_read_when_the_other_end_is_gone() -> None:
    """Reading says so, and so does writing."""
    one, other = Pipe()
    one.close()
    with pytest.raises(EOFError):
        receive(other)
    with pytest.raises(OSError, match="Broken pipe"):
        send(other, {})
    other.close()


N, S = NodeId("9.\ud800"), NodeId("9")
EVENTS: list[events.Event] = [
    events.JobQueued("j"),
    events.JobStarted("j", 3),
    events.NodeCached("j", N, S, "disk", {"text": ["a"]}),
    events.NodeStarted("j", N, S, "KSampler"),
    events.NodeProgress("j", N, S, 1, 20),
    events.NodePreview("j", N, S, b"\xff\xd8", is_result=True),
    events.NodeExpanded("j", N, S, (NodeId("9.1"), NodeId("9.2"))),
    events.NodeBlocked("j", N, S, "Show", "why"),
    events.NodeMessage("j", N, S, "pack.event", {"a": [1, None, b"x"]}, "editor"),
    events.NodeBytes("j", N, S, 1, b"\0\xff", "editor"),
    events.NodeCheckpointed("j", NodeId("1"), NodeId("1"), "place"),
    events.NodeWarning("j", N, S, "careful"),
    events.NodeFinished("j", N, S, 0.25, {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}),
    events.NodeFailed("j", N, S, "KSampler", "no good", "steps", "some_pack"),
    events.JobFinished("j", "failed"),
]


def test_there_is_an_example_of_every_event() -> None:
    """A kind that is added is sent too."""
    assert {type(event) for event in EVENTS} == set(get_args(events.Event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_come_out_as_they_went_in(event: events.Event, ends: Ends) -> None:
    """Field by field, whatever the kind."""
    again = event_from_plain(_through(ends, event_to_plain(event)))
    assert type(again) is type(event)
    for entry in fields(event):
        one, other = getattr(event, entry.name), getattr(again, entry.name)
        assert (list(other) if isinstance(one, tuple) else other) == (list(one) if isinstance(one, tuple) else one)


VALUES = JSON.filter(lambda value: not isinstance(value, dict) or "__value__" not in value)
CALLS = st.builds(
    Call,
    TEXT,
    st.dictionaries(TEXT, VALUES | st.builds(Link, TEXT.map(NodeId), st.integers(0, 3)), max_size=3),
    st.none() | TEXT,
)


@given(calls=st.dictionaries(TEXT, CALLS, max_size=4), metadata=st.dictionaries(TEXT, JSON, max_size=2))
def test_runs_come_out_as_they_went_in(calls: dict[str, Call], metadata: dict[str, Any], ends: Ends) -> None:
    """Graphs with integers beyond 64 bits, odd texts, lists that look like links, and what files are to carry."""
    run = Run(Graph(calls), metadata=metadata)
    again = run_from_plain(_through(ends, run_to_plain(run)))
    assert dict(again.graph) == dict(run.graph)
    assert repr(dict(again.graph)) == repr(dict(run.graph))
    assert repr(again.metadata) == repr(run.metadata)
    assert (again.job, again.targets) == (run.job, None)


def test_every_option_of_a_run_is_carried(ends: Ends) -> None:
    """Each differs from its default; what cannot be carried is refused elsewhere."""
    run = Run(
        Graph({"a": Call("A", {"seed": 2**70, "share": math.inf})}),
        targets=(NodeId("a"),),
        metadata={"prompt": {"a": 1}},
        job="j",
        client="c",
        use_cache=False,
        resume=False,
        previews=True,
        stop_on_failure=True,
        watch_inputs=True,
        claims_files=True,
        limits=Limits(nodes=7, depth=8),
    )
    usual = Run(Graph())
    again = run_from_plain(_through(ends, run_to_plain(run)))
    for entry in fields(Run):
        if entry.name not in ("graph", "keep"):
            assert getattr(run, entry.name) != getattr(usual, entry.name), entry.name
            assert getattr(again, entry.name) == getattr(run, entry.name), entry.name
    assert again.graph["a"].inputs == {"seed": 2**70, "share": math.inf}


def test_a_stored_job_is_the_run_that_was_asked_for(ends: Ends) -> None:
    """Its graph, and in its files the workflow as it was posted, beside what the client wants in them."""
    prompt = {"a": {"class_type": "A", "inputs": {"seed": 2**70, "from": ["b", 1]}, "_meta": {"title": "T"}}}
    extra = {"extra_pnginfo": {"workflow": {"nodes": []}}, "client_id": "c"}
    payload = Payload(prompt, ("a",), extra, {}, use_cache=False, stop_on_failure=True)
    run = run_from_plain(_through(ends, job_to_plain("j", payload)))
    assert run.graph == Graph({"a": Call("A", {"seed": 2**70, "from": Link(NodeId("b"), 1)}, "T")})
    assert run.metadata == {"prompt": prompt, "workflow": {"nodes": []}}
    assert (run.job, run.client, run.targets, run.use_cache, run.stop_on_failure) == ("j", "c", ("a",), False, True)
    assert (run.previews, run.claims_files) == (True, True)


def test_results_come_out_as_they_went_in(ends: Ends) -> None:
    """With their failures, but for the values, which stay where they are."""
    failure = NodeFailed("9.1", "KSampler", "no good", input="steps", shown="9", pack="some_pack")
    result = RunResult(
        job="j",
        status="failed",
        ui={NodeId("9"): {"text": ["a"], "n": [2**70]}},
        failures=(failure,),
        ran=(NodeId("9"),),
        cached=(NodeId("8"),),
        values={NodeId("9"): ((1,),)},
        inner={NodeId("9.1"): NodeId("9")},
    )
    again = result_from_plain(_through(ends, result_to_plain(result)))
    for entry in fields(RunResult):
        if entry.name not in ("failures", "values"):
            assert getattr(again, entry.name) == getattr(result, entry.name), entry.name
    assert again.values == {}
    assert [vars(one) for one in again.failures] == [vars(failure)]
    assert [str(one) for one in again.failures] == [str(failure)]


def test_settings_of_a_worker_come_out_as_they_went_in() -> None:
    """Each differs from its default."""
    settings = WorkerSettings(
        models=(Path("m"), Path("/n\udcff")),
        input=Path("i"),
        output=Path("o"),
        temp=Path("t"),
        state=Path("s"),
        extra_model_paths=Path("extra.yaml"),
        custom_nodes=(Path("c"),),
        skip={"pack": "why"},
        device=DeviceSettings(device="cpu", dtype="float16", vram_budget="80%", noise_device="cpu"),
    )
    assert WorkerSettings.from_json(settings.to_json()) == settings
    plain = WorkerSettings(models=(), input=Path("i"), output=Path("o"), temp=Path("t"), state=Path("s"))
    assert WorkerSettings.from_json(plain.to_json()) == plain
