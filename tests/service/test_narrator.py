"""One job's events as ComfyUI's clients are told of them: whole sequences."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from engine.jobs.records import StoredEvent
from engine.service.comfy.frames import (
    image_frame,
    message_frame,
    preview_frame,
    progress_text_frame,
    text_frame,
)
from engine.service.comfy.narrator import Message, Narrator, Only

JOB = "job-1"
PROMPT: Mapping[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "color": 0}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "a"}},
}
UI = {"images": [{"filename": "a_00001_.png", "subfolder": "", "type": "output"}]}


class Tape:
    """Makes stored events, each a second after the one before, beginning at 100."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, name: str, /, **data: Any) -> StoredEvent:
        self._count += 1
        return StoredEvent(self._count, JOB, 99.0 + self._count, name, data)

    def queued(self, reason: str | None = None) -> StoredEvent:
        return self("job_queued", priority=0, number=0.0, client="c", reason=reason)

    def leased(self) -> StoredEvent:
        return self("job_leased", worker="w", token=1)

    def started(self, nodes: int = 3) -> StoredEvent:
        return self("job_started", nodes=nodes)

    def cached(self, node: str, shown: str | None = None, ui: Any = None, tier: str = "memory") -> StoredEvent:
        return self("node_cached", node=node, shown=shown or node, tier=tier, ui=ui or {})

    def begun(self, node: str, shown: str | None = None, class_type: str = "X") -> StoredEvent:
        return self("node_started", node=node, shown=shown or node, class_type=class_type)

    def progress(self, node: str, done: int, total: int, shown: str | None = None) -> StoredEvent:
        return self("node_progress", node=node, shown=shown or node, done=done, total=total)

    def done(self, node: str, shown: str | None = None, ui: Any = None) -> StoredEvent:
        return self("node_finished", node=node, shown=shown or node, seconds=1.0, ui=ui or {})

    def failed(self, node: str, message: str, shown: str | None = None, **more: Any) -> StoredEvent:
        data = {"class_type": "X", "input": None, "pack": None} | more
        return self("node_failed", node=node, shown=shown or node, message=message, **data)

    def finished(self, status: str, errors: Iterable[Any] = ()) -> StoredEvent:
        return self("job_finished", status=status, outputs={}, errors=list(errors))


def narrate(
    events: Iterable[StoredEvent], client: str | None = "c", prompt: Mapping[str, Any] = PROMPT
) -> tuple[Narrator, list[Message]]:
    narrator = Narrator(JOB, prompt, client)
    return narrator, [message for event in events for message in narrator.hear(event)]


def brief(messages: Iterable[Message]) -> list[Any]:
    """Each message on one line: its type, and what matters of it."""
    return [_brief(message.type, message.data) for message in messages]


def _brief(type_: str, data: Any) -> Any:
    match type_:
        case "progress_state":
            nodes = data["nodes"].items()
            return "state", {node: f"{entry['state']} {entry['value']}/{entry['max']}" for node, entry in nodes}
        case "executing":
            return type_, data["node"], data.get("display_node")
        case "progress":
            return type_, data["node"], data["value"], data["max"]
        case "execution_cached":
            return type_, data["nodes"]
        case "executed":
            return type_, data["node"], data["display_node"], data["output"]
        case "execution_error" | "execution_interrupted":
            return type_, data["node_id"]
    return type_


def node_run(tape: Tape, node: str) -> list[StoredEvent]:
    return [tape.begun(node), tape.progress(node, 1, 2), tape.progress(node, 2, 2), tape.done(node)]


