"""Runs in a process of their own, and what becomes of them when a pack does what it should not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from engine.errors import MezzotintError, ResourceError, UsageError
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.graph.validate import validate
from engine.jobs.messages import WorkerSettings
from engine.jobs.process import WorkerDied, WorkerProcess
from engine.jobs.remote import RemoteExecutor
from engine.registry import Registry
from engine.run import events
from engine.run.cache import OutputCache
from engine.run.cancel import CancelToken
from engine.run.executor import Executor
from engine.run.outputs import OutputFolder
from engine.run.request import Run, RunResult
from tests.engine.run.toolbox import FolderFiles, Listener, graph, ids

TESTS = Path(__file__).parents[2]
PATIENCE = 30
"""Seconds after which what should have happened counts as never happening."""


def settings_of(root: Path, *packs: Path) -> WorkerSettings:
    """Folders below ``root``, and those packs alone."""
    folder = root / "packs"
    folder.mkdir()
    for pack in packs:
        (folder / pack.name).symlink_to(pack)
    return WorkerSettings(
        models=(root / "models",),
        input=root / "input",
        output=root / "output",
        temp=root / "temp",
        state=root / "state",
        custom_nodes=(folder,),
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> WorkerSettings:
    return settings_of(tmp_path_factory.mktemp("worker"), TESTS / "bad_packs/misbehaving", TESTS / "packs/loop_tools")


@pytest.fixture(scope="module")
def worker(places: WorkerSettings) -> Iterator[RemoteExecutor]:
    """One executor for most tests; those that end its process leave a new one to the next."""
    with RemoteExecutor(places) as executor:
        yield executor


def bad(type_: str, value: int = 3) -> Graph:
    """A node that misbehaves, and one that wants its value."""
    return graph(bad=(type_, {"value": value}), s=("PreviewAny", {"source": "bad/0"}))


FINE = graph(fine=("BP_Fine", {"value": 5}))


def is_well(worker: RemoteExecutor) -> bool:
    """Whether the next run works."""
    return worker.run_sync(Run(FINE)).ui == {"fine": {"text": ["5"]}}


def _gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(pid: int) -> bool:
    until = time.monotonic() + PATIENCE
    while not _gone(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return _gone(pid)


# runs


def test_a_run_comes_to_the_same_as_in_this_process(worker: RemoteExecutor, core: Registry, tmp_path: Path) -> None:
    """The same outputs, nodes and events of core nodes, and a failure with the same words."""
    run = graph(
        a=("PrimitiveInt", {"value": 2**63 - 1}),
        s=("PreviewAny", {"source": "a/0"}),
        x=("PrimitiveString", {"value": "\ud800 text"}),
        t=("PreviewAny", {"source": "x/0"}),
        f=("Unknown", {"value": 1}),
        u=("PreviewAny", {"source": "f/0"}),
    )
    here = Executor(
        core,
        files=FolderFiles(tmp_path),
        cache=OutputCache(),
        outputs=OutputFolder(tmp_path / "output", tmp_path / "temp"),
        numerics="test",
    )
    heard = Listener(), Listener()
    with here:
        one = here.run_sync(Run(run, job="j"), heard[0])
    other = worker.run_sync(Run(run, job="j"), heard[1])
    assert one.ui == other.ui == {"s": {"text": [str(2**63 - 1)]}, "t": {"text": ["\ud800 text"]}}
    assert (one.status, set(one.ran), one.cached) == (other.status, set(other.ran), other.cached)
    assert list(map(str, one.failures)) == list(map(str, other.failures)) != []

    def plain(listener: Listener) -> list[Any]:
        return sorted((type(event).__name__, getattr(event, "node", "")) for event in listener.events)

    assert plain(heard[0]) == plain(heard[1])


def test_events_come_in_order(worker: RemoteExecutor) -> None:
    """The job first and last, each node from start to finish, all of them by the time the result is there."""
    listener = Listener()
    run = graph(
        r=("LT_Range", {"count": 3, "start": 4}),
        m=("LT_IntMath", {"a": "r/0", "b": 10, "operation": "multiply"}),
        s=("LT_Show", {"value": "m/0"}),
    )
    result = worker.run_sync(Run(run, job="order"), listener)
    assert result.ui == {"s": {"text": ["40", "50", "60"]}}
    assert listener.events[0] == events.JobStarted("order", 3)
    assert listener.events[-1] == events.JobFinished("order", "succeeded")
    told = [(type(event).__name__, event.node) for event in listener.events[1:-1] if hasattr(event, "node")]
    assert told == [(kind, node) for node in "rms" for kind in ("NodeStarted", "NodeFinished")]


def test_what_is_known_is_not_computed_again_there(worker: RemoteExecutor) -> None:
    """The second run is served from the worker's memory."""
    run = Run(graph(m=("LT_IntMath", {"a": 17, "b": 4, "operation": "add"}), s=("LT_Show", {"value": "m/0"})))
    first, second = worker.run_sync(run), worker.run_sync(run)
    assert first.ui == second.ui == {"s": {"text": ["21"]}}
    assert (set(first.ran), second.ran, second.cached) == ({"m", "s"}, (), ids("s"))


