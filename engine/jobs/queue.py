"""Who is next: by priority, then fair between clients, then by the weights a worker holds, then first come first served. Pure.

A client's turn comes when fewer of its jobs are running than of the others', and among equals when it was served longest ago. Among its
own jobs those that name models the worker holds go first, unless the client wants them in their order.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from engine.jobs.records import Job

_LOOK_AHEAD: Final = 32
"""How many of a client's jobs are looked at for one whose models are there: what is further back is not let past so many."""
_PASSES: Final = 4
"""How often a job may be overtaken for its models' sake."""


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    number: float
    created: float
    job: str


@dataclass(slots=True)
class Queue:
    """The jobs that wait."""

    _jobs: dict[str, Job] = field(default_factory=dict)
    _lines: dict[int, dict[str, list[_Place]]] = field(default_factory=dict)
    """By priority, by client, in the order of their numbers."""
    _served: dict[str, int] = field(default_factory=dict)
    """When each client was served last, counted in jobs."""
    _turn: int = 0
    _passed: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: object) -> bool:
        return job in self._jobs

    def __iter__(self) -> Iterator[Job]:
        """In the order in which they would be taken if there were no models and one client."""
        places = [
            (-priority, place)
            for priority, clients in self._lines.items()
            for line in clients.values()
            for place in line
        ]
        return (self._jobs[place.job] for _, place in sorted(places))

    def above(self, priority: int) -> int:
        """How many wait that are more urgent."""
        return sum(len(line) for level, clients in self._lines.items() if level > priority for line in clients.values())

    def add(self, job: Job) -> None:
        if job.id in self._jobs:
            return
        self._jobs[job.id] = job
        insort(self._lines.setdefault(job.priority, {}).setdefault(job.client, []), _place(job))

    def remove(self, job: str) -> None:
        known = self._jobs.pop(job, None)
        if known is None:
            return
        self._passed.pop(job, None)
        clients = self._lines[known.priority]
        clients[known.client].remove(_place(known))
        if not clients[known.client]:
            del clients[known.client]
        if not clients:
            del self._lines[known.priority]

    def take(self, held: Collection[str], running: Mapping[str, int]) -> Job | None:
        """The next job for a worker that holds the models ``held``; ``running`` counts each client's running jobs."""
        if not self._lines:
            return None
        clients = self._lines[max(self._lines)]
        front = min((line[0] for line in clients.values()), default=None)
        if front is not None and front.number < 0:  # asked to be before all others
            return self._served_to(self._jobs[front.job])
        fewest = min((running.get(name, 0), self._served.get(name, 0)) for name in clients)
        equals = [name for name in clients if (running.get(name, 0), self._served.get(name, 0)) == fewest]
        heads = sorted(clients[name][0] for name in equals)
        best = next((place for place in heads if self._fits(place, held)), heads[0])
        return self._served_to(self._pick(clients[self._jobs[best.job].client], held))

    def _pick(self, line: list[_Place], held: Collection[str]) -> Job:
        head = self._jobs[line[0].job]
        if head.in_order or not held or self._passed.get(head.id, 0) >= _PASSES:
            return head
        for place in line[:_LOOK_AHEAD]:
            job = self._jobs[place.job]
            if not job.in_order and self._fits(place, held):
                if job.id != head.id:
                    self._passed[head.id] = self._passed.get(head.id, 0) + 1
                return job
        return head

    def _fits(self, place: _Place, held: Collection[str]) -> bool:
        models = self._jobs[place.job].models
        return bool(models) and all(model in held for model in models)

    def _served_to(self, job: Job) -> Job:
        self._turn += 1
        self._served[job.client] = self._turn
        self.remove(job.id)
        if len(self._served) > 10_000:  # clients that have not been here for long are as good as new
            self._served = {name: turn for name, turn in self._served.items() if turn > self._turn - 5_000}
        return job


def _place(job: Job) -> _Place:
    return _Place(job.number, job.created, job.id)