def test_success_with_progress() -> None:
    """Every message of a run of three nodes, with all of its data, in ComfyUI's order."""
    tape = Tape()
    events = [
        tape.queued(),
        tape.leased(),
        tape.started(),
        tape.begun("1"),
        tape.progress("1", 1, 4),
        tape.done("1"),
        tape.begun("3"),
        tape.done("3", ui=UI),
        tape.finished("succeeded"),
    ]
    narrator, messages = narrate(events)

    def entry(node: str, value: int, most: int, state: str) -> dict[str, Any]:
        places = {"node_id": node, "prompt_id": JOB, "display_node_id": node, "parent_node_id": None}
        return {"value": value, "max": most, "state": state, **places, "real_node_id": node}

    def state(**nodes: dict[str, Any]) -> Message:
        return Message("progress_state", {"prompt_id": JOB, "nodes": {name[1:]: node for name, node in nodes.items()}})

    first = entry("1", 4, 4, "finished")
    assert messages == [
        Message("execution_start", {"prompt_id": JOB, "timestamp": 102_000}),
        Message("execution_cached", {"nodes": [], "prompt_id": JOB, "timestamp": 103_000}),
        state(n1=entry("1", 0, 1, "running")),
        Message("executing", {"node": "1", "display_node": "1", "prompt_id": JOB}),
        state(n1=entry("1", 1, 4, "running")),
        Message("progress", {"value": 1, "max": 4, "prompt_id": JOB, "node": "1"}),
        state(n1=first),
        state(n1=first, n3=entry("3", 0, 1, "running")),
        Message("executing", {"node": "3", "display_node": "3", "prompt_id": JOB}),
        Message("executed", {"node": "3", "display_node": "3", "output": UI, "prompt_id": JOB}),
        state(n1=first, n3=entry("3", 1, 1, "finished")),
        Message("execution_success", {"prompt_id": JOB, "timestamp": 108_000}),
    ]
    assert narrator.ended() == [Message("executing", {"node": None, "prompt_id": JOB})]
    assert narrator.history_messages() == [
        ["execution_start", {"prompt_id": JOB, "timestamp": 102_000}],
        ["execution_cached", {"nodes": [], "prompt_id": JOB, "timestamp": 103_000}],
        ["execution_success", {"prompt_id": JOB, "timestamp": 108_000}],
    ]


def test_ten_nodes() -> None:
    """Ten nodes one after the other: all that were begun are in every state, and each is finished at the end."""
    tape = Tape()
    nodes = [str(number) for number in range(10)]
    prompt = {node: {"class_type": "X", "inputs": {}} for node in nodes}
    events = [
        tape.started(10),
        *(event for node in nodes for event in node_run(tape, node)),
        tape.finished("succeeded"),
    ]
    expected: list[Any] = ["execution_start", ("execution_cached", [])]
    past: dict[str, str] = {}
    for node in nodes:
        expected += [("state", past | {node: "running 0/1"}), ("executing", node, node)]
        for done in (1, 2):
            expected += [("state", past | {node: f"running {done}/2"}), ("progress", node, done, 2)]
        past = past | {node: "finished 2/2"}
        expected.append(("state", past))
    assert brief(narrate(events, prompt=prompt)[1]) == [*expected, "execution_success"]


def test_everything_cached() -> None:
    """All nodes are named at once, what has something to show shows it again, and no node is at work."""
    tape = Tape()
    events = [tape.started(0), tape.cached("1"), tape.cached("2"), tape.cached("3", ui=UI), tape.finished("succeeded")]
    narrator, messages = narrate(events)
    assert brief([*messages, *narrator.ended()]) == [
        "execution_start",
        ("execution_cached", ["1", "2", "3"]),
        ("executed", "3", "3", UI),
        ("state", {"3": "finished 1/1"}),
        "execution_success",
        ("executing", None, None),
    ]


def test_cached_later() -> None:
    """A node whose result is found in the middle shows what it has, and is finished."""
    tape = Tape()
    events = [tape.started(), tape.begun("1"), tape.done("1"), tape.cached("2", tier="run"), tape.cached("3", ui=UI)]
    assert brief(narrate(events)[1])[5:] == [
        ("state", {"1": "finished 1/1", "2": "finished 1/1"}),
        ("executed", "3", "3", UI),
        ("state", {"1": "finished 1/1", "2": "finished 1/1", "3": "finished 1/1"}),
    ]