def _loop(turns: int) -> Graph:
    """A loop of a pack's nodes that adds 2 each turn."""
    return graph(
        o=("LT_ForOpen", {"remaining": turns, "initial_value1": 1}),
        a=("LT_IntMath", {"a": "o/2", "b": 2, "operation": "add"}),
        c=("LT_ForClose", {"flow": "o/0", "initial_value1": "a/0"}),
        s=("LT_Show", {"value": "c/0"}),
    )


def test_a_pack_may_build_loops(worker: RemoteExecutor) -> None:
    """What its nodes became is in the result, and shown as nodes of the workflow."""
    listener = Listener()
    result = worker.run_sync(Run(_loop(6)), listener)
    assert (result.status, result.ui) == ("succeeded", {"s": {"text": ["13"]}})
    assert set(result.inner.values()) <= {"o", "a", "c"}
    assert len(result.inner) > 6
    inner = {node for event in listener.of(events.NodeExpanded) for node in event.inner}
    assert inner == set(result.inner)


def test_runs_may_go_on_beside_each_other(worker: RemoteExecutor) -> None:
    """Each listener hears of its own run alone."""

    async def both() -> list[RunResult]:
        return await asyncio.gather(
            *(worker.run(Run(_loop(turns), job=str(turns)), heard) for turns, heard in enumerate(listeners, start=2))
        )

    listeners = [Listener(), Listener(), Listener()]
    results = asyncio.run(both())
    assert [result.ui for result in results] == [{"s": {"text": [str(1 + 2 * turns)]}} for turns in (2, 3, 4)]
    for turns, heard in enumerate(listeners, start=2):
        assert {event.job for event in heard.events} == {str(turns)}


def test_values_stay_where_they_are(worker: RemoteExecutor) -> None:
    """A run that wants some back is refused; so is a target that is not there."""
    with pytest.raises(UsageError, match="a worker cannot hand values back"):
        worker.run_sync(Run(FINE, keep=ids("fine")))
    with pytest.raises(MezzotintError, match="there is no node 9 in the workflow"):
        worker.run_sync(Run(FINE, targets=ids("9")))
    assert is_well(worker)


def test_its_node_types_serve_here(worker: RemoteExecutor, core: Registry) -> None:
    """A registry with them validates a workflow; what only the class can say is asked over there."""
    registry = Registry([*core.values(), *worker.loaded.specs])
    assert validate(_loop(3), registry) == []
    problems = validate(graph(c=("BP_CheckRaises", {"value": 1}), m=("LT_IntMath", {"a": 1, "b": 2})), registry)
    assert [(problem.node, problem.type) for problem in problems if problem.node] == [
        ("c", "exception_during_validation"),
        ("m", "required_input_missing"),
    ]
    typed = graph(
        i=("PrimitiveInt", {"value": 1}), f=("PrimitiveFloat", {"value": 1}), t=("LT_Typed", {"a": "i/0", "b": "f/0"})
    )
    told = [problem.message for problem in validate(typed, registry) if problem.node == "t"]
    assert ["both have to be of one type, found ['FLOAT', 'INT']" in message for message in told] == [True]
    changed = registry["LT_Changing"].fingerprint
    assert changed is not None
    assert changed(value=2**70, always=False) == 2**70
    assert changed(value=3, always=True) != changed(value=3, always=True)
    operation = registry["LT_IntMath"].input("operation")
    assert operation is not None
    assert operation.options == ("add", "subtract", "multiply")
    described = registry["LT_Show"].describe
    assert described is not None
    assert described()["python_module"] == "custom_nodes.loop_tools"


