"""What a class says of its inputs before it is called: IS_CHANGED and VALIDATE_INPUTS."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engine.compat.host import asking
from engine.spec import Check, Fingerprint


def takes_keywords(method: Callable[..., Any]) -> bool:
    """Whether it has a ``**kwargs``."""
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(method).parameters.values())


def run(value: Any) -> Any:
    """``value``, awaited if it has to be, from code that is not async."""
    if not inspect.iscoroutine(value):
        return value
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(value)
    # this thread's event loop is waiting for us
    with ThreadPoolExecutor(1) as elsewhere:
        return elsewhere.submit(asyncio.run, value).result()


def _accepted(cls: Any, method: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``arguments`` that ``method`` has parameters for; the inputs of a class that takes lists are lists here too."""
    names, takes_all = inspect.signature(method).parameters, takes_keywords(method)
    accepted = {name: value for name, value in arguments.items() if takes_all or name in names}
    if not getattr(cls, "INPUT_IS_LIST", False):
        return accepted
    return {name: value if name == "input_types" else [value] for name, value in accepted.items()}


def fingerprint_of(cls: Any) -> Fingerprint | None:
    """IS_CHANGED, called with those of the inputs that it takes. What it raises counts as a change."""
    if not hasattr(cls, "IS_CHANGED"):
        return None

    def fingerprint(**inputs: Any) -> Any:
        try:
            with asking(f"IS_CHANGED of {cls.__name__}"):
                return run(cls.IS_CHANGED(**_accepted(cls, cls.IS_CHANGED, inputs)))
        except (Exception, SystemExit):  # as in ComfyUI: who cannot say whether it changed has changed
            return float("nan")

    return fingerprint


def check_of(cls: Any) -> Check | None:
    """VALIDATE_INPUTS, called with the inputs it names."""
    if not hasattr(cls, "VALIDATE_INPUTS"):
        return None

    def check(**inputs: Any) -> str | None:
        with asking(f"VALIDATE_INPUTS of {cls.__name__}"):
            verdict = run(cls.VALIDATE_INPUTS(**_accepted(cls, cls.VALIDATE_INPUTS, inputs)))
        if verdict is True or verdict is None:
            return None
        return str(verdict) if verdict is not False else "the node's own check says that its inputs are not valid"

    return check


def judged(cls: Any, declared: Mapping[str, Any]) -> tuple[frozenset[str], bool]:
    """The inputs that VALIDATE_INPUTS alone judges, and whether it judges the types of links too."""
    method = getattr(cls, "VALIDATE_INPUTS", None)
    if method is None:
        return frozenset(), False
    parameters = inspect.signature(method).parameters.values()
    names = {parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD}
    if takes_keywords(method):
        names |= {name for group in ("required", "optional") for name in (declared.get(group) or {})}
    return frozenset(names - {"input_types"}), "input_types" in names