def test_error_in_the_middle() -> None:
    """The first failure is told at the end, after what did not depend on it, and nothing follows it."""
    tape = Tape()
    narrator, messages = narrate(
        [
            tape.started(),
            tape.begun("1"),
            tape.done("1"),
            tape.begun("2", class_type="ImageInvert"),
            tape.failed("2", "RuntimeError: boom", class_type="ImageInvert", pack="rough", input="image"),
            tape.begun("4"),
            tape.done("4"),
            tape.failed("5", "ValueError: later"),
            tape.finished("failed", [{"node": "5", "shown": "5", "reason": "ValueError: later"}]),
        ]
    )
    assert brief(messages[:-1]) == [
        "execution_start",
        ("execution_cached", []),
        ("state", {"1": "running 0/1"}),
        ("executing", "1", "1"),
        ("state", {"1": "finished 1/1"}),
        ("state", {"1": "finished 1/1", "2": "running 0/1"}),
        ("executing", "2", "2"),
        ("state", {"1": "finished 1/1", "4": "running 0/1"}),
        ("executing", "4", "4"),
        ("state", {"1": "finished 1/1", "4": "finished 1/1"}),
    ]
    error = {
        "prompt_id": JOB,
        "node_id": "2",
        "node_type": "ImageInvert",
        "executed": ["1", "4"],
        "exception_message": "input image: boom\n",
        "exception_type": "RuntimeError",
        "traceback": ["node 2 (ImageInvert of pack rough), input image: RuntimeError: boom\n"],
        "current_inputs": {"image": ["['1', 0]"]},
        "current_outputs": ["1", "4"],
        "timestamp": 108_000,
    }
    assert messages[-1] == Message("execution_error", error)
    assert brief(narrator.ended()) == [("executing", None, None)]
    assert narrator.history_messages()[-1] == ["execution_error", error]


@pytest.mark.parametrize(
    ("reason", "type_", "message"),
    [
        ("expected a file, found none", "mezzotint.NodeFailed", "expected a file, found none\n"),
        ("KeyError: 'a'", "KeyError", "'a'\n"),
        ("AssertionError", "AssertionError", "AssertionError\n"),
        ("HFValidationError: bad name", "HFValidationError", "bad name\n"),
        ("model: not of this family", "mezzotint.NodeFailed", "model: not of this family\n"),
        (
            "needs more memory than there is; make the picture or the batch smaller (OutOfMemoryError: CUDA)",
            "torch.OutOfMemoryError",
            "needs more memory than there is; make the picture or the batch smaller (OutOfMemoryError: CUDA)\n"
            "Tip: a smaller picture or batch needs less memory, and so do the tiled VAE nodes.\n",
        ),
    ],
)
def test_types_of_exceptions(reason: str, type_: str, message: str) -> None:
    """The exception's type is taken from the reason where it names one, and running out of memory adds a tip."""
    tape = Tape()
    data = narrate([tape.started(), tape.failed("2", reason), tape.finished("failed")])[1][-1].data
    assert (data["exception_type"], data["exception_message"]) == (type_, message)


def test_failure_of_no_node() -> None:
    """A job that fails before any node is at work ends with an error whose fields all have their types."""
    tape = Tape()
    nobody = {"node": None, "shown": None, "class_type": None, "pack": None, "input": None}
    narrator, messages = narrate([tape.leased(), tape.finished("failed", [nobody | {"reason": "no worker"}])])
    error = {
        "prompt_id": JOB,
        "node_id": "",
        "node_type": "",
        "executed": [],
        "exception_message": "no worker\n",
        "exception_type": "mezzotint.NodeFailed",
        "traceback": ["no worker\n"],
        "current_inputs": {},
        "current_outputs": [],
        "timestamp": 101_000,
    }
    assert messages == [Message("execution_error", error)]
    assert narrator.history_messages() == [["execution_error", error]]


def test_interrupt() -> None:
    """An interrupt names the node at work; nothing more is told of it."""
    tape = Tape()
    events = [tape.started(), tape.begun("1"), tape.done("1"), tape.begun("2"), tape("job_cancelling")]
    narrator, messages = narrate([*events, tape.finished("cancelled")])
    assert brief(messages[-2:]) == [("executing", "2", "2"), ("execution_interrupted", "2")]
    assert messages[-1].data == {
        "node_id": "2",
        "node_type": "ImageInvert",
        "executed": ["1"],
        "prompt_id": JOB,
        "timestamp": 105_000,
    }
    assert [event for event, _ in narrator.history_messages()] == [
        "execution_start",
        "execution_cached",
        "execution_interrupted",
    ]