# what nodes do


def test_what_a_node_raises_fails_it_alone(worker: RemoteExecutor) -> None:
    """``sys.exit`` too; the process is the same afterwards."""
    before = worker.pid
    run = Graph(
        {
            **bad("BP_Exit"),
            "other": Call("BP_Raise", {"value": 4}),
            "t": Call("PreviewAny", {"source": Link(NodeId("other"), 0)}),
            **FINE,
        }
    )
    result = worker.run_sync(Run(run))
    assert (result.status, result.ui) == ("failed", {"fine": {"text": ["5"]}})
    assert {failure.node: (failure.reason, failure.pack) for failure in result.failures} == {
        "bad": (
            "called sys.exit(3); a node ends by returning, or by raising an error that says what is wrong",
            "misbehaving",
        ),
        "other": ("ValueError: value 4 is no good", "misbehaving"),
    }
    assert worker.pid == before


@pytest.mark.parametrize(
    ("type_", "reason"),
    [
        ("BP_Die", "it ended its process (exit code 7)"),
        ("BP_Crash", "its process was ended by SIGSEGV: a library it uses crashed"),
    ],
)
def test_a_node_that_ends_the_process_is_named_and_the_next_run_works(
    type_: str, reason: str, worker: RemoteExecutor
) -> None:
    """What was done before it is in the result; the failure is told as an event; then there is a new process."""
    before = worker.pid
    listener = Listener()
    # events go out every few milliseconds: what was done just before is not told any more
    run = graph(
        c=("BP_Fine", {"value": 3}),
        w=("LT_Sleep", {"value": "c/0", "seconds": 0.3}),
        bad=(type_, {"value": "w/0"}),
        s=("PreviewAny", {"source": "bad/0"}),
    )
    result = worker.run_sync(Run(run, job="j", use_cache=False), listener)
    assert (result.status, result.ran[:1], result.ui) == ("failed", ids("c"), {"c": {"text": ["3"]}})
    assert [str(failure) for failure in result.failures] == [f"node bad ({type_} of pack misbehaving): {reason}"]
    assert [(event.node, event.pack) for event in listener.of(events.NodeFailed)] == [("bad", "misbehaving")]
    assert listener.events[-1] == events.JobFinished("j", "failed")
    assert wait_until_gone(before)
    assert is_well(worker)
    assert worker.pid != before


def test_a_node_that_hangs_ends_its_process(places: WorkerSettings) -> None:
    """The failure names it and says what to do if it does not hang at all; the next run has a new process."""
    with RemoteExecutor(places, node_timeout=1) as executor:
        before = executor.pid
        result = executor.run_sync(Run(bad("BP_Hang")))
        assert [str(failure) for failure in result.failures] == [
            "node bad (BP_Hang of pack misbehaving): there was no sign of life for 1 s, so its process was ended; "
            "a node that takes longer may report its progress, or give it more time with --node-timeout"
        ]
        assert result.status == "failed"
        assert wait_until_gone(before)
        assert is_well(executor)


