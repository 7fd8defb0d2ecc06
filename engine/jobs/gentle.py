"""Questions to a worker that may stay without an answer: whoever asks waits for so long and no longer, and a run goes on undisturbed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final

from engine.jobs.process import WorkerDied, WorkerProcess
from engine.packs.pack_info import NoAnswer

_HUNG: Final = 60.0
"""Seconds after which a question counts as one that will never be answered."""
_NOBODY: Final = "the worker that has the packs is not there: it starts, or is being replaced; try again in a moment"


@dataclass(frozen=True, slots=True)
class _Question:
    process: WorkerProcess
    answer: Future[Any]
    since: float


_Key = tuple[str, str, str]


class Gentle:
    """Asks the worker that is there, and never starts one.

    A question that was not answered in time is not asked a second time: its answer, when it comes, is that of the next who asks.
    """

    def __init__(self, process: Callable[[], WorkerProcess | None]) -> None:
        """``process`` gives the worker that is there and ready, if there is one."""
        self._process = process
        self._open: dict[_Key, _Question] = {}
        self._lock = threading.Lock()

    def ask(self, what: str, type_: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        """Ask, and wait for up to ``timeout`` seconds. Raises ``NoAnswer``, and ``MezzotintError`` for what goes wrong there."""
        key = _key(what, type_, arguments)
        question = self._question(self._living(), key, arguments)
        left = question.since + timeout - time.monotonic()
        try:
            answer = question.answer.result(max(0.0, left))
        except FutureTimeout:
            self._see_to(question)
            raise NoAnswer(f"{type_ or 'the packs'} did not answer {what} within {timeout:g} s") from None
        except WorkerDied as error:
            self._close(key)
            raise NoAnswer(str(error)) from error
        except BaseException:
            self._close(key)
            raise
        self._close(key)
        return answer

    def ask_all(self, what: str, types: Sequence[str], each: float, total: float) -> dict[str, Any]:
        """Ask all ``types`` at once. Waits until ``each`` seconds have passed without any answer, or ``total`` seconds."""
        try:
            process = self._living()
            questions = {type_: self._question(process, _key(what, type_, {}), {}) for type_ in types}
        except (NoAnswer, WorkerDied) as error:
            return dict.fromkeys(types, NoAnswer(str(error)))
        _wait(questions, each, total)
        found: dict[str, Any] = {}
        for type_, question in questions.items():
            if not question.answer.done():
                self._see_to(question)
                found[type_] = NoAnswer(f"{type_} did not answer {what} in time")
                continue
            self._close(_key(what, type_, {}))
            wrong = question.answer.exception()
            found[type_] = NoAnswer(str(wrong)) if isinstance(wrong, WorkerDied) else wrong or question.answer.result()
        return found

    def _living(self) -> WorkerProcess:
        process = self._process()
        if process is None:
            raise NoAnswer(_NOBODY)
        return process

    def _question(self, process: WorkerProcess, key: _Key, arguments: Mapping[str, Any]) -> _Question:
        """The one that was asked before, if it is still open; else a new one."""
        with self._lock:
            known = self._open.get(key)
            if known is not None and known.process is process:
                return known
            self._forget_old()
            try:
                answer = process.ask(key[0], key[1], arguments)
            except WorkerDied as error:
                raise NoAnswer(str(error)) from error
            self._open[key] = _Question(process, answer, time.monotonic())
            return self._open[key]

    def _close(self, key: _Key) -> None:
        with self._lock:
            self._open.pop(key, None)

    def _forget_old(self) -> None:
        """Drop answers that nobody came back for."""
        before = time.monotonic() - _HUNG
        for key in [key for key, question in self._open.items() if question.answer.done() and question.since < before]:
            del self._open[key]

    def _see_to(self, question: _Question) -> None:
        """End a process that will never answer and has nothing else to do: the threads it answers on are few."""
        if time.monotonic() - question.since > _HUNG and not question.process.is_busy:
            question.process.kill(f"a pack's class did not answer within {_HUNG:g} s, so its process was ended")


def _key(what: str, type_: str, arguments: Mapping[str, Any]) -> _Key:
    return what, type_, json.dumps(arguments, sort_keys=True, default=str)


def _wait(questions: Mapping[str, _Question], each: float, total: float) -> None:
    """Until all are answered, or none was for ``each`` seconds, or ``total`` seconds have passed.

    Those that stood open for longer than ``each`` before are looked at, not waited for.
    """
    now = time.monotonic()
    deadline, patient_until = now + total, now + each
    answered: SimpleQueue[None] = SimpleQueue()
    fresh = [question for question in questions.values() if now - question.since < each]
    for question in fresh:
        question.answer.add_done_callback(lambda _: answered.put(None))
    for _ in fresh:
        left = min(deadline, patient_until) - time.monotonic()
        try:
            answered.get(timeout=max(0.0, left))
        except Empty:
            return
        patient_until = time.monotonic() + each
