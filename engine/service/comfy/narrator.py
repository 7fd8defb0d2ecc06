"""Tells one job's events as ComfyUI tells them: what each becomes for those who watch, and in which order.

    narrator = Narrator(job, prompt, client)
    for event in stored:
        messages = narrator.hear(event)
    messages = narrator.ended()

No IO. A run here may differ from ComfyUI's: an attempt may begin anew, and after a failure what does not depend on it goes on. Watchers
see one run all the same: it starts once, and the first failure is told when nothing follows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.jobs.records import StoredEvent
from engine.service.comfy.failures import class_type_of, error_data


@dataclass(frozen=True, slots=True)
class Only:
    """One client, whoever asked for the run."""

    client: str


Audience = Literal["submitter", "everyone"] | Only


def audience_of(client: str | None) -> Audience:
    """Whom a pack's message is for that names a client, or none."""
    return "everyone" if client is None else Only(client)


@dataclass(frozen=True, slots=True)
class Message:
    """A text message: ``{"type", "data"}``."""

    type: str
    data: Any
    audience: Audience = "submitter"


@dataclass(frozen=True, slots=True)
class Binary:
    """A message of bytes, as a pack made them."""

    kind: int
    data: bytes
    audience: Audience


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture on the way; how it is sent depends on what a client can read."""

    job: str
    node: str
    shown: str
    parent: str | None
    """The node that became ``node``; None for a node of the prompt."""
    real: str
    """The node of the prompt it belongs to."""
    image: bytes
    """JPEG or PNG."""
    audience: Audience = "submitter"


class Narrator:
    """What was told of one job so far."""

    def __init__(self, job_id: str, prompt: Mapping[str, Any], client: str | None) -> None:
        """``prompt`` is API JSON; ``client`` is None where it was posted without a client id."""
        self.job = job_id
        self.client = client
        self._prompt = prompt
        self._is_silent = False
        self._history: list[tuple[str, dict[str, Any]]] = []
        """What a history keeps: start, cached, end."""
        self._gathered: list[StoredEvent] | None = None
        """What was cached since the attempt began; None once something else happened."""
        self._is_started = False
        self._is_cached_told = False
        self._nodes: dict[str, dict[str, Any]] = {}
        """``progress_state`` by node, the one begun last at the end. Entries are replaced, never changed."""
        self._parents: dict[str, str] = {}
        self._ran: dict[str, None] = {}
        self._cached: dict[str, None] = {}
        self._blocked: set[str] = set()
        self._failure: dict[str, Any] | None = None
        """The first of this attempt, as in ``Job.errors``."""
        self._last = ""
        """The node begun last."""

    def hear(self, event: StoredEvent) -> list[Message]:
        """What an event is told as: nothing, or messages in their order.

        What belongs at the very end comes from ``ended``, since ComfyUI tells all of the queue in between.
        """
        return self._heard(self._follow(event))

    def replay(self, events: Iterable[StoredEvent]) -> None:
        """Take note of what was told before."""
        self._is_silent = True
        for event in events:
            self._follow(event)
        self._is_silent = False

    def ended(self) -> list[Message]:
        """The last message, once the end of the job can be found in the history."""
        return self._heard([Message("executing", {"node": None, "prompt_id": self.job})])

    def preview(self, node: str, shown: str, image: bytes) -> Preview:
        """A picture of what ``node`` is at."""
        return Preview(
            self.job, node, shown, self._parents.get(node), self._real(node, shown), image, self._to_watchers()
        )

    def current(self) -> Message | None:
        """For a client that has connected again: the node at work, if one is."""
        running = self._running()
        return Message("executing", {"node": self._nodes[running[-1]]["display_node_id"]}) if running else None

    def history_messages(self) -> list[list[Any]]:
        """``[[event, data], ...]`` as the history's ``status`` has them."""
        return [[type_, dict(data)] for type_, data in self._history]

    # the job

    def _follow(self, event: StoredEvent) -> list[Message]:
        match event.name:
            case "job_started":
                return self._begin(event)
            case "job_queued" | "job_paused":
                return self._halt()
            case "job_finished":
                if self._is_started and not self._is_cached_told:  # it was halted before anything else happened
                    self._gathered = self._gathered or []
                return [*self._release(event.time), self._finish(event)]
            case "node_cached":
                return self._hit(event)
            case "node_expanded":
                self._parents |= {str(inner): _node(event) for inner in event.data["inner"]}
            case "node_failed":
                self._fail(event)
                return self._release(event.time)
            case "node_started" | "node_progress" | "node_finished" | "node_blocked" | "node_message":
                return [*self._release(event.time), *self._tell(event)]
        return []

    def _tell(self, event: StoredEvent) -> list[Message]:
        match event.name:
            case "node_started":
                return self._start(event)
            case "node_progress":
                return self._advance(event)
            case "node_finished":
                return self._complete(event)
            case "node_blocked":
                return self._block(event)
        client = event.data.get("client")  # what an earlier release has stored names none
        return [Message(str(event.data["name"]), event.data["data"], audience_of(client))]

    def _begin(self, event: StoredEvent) -> list[Message]:
        messages = self._halt()
        self._gathered = []
        if not self._is_started:
            self._is_started = True
            messages.append(self._kept("execution_start", self._stamped(event.time)))
        return messages

    def _halt(self) -> list[Message]:
        """An attempt is over and the job is not: what was at work is not any more."""
        self._gathered = None
        self._failure = None
        running = self._running()
        for node in running:
            del self._nodes[node]
        return self._progress() if running else []

    def _finish(self, event: StoredEvent) -> Message:
        match event.data["status"]:
            case "succeeded":
                return self._kept("execution_success", self._stamped(event.time))
            case "failed":
                return self._kept("execution_error", self._error(event))
        data = self._stamped(event.time, **self._interrupted_at(), executed=list(self._ran))
        # without a submitter everybody is to know
        return self._kept("execution_interrupted", data, self._to_watchers())

    def _interrupted_at(self) -> dict[str, str]:
        running = self._running()
        node = running[-1] if running else self._last
        shown = self._nodes[node]["display_node_id"] if node in self._nodes else node
        real = self._real(node, shown)
        return {"node_id": real, "node_type": class_type_of(self._prompt, real)}

    def _error(self, event: StoredEvent) -> dict[str, Any]:
        errors: Sequence[Mapping[str, Any]] = event.data.get("errors") or ()
        failure = self._failure or (errors[0] if errors else {})
        node = str(failure.get("node") or "")
        return error_data(
            self.job,
            self._prompt,
            failure,
            real=self._real(node, str(failure.get("shown") or node)),
            executed=list(self._ran),
            known=list(self._cached | self._ran),
            timestamp=_milliseconds(event.time),
        )

    # cached nodes

    def _hit(self, event: StoredEvent) -> list[Message]:
        self._cached[_node(event)] = None
        if self._gathered is not None:
            self._gathered.append(event)
            return []
        return self._show_hit(event)

    def _release(self, time: float) -> list[Message]:
        """Something else happens: tell what was cached from the start, which is told even of nothing."""
        if self._gathered is None:
            return []
        gathered, self._gathered = self._gathered, None
        messages: list[Message] = []
        if not self._is_cached_told:
            self._is_cached_told = True
            nodes = with_unneeded(self._prompt, list(dict.fromkeys(map(_node, gathered))))
            messages.append(self._kept("execution_cached", self._stamped(time, nodes=nodes)))
        for event in gathered:
            if event.data["ui"]:  # the others were named, and have nothing to show
                messages += self._show_hit(event)
        return messages

    def _show_hit(self, event: StoredEvent) -> list[Message]:
        entry = self._nodes.get(_node(event))
        if entry is not None and entry["state"] == "finished":
            return []  # it was told in an attempt before this one
        return self._completed(event)

    # nodes at work

    def _start(self, event: StoredEvent) -> list[Message]:
        node = self._last = _node(event)
        self._nodes.pop(node, None)
        self._put(event, 0, 1, "running")
        executing = self._of(node=node, display_node=_shown(event))
        return [*self._progress(), Message("executing", executing)]

    def _advance(self, event: StoredEvent) -> list[Message]:
        done, total = event.data["done"], event.data["total"]
        self._put(event, done, total, "running")
        steps = {"value": done, "max": total, "prompt_id": self.job, "node": _node(event)}
        return [*self._progress(), Message("progress", steps, self._to_watchers())]

    def _complete(self, event: StoredEvent) -> list[Message]:
        self._ran[_node(event)] = None
        return self._completed(event)

    def _completed(self, event: StoredEvent) -> list[Message]:
        node, ui = _node(event), event.data["ui"]
        total = self._nodes[node]["max"] if node in self._nodes else 1
        self._put(event, total, total, "finished")
        executed = self._of(node=node, display_node=_shown(event), output=ui)
        return [*([Message("executed", executed)] if ui else []), *self._progress()]

    def _block(self, event: StoredEvent) -> list[Message]:
        """A node does not run, and the run goes on: an error of its own kind, which no history keeps."""
        node = _node(event)
        if node in self._blocked:
            return []
        self._blocked.add(node)
        data = {
            "prompt_id": self.job,
            "node_id": node,
            "node_type": event.data["class_type"],
            "executed": list(self._ran),
            "exception_message": event.data["message"],
            "exception_type": "ExecutionBlocked",
            "traceback": [],
            "current_inputs": {},
            "current_outputs": [],
        }
        return [Message("execution_error", data)]

    def _fail(self, event: StoredEvent) -> None:
        self._nodes.pop(_node(event), None)
        if self._failure is None:
            self._failure = {**event.data, "reason": event.data["message"]}

    # small things

    def _put(self, event: StoredEvent, value: Any, most: Any, state: Literal["running", "finished"]) -> None:
        node, shown = _node(event), _shown(event)
        self._nodes[node] = {
            "value": value,
            "max": most,
            "state": state,
            "node_id": node,
            "prompt_id": self.job,
            "display_node_id": shown,
            "parent_node_id": self._parents.get(node),
            "real_node_id": self._real(node, shown),
        }

    def _progress(self) -> list[Message]:
        if self._is_silent:  # it names every node so far, every time
            return []
        return [Message("progress_state", {"prompt_id": self.job, "nodes": dict(self._nodes)}, self._to_watchers())]

    def _running(self) -> list[str]:
        return [node for node, entry in self._nodes.items() if entry["state"] == "running"]

    def _real(self, node: str, shown: str) -> str:
        while node in self._parents:
            node = self._parents[node]
        return node if node in self._prompt else shown

    def _of(self, **data: Any) -> dict[str, Any]:
        return {**data, "prompt_id": self.job}

    def _stamped(self, time: float, **data: Any) -> dict[str, Any]:
        return {**self._of(**data), "timestamp": _milliseconds(time)}

    def _kept(self, type_: str, data: dict[str, Any], audience: Audience = "submitter") -> Message:
        self._history.append((type_, data))
        return Message(type_, data, audience)

    def _to_watchers(self) -> Audience:
        """Who sees how far it is: the submitter, or where nobody said who that is, everybody."""
        return "everyone" if self.client is None else "submitter"

    def _heard(self, messages: Iterable[Message]) -> list[Message]:
        """Without those for a submitter where there is none."""
        return [message for message in messages if self.client is not None or message.audience != "submitter"]