def test_all_runs_of_a_process_that_dies_have_an_end(worker: RemoteExecutor) -> None:
    """One waits in an async node while another's node ends the process; both fail, each with its own node."""

    async def both() -> list[RunResult]:
        began = asyncio.Event()

        def heard(event: events.Event) -> None:
            if isinstance(event, events.NodeStarted) and event.node == "w":
                began.set()

        wait = graph(w=("LT_Sleep", {"value": 1, "seconds": 50.0}), s=("PreviewAny", {"source": "w/0"}))
        waiting = asyncio.create_task(worker.run(Run(wait), heard))
        await began.wait()
        return [await worker.run(Run(bad("BP_Die"))), await waiting]

    results = asyncio.run(both())
    assert [[failure.node for failure in result.failures] for result in results] == [["bad"], ["w"]]
    assert is_well(worker)


def test_a_cancelled_run_ends_where_it_can(worker: RemoteExecutor) -> None:
    """An async node stops where it waits, and the process is the same."""
    before, cancel = worker.pid, CancelToken()

    listener = Listener()

    def heard(event: events.Event) -> None:
        listener(event)
        if isinstance(event, events.NodeStarted):
            cancel.cancel()

    run = Run(graph(w=("LT_Sleep", {"value": 1, "seconds": 50.0}), s=("PreviewAny", {"source": "w/0"})))
    result = worker.run_sync(run, heard, cancel)
    assert (result.status, result.failures, result.ran) == ("cancelled", (), ())
    assert listener.events[-1] == events.JobFinished(run.job, "cancelled")
    assert is_well(worker)
    assert worker.pid == before


def test_a_cancel_that_a_node_ignores_ends_its_process(places: WorkerSettings) -> None:
    """After the time it has to stop; the run is cancelled, and nobody failed."""
    cancel, listener = CancelToken(), Listener()

    def heard(event: events.Event) -> None:
        listener(event)
        if isinstance(event, events.NodeStarted):
            cancel.cancel()

    with RemoteExecutor(places, grace=0.5) as executor:
        before = executor.pid
        result = executor.run_sync(Run(bad("BP_Hang")), heard, cancel)
        assert (result.status, result.failures) == ("cancelled", ())
        assert listener.events[-1] == events.JobFinished(result.job, "cancelled")
        assert wait_until_gone(before)
        assert is_well(executor)


def test_a_run_that_a_dying_worker_never_began_has_a_new_one(worker: RemoteExecutor) -> None:
    """It was sent, and nothing was heard of it: it begins again, and is told of once."""
    listener = Listener()

    async def run() -> RunResult:
        before = worker.pid
        os.kill(before, signal.SIGSTOP)
        task = asyncio.create_task(worker.run(Run(FINE, use_cache=False), listener))
        await asyncio.sleep(0.3)
        os.kill(before, signal.SIGKILL)
        return await task

    assert asyncio.run(run()).ui == {"fine": {"text": ["5"]}}
    assert [type(event).__name__ for event in listener.events] == [
        "JobStarted",
        "NodeStarted",
        "NodeFinished",
        "JobFinished",
    ]


def test_a_worker_that_was_killed_between_runs_is_replaced(worker: RemoteExecutor) -> None:
    """Whoever did it, and whether or not it is known yet: the next run has a new process, and so has a question."""

    def asks() -> bool:
        described = worker.loaded.specs[0].describe
        return described is not None and bool(described())

    for ask in (is_well, lambda worker: asks()) * 3:
        before = worker.pid
        os.kill(before, signal.SIGKILL)
        assert ask(worker)
        assert worker.pid != before


def test_what_packs_print_disturbs_nobody(worker: RemoteExecutor, capfd: pytest.CaptureFixture[str]) -> None:
    """Whichever way they write to standard output it is not this process's; the run goes on."""
    result = worker.run_sync(Run(graph(p=("BP_Prints", {"value": 1})), use_cache=False))
    assert result.ui == {"p": {"text": ["printed"]}}
    assert "is no JSON of yours" not in capfd.readouterr().out


# its end


def test_threads_that_do_not_end_keep_nobody(tmp_path: Path) -> None:
    """``close`` returns, and the process is gone, though a pack left a thread that would keep it."""
    with RemoteExecutor(settings_of(tmp_path, TESTS / "bad_packs/misbehaving")) as executor:
        assert executor.run_sync(Run(bad("BP_Threads"))).status == "succeeded"
        pid = executor.pid
    assert _gone(pid)