def test_failure_at_once() -> None:
    """A failure ends what is told as cached from the start; what is found later is shown by itself."""
    tape = Tape()
    events = [
        tape.started(),
        tape.cached("1"),
        tape.failed("2", "ValueError: no"),
        tape.cached("3", ui={"text": ["a"]}),
    ]
    assert brief(narrate([*events, tape.finished("failed")])[1]) == [
        "execution_start",
        ("execution_cached", ["1"]),
        ("executed", "3", "3", {"text": ["a"]}),
        ("state", {"3": "finished 1/1"}),
        ("execution_error", "2"),
    ]


def test_cancelled_while_paused() -> None:
    """A run that was halted before any node, and never resumed, still says what was cached before it ends."""
    tape = Tape()
    narrator, messages = narrate([tape.started(), tape("job_paused"), tape.finished("cancelled")])
    assert brief(messages) == ["execution_start", ("execution_cached", []), ("execution_interrupted", "")]
    assert [event for event, _ in narrator.history_messages()] == [message.type for message in messages]


def test_expansion() -> None:
    """Inner nodes are told by their own ids and shown at the outer one, which goes on until they are done."""
    tape = Tape()
    events = [
        tape.started(),
        tape.begun("2"),
        tape("node_expanded", node="2", shown="2", inner=["2.a", "2.b"]),
        tape.begun("2.a", shown="2"),
        tape("node_expanded", node="2.a", shown="2", inner=["2.a.x"]),
        tape.begun("2.a.x", shown="2"),
        tape.done("2.a.x", shown="2"),
        tape.done("2.a", shown="2"),
        tape.cached("2.b", shown="2", ui={"text": ["hello"]}),
        tape.done("2"),
        tape.finished("succeeded"),
    ]
    narrator, messages = narrate(events)
    assert brief(messages[2:]) == [
        ("state", {"2": "running 0/1"}),
        ("executing", "2", "2"),
        ("state", {"2": "running 0/1", "2.a": "running 0/1"}),
        ("executing", "2.a", "2"),
        ("state", {"2": "running 0/1", "2.a": "running 0/1", "2.a.x": "running 0/1"}),
        ("executing", "2.a.x", "2"),
        ("state", {"2": "running 0/1", "2.a": "running 0/1", "2.a.x": "finished 1/1"}),
        ("state", {"2": "running 0/1", "2.a": "finished 1/1", "2.a.x": "finished 1/1"}),
        ("executed", "2.b", "2", {"text": ["hello"]}),
        ("state", dict.fromkeys(("2", "2.a", "2.a.x", "2.b"), "finished 1/1") | {"2": "running 0/1"}),
        ("state", dict.fromkeys(("2", "2.a", "2.a.x", "2.b"), "finished 1/1")),
        "execution_success",
    ]
    assert messages[-2].data["nodes"]["2.a.x"] == {
        "value": 1,
        "max": 1,
        "state": "finished",
        "node_id": "2.a.x",
        "prompt_id": JOB,
        "display_node_id": "2",
        "parent_node_id": "2.a",
        "real_node_id": "2",
    }
    preview = narrator.preview("2.a.x", "2", b"...")
    assert (preview.parent, preview.real, preview.audience) == ("2.a", "2", "submitter")


def test_failure_within_an_expansion() -> None:
    """The error is the outer node's, which is in the prompt; its text says which inner one failed."""
    tape = Tape()
    expanded = tape("node_expanded", node="2", shown="2", inner=["2.a"])
    failed = tape.failed("2.a", "TypeError: no", shown="2", class_type="ImageScale")
    data = narrate([tape.started(), tape.begun("2"), expanded, failed, tape.finished("failed")])[1][-1].data
    assert (data["node_id"], data["node_type"]) == ("2", "ImageInvert")
    assert data["exception_message"] == "inner node 2.a (ImageScale): no\n"