def with_unneeded(prompt: Mapping[str, Any], cached: Sequence[str]) -> list[str]:
    """``cached``, and the nodes before them that nobody else needs: ComfyUI names these too, for it keeps their results as well."""
    sources = {node: _sources(call) for node, call in prompt.items()}
    used = {source for links in sources.values() for source in links}
    needed = _before(sources, [node for node in prompt if node not in used], stop=frozenset(cached))
    before = _before(sources, cached, stop=frozenset())
    return [*cached, *(node for node in prompt if node in before and node not in needed and node not in cached)]


def _sources(call: Any) -> list[str]:
    """The nodes that a node of the prompt is linked to."""
    inputs = call.get("inputs") if isinstance(call, Mapping) else None
    values = inputs.values() if isinstance(inputs, Mapping) else ()
    return [str(value[0]) for value in values if isinstance(value, list | tuple) and len(value) == 2]


def _before(sources: Mapping[str, Sequence[str]], ends: Iterable[str], stop: frozenset[str]) -> set[str]:
    """``ends`` and all they come from; not what the nodes of ``stop`` come from."""
    found: set[str] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found.add(node)
        if node not in stop:
            waiting += sources.get(node, ())
    return found


def _node(event: StoredEvent) -> str:
    return str(event.data["node"])


def _shown(event: StoredEvent) -> str:
    return str(event.data["shown"])


def _milliseconds(time: float) -> int:
    return round(time * 1000)