PARENT = """
import sys
from pathlib import Path
from engine.graph.graph import Call, Graph
from engine.jobs.messages import WorkerSettings
from engine.jobs.remote import RemoteExecutor
from engine.run.events import NodeStarted
from engine.run.request import Run

if __name__ == "__main__":
    executor = RemoteExecutor(WorkerSettings.from_json(sys.argv[1]))
    told = lambda event: print(executor.pid, flush=True) if isinstance(event, NodeStarted) else None
    executor.run_sync(Run(Graph({"h": Call("BP_Hang", {"value": 1})}), targets=("h",)), told)
"""


def test_a_worker_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Killed in the middle of a run, with a node at work that stops for nobody."""
    settings = settings_of(tmp_path, TESTS / "bad_packs/misbehaving").to_json()
    parent = subprocess.Popen([sys.executable, "-c", PARENT, settings], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        assert not _gone(pid)
        parent.kill()
        parent.wait()
    assert wait_until_gone(pid)


# what a process leaves behind, and where it is started


def test_a_child_that_outlives_its_process_keeps_nobody_waiting(worker: RemoteExecutor) -> None:
    """The end of the process itself is what counts, whoever holds its connection; the next run works."""
    began = time.monotonic()
    (failure,) = worker.run_sync(Run(bad("BP_Forks"))).failures
    assert failure.reason == "it ended its process (exit code 9)"
    assert time.monotonic() - began < PATIENCE
    assert is_well(worker)


def test_a_class_that_does_not_answer_is_named(places: WorkerSettings) -> None:
    """No node is at work while IS_CHANGED hangs: the process is ended all the same, and the message says what was asked."""
    with (
        RemoteExecutor(places, node_timeout=1) as executor,
        pytest.raises(
            ResourceError, match="while IS_CHANGED of BP_HangsWhenAsked was asked: there was no sign of life"
        ),
    ):
        executor.run_sync(Run(bad("BP_HangsWhenAsked")))


def test_nothing_is_imported_from_the_folder_it_is_started_in(
    places: WorkerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with modules of our names in it, as a checkout of ComfyUI is."""
    for name in ("nodes.py", "server.py", "json.py"):
        (tmp_path / name).write_text("raise SystemExit('not this one')\n")
    monkeypatch.chdir(tmp_path)
    with RemoteExecutor(places) as executor:
        assert is_well(executor)


def test_what_is_closed_starts_no_process(tmp_path: Path) -> None:
    """Nobody would end it."""
    executor = RemoteExecutor(settings_of(tmp_path, TESTS / "packs/loop_tools"))
    executor.close()
    with pytest.raises(UsageError, match="closed"):
        executor.run_sync(Run(FINE))


def test_who_no_longer_waits_keeps_nobody_from_being_told(places: WorkerSettings) -> None:
    """Of two questions that stay open one is given up; the other is told of the end of the process all the same."""
    process = WorkerProcess(places, lambda name, data, client: None)
    process.ready.result(PATIENCE)
    os.kill(process.pid, signal.SIGSTOP)
    given_up, other = (process.ask("describe", "BP_Fine", {}) for _ in range(2))

    async def give_up() -> None:
        asyncio.wrap_future(given_up).cancel()

    asyncio.run(give_up())
    process.kill("that is enough")
    with pytest.raises(WorkerDied, match="that is enough"):
        other.result(PATIENCE)


def test_what_cannot_be_sent_fails_alone(places: WorkerSettings) -> None:
    process = WorkerProcess(places, lambda name, data, client: None)
    process.ready.result(PATIENCE)

    class Odd(dict[str, int]):
        def items(self) -> Any:
            raise LookupError("never")

    try:
        with pytest.raises(MezzotintError, match="cannot be sent this: never"):
            process.ask("describe", "BP_Fine", Odd(a=1)).result(PATIENCE)
        assert process.ask("describe", "BP_Fine", {}).result(PATIENCE) is not None
    finally:
        process.close()