def test_blocked() -> None:
    """A blocked node is an error of its own kind, told once and not in the history; the run succeeds."""
    tape = Tape()
    blocked = {"node": "2", "shown": "2", "class_type": "ImageInvert", "message": "not today"}
    events = [tape.started(), tape.begun("1"), tape.done("1"), tape("node_blocked", **blocked)]
    narrator, messages = narrate([*events, tape("node_blocked", **blocked), tape.finished("succeeded")])
    assert messages[5:] == [
        Message(
            "execution_error",
            {
                "prompt_id": JOB,
                "node_id": "2",
                "node_type": "ImageInvert",
                "executed": ["1"],
                "exception_message": "not today",
                "exception_type": "ExecutionBlocked",
                "traceback": [],
                "current_inputs": {},
                "current_outputs": [],
            },
        ),
        Message("execution_success", {"prompt_id": JOB, "timestamp": 105_000}),
    ]
    assert [event for event, _ in narrator.history_messages()] == [
        "execution_start",
        "execution_cached",
        "execution_success",
    ]


def test_restart_in_the_middle() -> None:
    """After a worker is lost the run goes on: it starts once, what was at work is not, what was shown is not shown again."""
    tape = Tape()
    first = [tape.queued(), tape.leased(), tape.started(), tape.cached("1"), tape.begun("3"), tape.done("3", ui=UI)]
    lost = [tape.begun("2"), tape.failed("5", "ValueError: of the first attempt"), tape.queued("its worker was lost")]
    second = [tape.leased(), tape.started(), tape.cached("1"), tape.cached("3", ui=UI), tape.begun("2"), tape.done("2")]
    narrator, messages = narrate([*first, *lost, *second, tape.finished("succeeded")])
    shown = {"3": "finished 1/1"}
    assert brief(messages) == [
        "execution_start",
        ("execution_cached", ["1"]),
        ("state", {"3": "running 0/1"}),
        ("executing", "3", "3"),
        ("executed", "3", "3", UI),
        ("state", shown),
        ("state", shown | {"2": "running 0/1"}),
        ("executing", "2", "2"),
        ("state", shown),
        ("state", shown | {"2": "running 0/1"}),
        ("executing", "2", "2"),
        ("state", shown | {"2": "finished 1/1"}),
        "execution_success",
    ]
    assert len(narrator.history_messages()) == 3


def test_restart_at_once() -> None:
    """Where the first attempt came to nothing, what the second finds cached is what is told, once."""
    tape = Tape()
    events = [tape.started(), tape.cached("1"), tape.queued("its worker was lost"), tape.started(), tape.cached("2")]
    assert brief(narrate([*events, tape.begun("3")])[1]) == [
        "execution_start",
        ("execution_cached", ["2", "1"]),
        ("state", {"3": "running 0/1"}),
        ("executing", "3", "3"),
    ]


def test_pause_and_replay() -> None:
    """One who takes over from stored events goes on exactly as the one before would have."""
    tape = Tape()
    before = [tape.queued(), tape.leased(), tape.started(), tape.cached("1"), tape.begun("2"), tape("job_paused")]
    after = [
        tape("job_resumed"),
        tape.leased(),
        tape.started(),
        tape.cached("1"),
        tape.begun("2"),
        tape.done("2"),
        tape.finished("succeeded"),
    ]
    known, told = narrate(before)
    taken_over = Narrator(JOB, PROMPT, "c")
    taken_over.replay(before)
    rest = [known.hear(event) for event in after]
    assert [taken_over.hear(event) for event in after] == rest
    assert brief(told)[-1] == ("state", {})
    assert brief(message for messages in rest for message in messages) == [
        ("state", {"2": "running 0/1"}),
        ("executing", "2", "2"),
        ("state", {"2": "finished 1/1"}),
        "execution_success",
    ]
    assert taken_over.history_messages() == known.history_messages()


