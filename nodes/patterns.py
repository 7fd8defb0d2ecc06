"""Regular expressions of a user's own making: what is wrong with one is said, and a search that would never end is ended.

They are the ``re`` module's, matched by ``regex``, which can be given a time limit.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from engine.errors import InputError

SECONDS: Final = 5.0
"""How long one search may take. A sound pattern needs a thousandth of that; a hostile one needs longer than there is."""

_LONGEST: Final = 10_000
_MOST_ELEMENTS: Final = 20_000

_TOKEN: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?#[^)]*\)|\{(?P<times>\d+)(?:,\d*)?\}|.", re.DOTALL)
_VERBOSE: Final = re.compile(r"\(\?[aiLmsu]*x")


class Pattern:
    """A compiled pattern. Errors name the input ``regex_pattern``."""

    def __init__(self, text: str, *, ignore_case: bool = False, multiline: bool = False, dotall: bool = False) -> None:
        import regex

        if len(text) > _LONGEST:
            raise _refused(f"expected a pattern of at most {_LONGEST} characters, found {len(text)}; make it shorter")
        flags = (regex.IGNORECASE, ignore_case), (regex.MULTILINE, multiline), (regex.DOTALL, dotall)
        try:
            _check(text)
            self._compiled: Any = regex.compile(text, sum(flag for flag, is_set in flags if is_set))
        except (re.error, regex.error, RecursionError, OverflowError, ValueError) as error:
            shown = text if len(text) <= 80 else text[:77] + "..."
            raise _refused(
                f"expected a regular expression, found {shown!r} ({error}); write \\ before a character that is meant as it is"
            ) from error

    @property
    def groups(self) -> int:
        """How many groups it captures."""
        return int(self._compiled.groups)

    def search(self, text: str) -> Any:
        """The first match, or None."""
        with _in_time():
            return self._compiled.search(text, timeout=SECONDS)

    def every(self, text: str, group: int) -> list[str]:
        """What ``group`` caught in each match, "" where it caught nothing."""
        with _in_time():
            return [match.group(group) or "" for match in self._compiled.finditer(text, timeout=SECONDS)]

    def replace(self, text: str, template: str, count: int = 0) -> str:
        r"""``text`` with the first ``count`` matches replaced, or all; ``\1`` and ``\g<name>`` in ``template`` are groups."""
        import regex

        try:
            with _in_time():
                return str(self._compiled.sub(template, text, count=count, timeout=SECONDS))
        except (regex.error, IndexError) as error:
            raise InputError(
                f"expected a replacement whose groups the pattern has, found {template!r} ({error}); "
                f"the pattern captures {self.groups}",
                input="replace",
            ) from error


def _check(text: str) -> None:
    """Let through what ``re`` knows: ``regex`` knows more, such as recursion, and writes counted repeats out, whatever that takes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what may mean something else in times to come
        re.compile(text)
    elements = _elements(text)
    if elements > _MOST_ELEMENTS:
        raise ValueError(f"its repeats come to {elements} elements, at most {_MOST_ELEMENTS} are taken")


def _elements(text: str) -> int:
    """How many elements the pattern has once each counted repeat is written out as often as it must match."""
    sums = [0]
    last = 0
    for token in _TOKEN.finditer(text):
        if token["times"] is not None:
            times = max(1, int(token["times"]))
            sums[-1] += last * (times - 1)
            last *= times
        elif token[0] == "(":
            if _VERBOSE.match(text, token.start()):
                raise ValueError("the flag x is not taken")
            sums.append(1)
        else:
            last = sums.pop() if token[0] == ")" and len(sums) > 1 else 1
            sums[-1] += last
    return sum(sums)


@contextmanager
def _in_time() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise _refused(
            f"expected a pattern that is matched within {SECONDS:g} s, found one that was not; "
            "repeats inside repeats such as (a+)+ cause that, write a+ instead"
        ) from error


def _refused(message: str) -> InputError:
    return InputError(message, input="regex_pattern")
