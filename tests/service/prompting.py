"""Prompts for tests, and how they are judged against the whole vocabulary."""

from __future__ import annotations

import json
from typing import Any

from engine.files import LocalFiles
from engine.registry import Registry
from engine.service.comfy.refusals import Checked, Refusal, check_prompt


def vocabulary() -> Registry:
    """A registry of its own, with all our nodes."""
    registry = Registry()
    registry.load()
    return registry


REGISTRY = vocabulary()


def image(**inputs: Any) -> dict[str, Any]:
    """A node that needs no other."""
    usual = {"width": 64, "height": 64, "batch_size": 1, "color": 0}
    return {"class_type": "EmptyImage", "inputs": {**usual, **inputs}}


def save(source: Any, **more: Any) -> dict[str, Any]:
    """An output node."""
    return {"class_type": "SaveImage", "inputs": {"images": source, "filename_prefix": "a"}, **more}


def refused(prompt: Any, files: LocalFiles | None = None, registry: Registry = REGISTRY, **more: Any) -> dict[str, Any]:
    """The body of the refusal of a prompt, which JSON can carry."""
    found = check_prompt(prompt, registry, files, **more)
    assert isinstance(found, Refusal), found
    assert found.status == 400
    json.dumps(found.body, allow_nan=False)
    return found.body


def accepted(prompt: Any, files: LocalFiles | None = None, **more: Any) -> Checked:
    """What is kept of a prompt that can run."""
    found = check_prompt(prompt, REGISTRY, files, **more)
    assert isinstance(found, Checked), found
    return found


def split_hints(body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The node errors without our own hints, and those."""
    hints = [error["extra_info"].pop("hint") for node in body.values() for error in node["errors"]]
    return body, hints


def only_error(prompt: Any, node: str, files: LocalFiles | None = None, registry: Registry = REGISTRY) -> Any:
    """The one thing that is wrong with one node, and our hint."""
    errors = refused(prompt, files, registry)["node_errors"][node]["errors"]
    assert len(errors) == 1, errors
    return errors[0], errors[0]["extra_info"].pop("hint")