def test_without_a_client() -> None:
    """Nobody's prompt: only how far it is goes out, to everybody, and an interrupt; the history has it all."""
    tape = Tape()
    events = [tape.started(), tape.cached("3", ui=UI), *node_run(tape, "1")]
    narrator, messages = narrate([*events, tape.finished("succeeded")], client=None)
    assert {message.type for message in messages} == {"progress_state", "progress"}
    assert {message.audience for message in messages} == {"everyone"}
    assert narrator.preview("1", "1", b"").audience == "everyone"
    assert narrator.ended() == []
    assert len(narrator.history_messages()) == 3
    interrupted = narrate([tape.started(), tape.begun("1"), tape.finished("cancelled")], client=None)[1][-1]
    assert (interrupted.type, interrupted.audience) == ("execution_interrupted", "everyone")


def test_current() -> None:
    """Whoever connects again is told of the node that was begun last and is still at work, as it is shown."""
    tape = Tape()
    narrator = Narrator(JOB, PROMPT, "c")
    assert narrator.current() is None
    seen = []
    for event in (
        tape.started(),
        tape.begun("1"),
        tape.begun("9", shown="2"),
        tape.done("9", shown="2"),
        tape.done("1"),
    ):
        narrator.hear(event)
        current = narrator.current()
        seen.append(None if current is None else current.data)
    assert seen == [None, {"node": "1"}, {"node": "2"}, {"node": "1"}, None]


@pytest.mark.parametrize("submitter", ["c", None])
def test_messages_of_nodes(submitter: str | None) -> None:
    """A node's own message is passed on under its name: to the client that it names, or to everybody, whoever asked for the run."""
    tape = Tape()
    data = {"node": "1", "shown": "1", "name": "rough.log", "data": {"lines": 3}}
    events = [tape.started(), *(tape("node_message", **data, client=client) for client in (None, "d"))]
    told = narrate(events, client=submitter)[1][-2:]
    assert told == [
        Message("rough.log", {"lines": 3}, "everyone"),
        Message("rough.log", {"lines": 3}, Only("d")),
    ]
    # as an earlier release stored it
    assert narrate([tape.started(), tape("node_message", **data)], client=submitter)[1][-1].audience == "everyone"


def test_text_frames() -> None:
    """Text frames are JSON that every browser reads, whatever a pack puts into a message."""
    data = {"nan": float("nan"), "raw": b"\x00\xff", (1, 2): {3}, "half": "\ud800", "fine": [1.5, None, True, "é"]}
    assert json.loads(text_frame("a", data)) == {
        "type": "a",
        "data": {"nan": None, "raw": "AP8=", "(1, 2)": [3], "half": "\ud800", "fine": [1.5, None, True, "é"]},
    }
    assert text_frame("status", {"sid": "x"}) == '{"type":"status","data":{"sid":"x"}}'


def test_binary_frames() -> None:
    """Binary frames have ComfyUI's layouts, byte by byte."""
    jpeg, png = b"\xff\xd8\xff\xe0...", b"\x89PNG\r\n\x1a\n..."
    preview = Narrator(JOB, PROMPT, "c").preview("2", "2", jpeg)
    assert image_frame(jpeg) == preview_frame(preview, False) == b"\0\0\0\1\0\0\0\1" + jpeg
    assert image_frame(png) == b"\0\0\0\1\0\0\0\2" + png
    assert progress_text_frame("ü", "half") == b"\0\0\0\3\0\0\0\2\xc3\xbchalf"
    assert message_frame(Message("progress_text", {"node": 7, "text": "half"})) == b"\0\0\0\3\0\0\0\0017half"
    assert message_frame(Message("other", {})) == '{"type":"other","data":{}}'
    framed = preview_frame(preview, True)
    code, length = struct.unpack(">II", framed[:8])
    assert (code, framed[8 + length :]) == (4, jpeg)
    assert json.loads(framed[8 : 8 + length]) == {
        "node_id": "2",
        "prompt_id": JOB,
        "display_node_id": "2",
        "parent_node_id": None,
        "real_node_id": "2",
        "image_type": "image/jpeg",
    }
